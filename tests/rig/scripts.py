"""What a scripted upstream says: steps, and the pieces that good and bad answers are made of.

A script is a sequence of steps. One that ends without `Close`, `Reset` or `Stall` leaves the
connection open for the next request, so a script that breaks framing must end with one of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

# --- steps ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Writes these bytes in one write."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Flood:
    """Writes the same bytes again and again, as fast as the peer reads."""

    data: bytes
    times: int


@dataclass(frozen=True, slots=True)
class Gate:
    """Waits until the test opens this gate of the exchange."""

    name: str


@dataclass(frozen=True, slots=True)
class Pause:
    """The model thinks: seconds, cut short when the peer leaves."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Do:
    """Calls a function: all before it was written."""

    action: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Reset:
    """Ends the connection with an RST."""


@dataclass(frozen=True, slots=True)
class Close:
    """Ends the connection with a FIN after what was written."""


@dataclass(frozen=True, slots=True)
class HalfClose:
    """Sends a FIN and keeps reading."""


@dataclass(frozen=True, slots=True)
class Stall:
    """Says nothing more until the peer leaves."""


Step = Send | Flood | Gate | Pause | Do | Reset | Close | HalfClose | Stall
Script = Sequence[Step]

# --- bytes ------------------------------------------------------------------------------------

SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}


def event(payload: object) -> bytes:
    """One server-sent event with this JSON."""
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


def delta(
    fields: dict[str, Any], *, finish: str | None = None, index: int = 0, **more: object
) -> bytes:
    """One chunk of a streamed completion."""
    choice = {"index": index, "delta": fields, "finish_reason": finish}
    return event(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1700000000,
            "model": "m",
            "choices": [choice],
            **more,
        }
    )


def usage_event(usage: dict[str, Any] | None = None) -> bytes:
    """The chunk without choices that tells the usage."""
    return event(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1700000000,
            "model": "m",
            "choices": [],
            "usage": usage or USAGE,
        }
    )


ROLE = delta({"role": "assistant", "content": ""})
WORDS = tuple(delta({"content": word}) for word in ("Hel", "lo, ", "wörld", " 你好"))
FINISH = delta({}, finish="stop")
EVENTS = (ROLE, *WORDS, FINISH, DONE)
TEXT = "Hello, wörld 你好"


def frame(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def sse(events: Iterable[bytes], *end: Step) -> list[Step]:
    """A streamed answer: head, one chunk per event, then `end` (the last chunk by default)."""
    steps: list[Step] = [Send(SSE_HEAD)]
    steps += [Send(frame(item)) for item in events]
    return [*steps, *(end or (Send(LAST_CHUNK),))]


def plain(
    status: int,
    payload: object,
    *,
    headers: bytes = b"",
    content_type: bytes = b"application/json",
) -> list[Step]:
    """A whole answer with a content length. `payload` is JSON unless it is bytes."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    head = b"HTTP/1.1 %d X\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n"
    return [Send(head % (status, content_type, len(body), headers) + body)]


def error(
    status: int,
    message: str = "upstream says no",
    *,
    type: str = "server_error",
    code: str | None = None,
    headers: bytes = b"",
) -> list[Step]:
    """An error answer in OpenAI's shape."""
    inner = {"message": message, "type": type, "param": None, "code": code}
    return plain(status, {"error": inner}, headers=headers)


def completion(text: str = TEXT, **more: object) -> dict[str, Any]:
    """A whole completion, as a plain call gets it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
        **more,
    }
