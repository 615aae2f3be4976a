"""Rows of what breaks before the commit: connections that end, framing that is none, silence."""

from __future__ import annotations

import gzip
import json
import zlib

from tests.faults.row import (
    BAD,
    DOWN,
    SHORT,
    Failure,
    Must,
    Row,
    Whole,
    both,
    in_turn,
    plain,
    streamed,
)
from tests.rig import scripts as say
from tests.rig.scripts import Close, HalfClose, Pause, Reset, Script, Send, Stall

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
BODY = json.dumps(say.completion()).encode()


def said(data: bytes) -> Script:
    """It says so, and waits on: the close must be the relay's."""
    return [Send(data), Stall()]


COMMENT = Send(say.frame(b": keep-alive\n\n"))
PATIENCE = {"first_token": SHORT, "answer": SHORT}


def endings() -> list[Row]:
    """The connection goes."""
    head, body = "reset/close before headers", "reset/close after headers, before body"
    unread = Failure(502, DOWN, "reset_before_headers")
    begun = Failure(502, BAD, "reset_before_first_event")
    cut = Failure(502, BAD, "upstream_truncated")
    half_head = Send(b"HTTP/1.1 200 OK\r\nContent-Ty")
    long = Send(JSON + b"Content-Length: 9999\r\n\r\n")
    rows: list[Row] = []
    for name, end in (("reset", Reset()), ("closed", Close())):
        rows += [
            both(f"{name} before the head", head, [end], unread),
            both(f"{name} inside the head", head, [half_head, end], unread),
            streamed(f"{name} after the head", body, [Send(say.SSE_HEAD), end], begun),
            plain(f"{name} after the head of a plain answer", body, [long, end], begun),
            streamed(f"{name} after the role", body, say.sse([say.ROLE], end), begun),
            streamed(
                f"{name} inside the first event", body, say.sse([say.WORDS[0][:30]], end), begun
            ),
            plain(
                f"{name} inside a plain answer",
                "Content-Length short",
                [long, Send(BODY), end],
                cut,
            ),
            plain(
                *(f"{name} inside a chunk of a plain answer", "truncated chunked"),
                [Send(JSON + CHUNKED + b"\r\nffff\r\n" + BODY), end],
                cut,
            ),
        ]
    return rows


def unfinished() -> list[Row]:
    """The answer stops short, or only looks as if it did."""
    body = "reset/close after headers, before body"
    begun = Failure(502, BAD, "reset_before_first_event")
    cut = Failure(502, BAD, "upstream_truncated")
    whole: Script = [Send(JSON + b"\r\n" + BODY), Close()]
    half: Script = [Send(JSON + b"\r\n" + BODY), HalfClose(), Stall()]
    return [
        plain(
            *("plain answer without its last chunk", "truncated chunked"),
            [Send(JSON + CHUNKED + b"\r\n" + say.frame(BODY)), Close()],
            cut,
        ),
        plain(
            *("close-delimited plain answer, cut", "close-delimited body"),
            [Send(JSON + b"\r\n" + BODY[:-9]), Close()],
            cut,
        ),
        plain("close-delimited plain answer, whole", "close-delimited body", whole, Whole()),
        plain("half-closed after a plain answer", "half-close after headers", half, Whole()),
        both(
            *("half-closed after the head", "half-close after headers"),
            [Send(JSON + b"Content-Length: 999\r\n\r\n"), HalfClose(), Stall()],
            begun,
        ),
        streamed("a stream without events", body, say.sse([]), cut),
        streamed("only comments, then the end", body, say.sse([b": hi\n\n"] * 3), cut),
        streamed("the role, then the end", body, say.sse([say.ROLE]), cut),
        streamed("half an event, then the end", body, say.sse([say.WORDS[0][:30]]), cut),
    ]


def framing() -> list[Row]:
    """What is no HTTP answer."""
    chunk, head = "invalid chunk size", "oversized response headers"
    bad = Failure(502, BAD, "bad_framing")
    length = b"Content-Length: 3\r\n"

    rows = [
        Row(
            name=f"chunk size {size!r}",
            group=chunk,
            stream=said(SSE + CHUNKED + b"\r\n" + size + b"\r\nx\r\n"),
            plain=said(JSON + CHUNKED + b"\r\n" + size + b"\r\nx\r\n"),
            must=bad,
        )
        for size in (b"zz", b"-5", b"0x5", b"", b"FFFFFFFFFFFFFFFFF")
    ]
    heads = {
        "two lengths": (JSON + length + b"Content-Length: 4\r\n\r\n{}  ", "dup CL / CL+TE"),
        "length and chunked": (JSON + length + CHUNKED + b"\r\n0\r\n\r\n", "dup CL / CL+TE"),
        "two codings": (JSON + CHUNKED + CHUNKED + b"\r\n0\r\n\r\n", "dup CL / CL+TE"),
        "coding gzip, chunked": (
            JSON + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
            "dup CL / CL+TE",
        ),
        "length -1": (JSON + b"Content-Length: -1\r\n\r\n", "dup CL / CL+TE"),
        "length 1_0": (JSON + b"Content-Length: 1_0\r\n\r\n{}        ", "dup CL / CL+TE"),
        "a head line of 256 KiB": (JSON + b"X-Big: " + b"a" * (1 << 18) + b"\r\n\r\n", head),
        "a head of 4,000 lines": (JSON + b"X-Many: a\r\n" * 4000 + b"\r\n", head),
        "a head that does not end": (JSON + b"X-Long: " + b"a" * (1 << 17), head),
        "a NUL in the head": (JSON + b"X: \x00\r\n\r\n", head),
        "a folded head line": (JSON + b"X: a\r\n folded\r\n\r\n", head),
        "no HTTP at all": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", head),
        "HTTP/2.0": (b"HTTP/2.0 200 OK\r\n\r\n", head),
        "status 99": (b"HTTP/1.1 99 X\r\n\r\n", head),
    }
    return [*rows, *(both(name, group, said(data), bad) for name, (data, group) in heads.items())]


def interim() -> list[Row]:
    """Heads before the head."""
    bad = Failure(502, BAD, "bad_framing")
    rows = []
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    heads = {
        "100 Continue": b"HTTP/1.1 100 Continue\r\n\r\n",
        "103 once": early,
        "103 sixteen times": early * 16,
    }
    for name, data in heads.items():
        rows.append(streamed(name, "1xx", [Send(data), *say.sse(say.EVENTS)], Whole()))
        rows.append(plain(name, "1xx", [Send(data), *say.plain(200, say.completion())], Whole()))
    return [
        *rows,
        both("103 seventeen times", "1xx", said(early * 17), bad),
        both("101 Switching", "1xx", said(b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\n\r\n"), bad),
    ]


def silence() -> list[Row]:
    line = "stall before headers / first token"
    mute = Failure(504, "timeout", "first_token_timeout", tries=1)
    blank = Send(say.frame(b"\n\n"))
    trickle = [step for _ in range(30) for step in (COMMENT, Pause(0.05))]
    bytewise = [step for at in range(60) for step in (Send(BODY[at : at + 1]), Pause(0.05))]
    plays: dict[str, tuple[str, Script | None, Script | None]] = {
        "silence before the head": (line, [Stall()], [Stall()]),
        "silence after the head": (
            line,
            [Send(say.SSE_HEAD), Stall()],
            [Send(JSON + b"Content-Length: 99\r\n\r\n"), Stall()],
        ),
        "silence after comments": (line, [Send(say.SSE_HEAD), *[COMMENT] * 3, Stall()], None),
        "silence after the role": (line, say.sse([say.ROLE], Stall()), None),
        "silence inside the first event": (line, say.sse([say.WORDS[0][:30]], Stall()), None),
        "silence after blank lines": (line, None, [Send(JSON + CHUNKED + b"\r\n"), blank, Stall()]),
        "a trickle of comments": ("slow trickle", [Send(say.SSE_HEAD), *trickle, Stall()], None),
        "a trickle of bytes": (
            "slow trickle",
            None,
            [Send(JSON + b"Content-Length: 99\r\n\r\n"), *bytewise, Stall()],
        ),
    }
    return [
        Row(name=name, group=group, stream=stream, plain=whole, must=mute, timeouts=PATIENCE)
        for name, (group, stream, whole) in plays.items()
    ]


def coded() -> list[Row]:
    """Compressed, although identity was asked for."""
    line = "gzip body despite identity"
    events = b"".join(say.EVENTS)
    zipped = gzip.compress(events)

    def stream(coding: bytes, *pieces: bytes, end: bytes = say.LAST_CHUNK) -> Script:
        head = Send(SSE + CHUNKED + b"Content-Encoding: " + coding + b"\r\n\r\n")
        return [head, *[Send(say.frame(piece)) for piece in pieces], Send(end)]

    def answer(coding: bytes, body: bytes) -> Script:
        return say.plain(200, body, headers=b"Content-Encoding: " + coding + b"\r\n")

    pieces = [zipped[at : at + 7] for at in range(0, len(zipped), 7)]
    bomb = gzip.compress(b"{" + b" " * (64 << 20))
    unread, cut = Failure(502, BAD, "encoded"), Failure(502, BAD, "upstream_truncated")
    plays: dict[str, tuple[Script, Script, Must]] = {
        "gzip": (stream(b"gzip", *pieces), answer(b"gzip", gzip.compress(BODY)), Whole()),
        "deflate": (
            stream(b"deflate", zlib.compress(events)),
            answer(b"deflate", zlib.compress(BODY)),
            Whole(),
        ),
        "gzip, cut short": (
            stream(b"gzip", gzip.compress(say.ROLE)[:-4]),
            answer(b"gzip", gzip.compress(BODY)[:-4]),
            cut,
        ),
        "gzip that is none": (stream(b"gzip", events), answer(b"gzip", BODY), unread),
        "br": (stream(b"br", events), answer(b"br", BODY), unread),
    }
    return [
        *(
            Row(name=name, group=line, stream=streamed_, plain=whole, must=must)
            for name, (streamed_, whole, must) in plays.items()
        ),
        plain("gzip of 64 MiB", line, answer(b"gzip", bomb), unread),
    ]


def kept() -> list[Row]:
    """Kept connections: what happens between two calls."""
    line = "the same on a reused connection"
    good = say.plain(200, say.completion())
    stale = Whole(before=("stale_conn",))
    rows = []
    for name, end in (("reset", Reset()), ("closed", Close())):
        rows += [
            plain(
                *(f"a kept connection {name} under the request", line, in_turn(good, [end], good)),
                stale,
                calls=2,
            ),
            streamed(
                *(f"a kept connection {name} under the request", line),
                in_turn(say.sse(say.EVENTS), [end], say.sse(say.EVENTS)),
                stale,
                calls=2,
            ),
            plain(
                *(f"a kept connection {name} while idle", line, in_turn([*good, end], good)),
                Whole(),
                calls=2,
            ),
        ]
    slow: Script = [Pause(0.15), *good]
    return [
        *rows,
        plain(
            *("a connection past its age", "DNS change", in_turn(slow, good), Whole()),
            calls=2,
            connections={"max_age": "100ms"},
        ),
        plain(
            *("bytes on an idle connection", line),
            in_turn([*good, Send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")], good),
            Whole(),
            calls=2,
        ),
    ]


def rows() -> list[Row]:
    return [*endings(), *unfinished(), *framing(), *interim(), *silence(), *coded(), *kept()]
