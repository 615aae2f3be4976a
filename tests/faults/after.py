"""Rows of what breaks after the commit, and of streams that are whole though they look odd."""

from __future__ import annotations

import gzip
import json
import zlib

from tests.faults.row import (
    BAD,
    BROKE,
    SECRET,
    SHORT,
    Break,
    Failure,
    Row,
    Whole,
    plain,
    streamed,
)
from tests.rig import scripts as say
from tests.rig.scripts import Close, HalfClose, Pause, Reset, Script, Send, Stall, Step

SEEN = say.EVENTS[:3]
HALF = say.WORDS[2][:25]
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
IDLE = {"idle": SHORT}
MIB = 1 << 20

RESET = Break(BROKE, "upstream_reset")
CUT = Break(BROKE, "upstream_truncated")
GARBLED = Break(BROKE, "bad_framing")
MUTE = Break("timeout", "idle_timeout")
SLOW = Break("timeout", "slow_stream")


def bare(*pieces: bytes, head: bytes = SSE) -> list[Step]:
    """An answer that only the close delimits (or its length, with such a head)."""
    return [Send(head + b"\r\n"), *[Send(piece) for piece in pieces]]


def endings() -> list[Row]:
    middle, chunked = "reset mid-chunk / mid-event", "truncated chunked"
    close, short = "close-delimited body", "Content-Length short"
    sized = SSE + b"Content-Length: 99999\r\n"
    inside = Send(b"ff\r\n" + HALF)
    old = SSE.replace(b"1.1", b"1.0")
    extended = [Send(b"%x;x=y\r\n%s\r\n" % (len(event), event)) for event in say.EVENTS]
    trailed = Send(b"0\r\nX-Trailer: 1\r\n\r\n")
    return [
        streamed(
            "chunks with extensions", chunked, [*say.sse([])[:1], *extended, trailed], Whole()
        ),
        streamed("a trailer", chunked, say.sse(say.EVENTS, trailed), Whole()),
        streamed("HTTP/1.0, whole", close, [*bare(*say.EVENTS, head=old), Close()], Whole()),
        streamed("HTTP/1.0, cut", close, [*bare(*SEEN, head=old), Close()], CUT),
        streamed("reset between events", middle, say.sse(SEEN, Reset()), RESET),
        streamed("reset inside an event", middle, say.sse([*SEEN, HALF], Reset()), RESET),
        streamed("reset inside a chunk", middle, say.sse(SEEN, inside, Reset()), RESET),
        streamed("closed between chunks", chunked, say.sse(SEEN, Close()), CUT),
        streamed("closed inside an event", chunked, say.sse([*SEEN, HALF], Close()), CUT),
        streamed("closed inside a chunk", chunked, say.sse(SEEN, inside, Close()), CUT),
        streamed(
            *("half-closed inside a chunk", "half-close after headers"),
            say.sse(SEEN, inside, HalfClose(), Stall()),
            CUT,
        ),
        streamed("close-delimited, cut between events", close, [*bare(*SEEN), Close()], CUT),
        streamed("close-delimited, cut inside one", close, [*bare(*SEEN, HALF), Close()], CUT),
        streamed("close-delimited, reset", close, [*bare(*SEEN), Reset()], RESET),
        streamed("close-delimited, whole", close, [*bare(*say.EVENTS), Close()], Whole()),
        streamed(
            *("close-delimited, whole but for [DONE]", close),
            [*bare(*say.EVENTS[:-1]), Close()],
            Whole(stream=b"".join(say.EVENTS[:-1]), cause="done_missing"),
        ),
        streamed("a length, cut short", short, [*bare(*SEEN, head=sized), Close()], CUT),
    ]


def unfinished() -> list[Row]:
    line = "missing [DONE], clean end"
    told = [*say.EVENTS[:-1], say.usage_event()]
    return [
        streamed("clean end between events", line, say.sse(SEEN), CUT),
        streamed("clean end inside an event", line, say.sse([*SEEN, HALF]), CUT),
        streamed(
            *("clean end without [DONE]", line, say.sse(say.EVENTS[:-1])),
            Whole(stream=b"".join(say.EVENTS[:-1]), cause="done_missing"),
        ),
        streamed(
            *("clean end after the usage", line, say.sse(told)),
            Whole(stream=b"".join(say.EVENTS[:-1]), cause="done_missing", stream_usage=(9, 12)),
        ),
        streamed(
            *("reset after the finish", line, say.sse(say.EVENTS[:-1], Reset())),
            Whole(stream=b"".join(say.EVENTS[:-1]), cause="done_missing"),
        ),
        streamed("silence after [DONE]", line, say.sse(say.EVENTS, Stall()), Whole()),
        streamed("reset after [DONE]", line, say.sse(say.EVENTS, Reset()), Whole()),
        streamed(
            *("clean end, one of two choices unfinished", line, say.sse([*SEEN, say.FINISH])),
            Break(BROKE, "upstream_truncated", seen=(*SEEN, say.FINISH)),
            fields={"n": 2},
        ),
    ]


def silence() -> list[Row]:
    word = Send(say.frame(say.WORDS[0]))
    comments = [step for _ in range(20) for step in (Send(say.frame(b": ping\n\n")), Pause(0.05))]
    bytewise = [step for _ in range(20) for step in (Send(say.frame(b"x")), Pause(0.05))]
    endless = [step for _ in range(100) for step in (word, Pause(0.02))]
    slow = [step for item in say.EVENTS for step in (Send(say.frame(item)), Pause(0.1))]
    return [
        streamed(
            "silence mid-stream", "stall mid-stream", say.sse(SEEN, Stall()), MUTE, timeouts=IDLE
        ),
        streamed(
            *("silence inside an event", "stall mid-stream", say.sse([*SEEN, HALF], Stall()), MUTE),
            timeouts=IDLE,
        ),
        streamed(
            *(
                "a trickle of comments mid-stream",
                "slow trickle",
                say.sse(SEEN, *comments, Stall()),
            ),
            SLOW,
            timeouts=IDLE,
        ),
        streamed(
            *("a trickle of bytes mid-stream", "slow trickle"),
            say.sse([*SEEN, b"data: "], *bytewise, Stall()),
            SLOW,
            timeouts=IDLE,
        ),
        streamed(
            *("a stream past its total time", "slow trickle"),
            [Send(say.SSE_HEAD), *endless, Stall()],
            Break("timeout", "total_timeout", seen=(say.WORDS[0],)),
            timeouts={"total": "500ms"},
        ),
        streamed(
            *("slow, but an event within each idle time", "slow trickle"),
            [Send(say.SSE_HEAD), *slow, Send(say.LAST_CHUNK)],
            Whole(),
            timeouts={"idle": "1s"},
        ),
    ]


def garbled() -> list[Row]:
    chunk, sse = "invalid chunk size", "invalid SSE / UTF-8"
    strange: dict[str, bytes] = {
        "bad JSON in an event": b"data: {not json\n\n",
        "invalid UTF-8 in an event": b'data: {"choices":[{"delta":{"content":"\xff\xfe"}}]}\n\n',
        "an event without data": b"event: ping\nid: 7\n\n",
        "JSON of something else": b'data: [1, 2, {"choices": 5}]\n\n',
        "a number as JSON": b"data: 17\n\n",
        "an event in CRLF": say.WORDS[1].replace(b"\n", b"\r\n"),
    }
    rows = []
    for name, event in strange.items():
        events = [*SEEN, event, *say.EVENTS[3:]]
        rows.append(streamed(name, sse, say.sse(events), Whole(stream=b"".join(events))))
    return [
        *rows,
        *(
            streamed(
                f"chunk size {size!r} mid-stream",
                chunk,
                say.sse(SEEN, Send(size + b"\r\nhello\r\n"), Stall()),
                GARBLED,
            )
            for size in (b"-5", b"zz", b"5 5")
        ),
        streamed(
            *("a chunk longer than its size", chunk),
            say.sse(SEEN, Send(b"2\r\nhello\r\n"), Stall()),
            GARBLED,
        ),
    ]


def giants() -> list[Row]:
    giant = "giant line / event"
    large = say.delta({"content": "y" * (4 * MIB)})
    endless = [Send(say.frame(b"x" * MIB))] * 18
    return [
        streamed(
            *("an event of 4 MiB", giant, say.sse([*SEEN, large, *say.EVENTS[3:]])),
            Whole(stream=b"".join([*SEEN, large, *say.EVENTS[3:]])),
        ),
        streamed(
            *("an event without end", giant, say.sse([*SEEN, b"data: "], *endless, Stall())),
            Break(BROKE, "line_too_long"),
        ),
        streamed(
            *("a first event without end", giant, say.sse([b"data: "], *endless, Stall())),
            Failure(502, BAD, "line_too_long"),
        ),
        streamed(
            *("comments of 18 MiB before the first token", giant),
            say.sse([], *[Send(say.frame(b":" + b"x" * MIB + b"\n\n"))] * 18, Stall()),
            Failure(502, BAD, "line_too_long"),
        ),
    ]


def coded() -> list[Row]:
    line = "gzip body despite identity"
    zipped = gzip.compress(b"".join(say.EVENTS))
    head = Send(SSE + b"Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n")
    compressor = zlib.compressobj(wbits=31)
    first = compressor.compress(b"".join(SEEN)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    # The pause: what is told together is judged together, before the commit.
    begun: Script = [head, Send(say.frame(first)), Pause(0.2)]
    return [
        streamed(
            *("gzip, reset after the first events", line),
            [*begun, Reset()],
            RESET,
        ),
        streamed(
            *("gzip, its end missing", line),
            [*begun, Send(say.LAST_CHUNK)],
            Break(BROKE, "encoded"),
        ),
        streamed(
            *("gzip, garbled after the first events", line),
            [*begun, Send(say.frame(zipped)), Stall()],
            Break(BROKE, "encoded"),
        ),
    ]


def told() -> list[Row]:
    """The upstream's own error event is the one error event, scrubbed."""
    line = "error event after the commit"

    def failed(code: object, words: str = "CUDA out of memory") -> bytes:
        return say.event({"error": {"message": words, "type": "x", "code": code}})

    said = Break("oom", "error_event", message="CUDA out of memory")
    usage = say.delta({"content": "x"}, usage={"prompt_tokens": 7, "completion_tokens": 3})
    return [
        streamed("error event mid-stream", line, say.sse([*SEEN, failed("oom")]), said),
        streamed(
            *("error event that quotes our key", line),
            say.sse([*SEEN, failed("oom", f"CUDA out of memory for {SECRET}")]),
            said,
        ),
        streamed(
            *("error event, then [DONE]", line, say.sse([*SEEN, failed("oom"), say.DONE])), said
        ),
        streamed(
            *("error event, then more words", line),
            say.sse([*SEEN, failed("oom"), *say.EVENTS[3:]]),
            said,
        ),
        streamed(
            *("reset after a running usage", "reset mid-chunk / mid-event"),
            say.sse([*SEEN, usage], Reset()),
            Break(
                *(BROKE, "upstream_reset"),
                seen=(*SEEN, usage),
                source="continuous",
                tokens=(7, 3),
            ),
        ),
    ]


def large() -> list[Row]:
    """A plain answer of more than 1 MiB goes on as it comes: broken, it stays broken."""
    whole = json.dumps(say.completion("z" * (3 * MIB))).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    sized = head + b"Content-Length: %d\r\n\r\n" % len(whole)
    part = whole[: 2 * MIB]
    line = "Content-Length short"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    cut = Break("", "upstream_truncated", seen=(part,))
    reset = Break("", "upstream_reset", seen=(part,))
    return [
        plain("3 MiB, whole", line, [Send(sized + whole)], Whole(plain=whole)),
        plain("3 MiB, closed after 2", line, [Send(sized + part), Close()], cut),
        plain("3 MiB, reset after 2", line, [Send(sized + part), Pause(0.2), Reset()], reset),
        plain(
            *("3 MiB in chunks, closed after 2", "truncated chunked"),
            [Send(chunked + say.frame(part)), Close()],
            cut,
        ),
        plain(
            *("3 MiB in chunks, a bad one after 2", "invalid chunk size"),
            [Send(chunked + say.frame(part)), Pause(0.2), Send(b"zz\r\n"), Stall()],
            Break("", "bad_framing", seen=(part,)),
        ),
        plain(
            *("3 MiB, silent after 2", "stall mid-stream"),
            [Send(sized + part), Stall()],
            Break("", "idle_timeout", seen=(part,)),
            timeouts=IDLE,
        ),
    ]


def rows() -> list[Row]:
    return [
        *endings(),
        *unfinished(),
        *silence(),
        *garbled(),
        *giants(),
        *coded(),
        *told(),
        *large(),
    ]
