"""Any stream an upstream could send, how it could travel, and what a client must get of it.

The oracle reads what was *meant*, never bytes: each `Said` knows its kind when it is made, so it shares no code
with what it judges.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from hypothesis import strategies as st

Kind = Literal["comment", "role", "text", "junk", "null", "finish", "usage", "error", "done"]

COMMITS = ("text", "junk", "null", "finish", "done")
TRICKY = (
    '"usage"',
    '"error"',
    "[DONE]",
    "data: [DONE]\n\n",
    '"usage":null',
    "\r\n\r\n",
    "0\r\n\r\n",
)
"""Words of a model that look like something else."""

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


@dataclass(frozen=True)
class Said:
    """One event of an upstream."""

    kind: Kind
    raw: bytes
    """As it stands on the wire, with its blank line."""
    shown: bytes
    """The same for a client that did not ask for usage."""
    index: tuple[int, ...] = ()
    """The choices that it finishes."""
    usage: tuple[int, int] | None = None


@dataclass(frozen=True, repr=False)
class Travel:
    """The answer on the wire: pieces, each with the bytes of the body that are known once it is here."""

    pieces: tuple[tuple[bytes, int], ...]
    transfer: Literal["whole", "cut", "close", "reset"]
    """How it ends: by its framing; by a FIN inside it; by a FIN, as announced; by an RST."""

    @property
    def wire(self) -> bytes:
        return b"".join(piece for piece, _ in self.pieces)

    def __repr__(self) -> str:
        return f"{self.transfer} {self.wire!r}"

    def known(self, size: int) -> int:
        """Bytes of the body within the first `size` bytes of the wire."""
        found = 0
        for piece, payload in self.pieces:
            if payload == len(piece):
                found += min(payload, max(size, 0))
            elif size >= len(piece):
                found += payload
            size -= len(piece)
        return found


# --- events ---------------------------------------------------------------------------------------


def _chunk(choices: list[dict[str, Any]], **more: object) -> dict[str, Any]:
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"} | {
        "choices": choices,
        **more,
    }


def _choice(index: int, finish: str | None = None, **delta: object) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish}


def _event(payload: str, form: str, end: str) -> bytes:
    """One event around a JSON text. `end` is the stream's line end."""
    match form:
        case "tight":
            lines = ["data:" + payload]
        case "named":
            lines = ["event: message", "data: " + payload]
        case "commented":
            lines = ["data: " + payload, ": between"]
        case "folded":
            # The only newline that JSON allows is between its tokens.
            at = payload.find(',"') + 1
            lines = (
                ["data: " + payload[:at], "data: " + payload[at:]] if at else ["data: " + payload]
            )
        case _:
            lines = ["data: " + payload]
    return (end.join(lines) + end + end).encode()


_words = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(TRICKY),
    st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x4E20), min_size=1, max_size=4),
)
_forms = st.sampled_from(("plain", "plain", "plain", "tight", "named", "commented", "folded"))
_numbers = st.integers(0, 9999)


@st.composite
def said(draw: st.DrawFn, n: int, end: str, kinds: Sequence[Kind]) -> Said:
    """One event of one of these kinds for a call with `n` choices."""
    kind = draw(st.sampled_from(kinds))
    form = draw(_forms)
    index = draw(st.integers(0, n - 1))
    ascii_only = draw(st.booleans())

    def dump(value: object) -> str:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=ascii_only)

    def same(payload: str, **facts: Any) -> Said:
        raw = _event(payload, form, end)
        return Said(kind, raw, raw, **facts)

    match kind:
        case "comment":
            raw = draw(st.sampled_from((f": keep-alive{end}{end}", f":{end}{end}"))).encode()
            return Said(kind, raw, raw)
        case "role":
            return same(dump(_chunk([_choice(index, role="assistant", content="")])))
        case "text":
            text = draw(_words) or "x"
            field = draw(st.sampled_from(("content", "reasoning_content", "refusal")))
            return same(dump(_chunk([_choice(index, **{field: text})])))
        case "junk":
            return same(draw(st.sampled_from(("not json", "{", '{"a":', "{]}"))))
        case "null":
            payload = dump(_chunk([_choice(index, content="y" + draw(_words))]))
            member = draw(st.sampled_from((',"usage":null', ', "usage" : null', ',"usage": null')))
            return Said(
                kind,
                _event(payload[:-1] + member + "}", "plain", end),
                _event(payload, "plain", end),
            )
        case "finish":
            both = n > 1 and draw(st.booleans())
            indexes = tuple(range(n)) if both else (index,)
            reason = draw(st.sampled_from(("stop", "length", "tool_calls")))
            return same(dump(_chunk([_choice(i, reason) for i in indexes])), index=indexes)
        case "usage":
            told = (draw(_numbers), draw(_numbers))
            usage = {"prompt_tokens": told[0], "completion_tokens": told[1]}
            usage["total_tokens"] = sum(told)
            raw = _event(dump(_chunk([], usage=usage)), form, end)
            return Said(kind, raw, b"", usage=told)
        case "error":
            inner = {"message": "boom", "type": "server_error", "param": None, "code": "cuda"}
            return same(dump({"error": inner}))
        case "done":
            return Said(kind, _event("[DONE]", "plain", end), _event("[DONE]", "plain", end))


ANY: tuple[Kind, ...] = (
    "comment",
    "role",
    "text",
    "text",
    "text",
    "junk",
    "null",
    "usage",
    "finish",
)


@st.composite
def bodies(draw: st.DrawFn, n: int) -> tuple[list[Said], bytes]:
    """The events of a stream and what is left of one that never got whole."""
    end = draw(st.sampled_from(("\n", "\n", "\r\n", "\r")))
    events = draw(st.lists(said(n, end, ANY), max_size=7))
    tail = draw(st.sampled_from(("model", "model", "error", "none", "late error")))
    if tail == "model":
        finishes = [draw(said(n, end, ["finish"])) for _ in range(draw(st.integers(0, n)))]
        events += finishes + draw(st.lists(said(n, end, ["usage"]), max_size=1))
        events.append(draw(said(n, end, ["done"])))
    elif tail == "error":
        events.append(draw(said(n, end, ["error"])))
        events += draw(st.lists(said(n, end, ["done", "text"]), max_size=2))
    elif tail == "late error":
        events += [draw(said(n, end, ["done"])), draw(said(n, end, ["error"]))]
    rest = draw(st.sampled_from((b"", b"", b"data: {", b"da", 'data: {"x":"你'.encode()[:-1])))
    return events, rest


# --- travel ---------------------------------------------------------------------------------------


@st.composite
def travels(draw: st.DrawFn, body: bytes) -> Travel:
    """How a body could be framed, and where its transfer could end."""
    framing = draw(st.sampled_from(("chunked", "chunked", "chunked", "length", "close", "gzip")))
    if framing == "close":
        transfer: Any = draw(st.sampled_from(("close", "reset")))
        return Travel(((SSE + b"\r\n", 0), (body, len(body))), transfer)
    if framing == "length":
        transfer = draw(st.sampled_from(("whole", "cut", "reset")))
        length = len(body) + (0 if transfer == "whole" else 1 + draw(st.integers(0, 9)))
        head = SSE + b"Content-Length: %d\r\n\r\n" % length
        return Travel(((head, 0), (body, len(body))), transfer)
    transfer = draw(st.sampled_from(("whole", "whole", "cut", "reset")))
    head = SSE + b"Transfer-Encoding: chunked\r\n"
    opaque = False
    if framing == "gzip":
        # Any of its bytes tells any of the events: only the end is compared.
        body, opaque, transfer = gzip.compress(body), True, "whole"
        head += b"Content-Encoding: gzip\r\n"
    pieces: list[tuple[bytes, int]] = [(head + b"\r\n", 0)]
    for part in draw(_parts(body)):
        line = draw(st.sampled_from((b"%x", b"%x", b"%x", b"%X", b"0%x", b"%x;name=value")))
        pieces += [
            (line % len(part) + b"\r\n", 0),
            (part, 0 if opaque else len(part)),
            (b"\r\n", 0),
        ]
    if transfer == "whole":
        trailer = draw(st.sampled_from((b"", b"", b"X-Trailer: 1\r\n")))
        pieces.append((b"0\r\n" + trailer + b"\r\n", 0))
    return Travel(tuple(pieces), transfer)


@st.composite
def _parts(draw: st.DrawFn, body: bytes) -> list[bytes]:
    """The body in chunks: one an event as servers do, or anywhere."""
    if draw(st.booleans()):
        cuts = [at + 2 for at in range(len(body)) if body[at : at + 2] in (b"\n\n", b"\r\r")]
    else:
        cuts = draw(st.lists(st.integers(0, len(body)), max_size=8))
    return cut(body, cuts)


def cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    """The data in pieces, none empty."""
    edges = [0, *sorted(at), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


def steps(size: int) -> st.SearchStrategy[list[int]]:
    """Where data of this size could be cut on its way: nowhere, in equal steps, or anywhere."""
    equal = st.sampled_from((1, 2, 3, 64)).map(lambda step: list(range(step, size, step)))
    return st.one_of(st.just([]), st.lists(st.integers(0, size), max_size=12), equal)


# --- what the client must get ---------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """What becomes of a stream. `shown` are the events in front of the end."""

    committed: bool
    shown: tuple[bytes, ...]
    end: Literal["clean", "error"]
    cause: str
    """Of the record; "" where it has none."""
    usage: tuple[int, int] | None


def expected(events: Sequence[Said], n: int, *, asked: bool, transfer: str) -> Expected:
    """The oracle. `asked`: the client wants the usage; `transfer` as in `Travel`."""
    shown: list[bytes] = []
    committed = False
    finished: set[int] = set()
    usage: tuple[int, int] | None = None
    for event in events:
        if event.kind == "error":
            return Expected(committed, tuple(shown), "error", "error_event", usage)
        if event.kind == "comment" and not committed:
            continue
        committed = committed or event.kind in COMMITS
        usage = event.usage or usage
        finished.update(event.index)
        text = event.raw if asked else event.shown
        if text:
            shown.append(text)
        if event.kind == "done":
            return Expected(True, tuple(shown), "clean", "done", usage)
    if committed and (usage is not None or finished == set(range(n))):
        return Expected(True, tuple(shown), "clean", "done_missing", usage)
    cause = "upstream_reset" if transfer == "reset" else "upstream_truncated"
    return Expected(committed, tuple(shown), "error", cause, usage)


def so_far(events: Sequence[Said], size: int, *, asked: bool) -> tuple[bytes, ...] | None:
    """What must have reached the client when `size` bytes of the body are known; None before the commit."""
    whole: list[Said] = []
    for event in events:
        size -= len(event.raw)
        if size < 0:
            break
        whole.append(event)
    known = expected(whole, 1, asked=asked, transfer="")
    return known.shown if known.committed else None


# --- what the client got --------------------------------------------------------------------------

BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r")


def split(body: bytes) -> list[bytes]:
    """The events of a client's body, which never ends inside one."""
    events, at = [], 0
    for match in BLANK_LINE.finditer(body):
        events.append(body[at : match.end()])
        at = match.end()
    assert at == len(body), f"half an event: {body[at:]!r}"
    return events


def data(event: bytes) -> object:
    return json.loads(event.partition(b"data:")[2])
