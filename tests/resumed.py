"""A stream that breaks off, what a successor makes of the rest of it, and what a client reads in both."""

from __future__ import annotations

import json
from typing import Any

from tests.rig import scripts as say
from tests.rig.relay_process import Fields

PREFIX: Fields = {"resume": "deepseek-prefix"}
FIRST = say.SSE_HEAD + b"".join(map(say.frame, (say.ROLE, *say.WORDS[:2])))
"""The beginning of an answer, which is cut off there."""


def second(*events: bytes, id: str = "chatcmpl-2", created: int = 1700000099) -> bytes:
    """A whole stream of the successor, under an id of its own."""
    body = b"".join(events).replace(b"chatcmpl-1", id.encode())
    body = body.replace(b"1700000000", b"%d" % created)
    return say.SSE_HEAD + say.frame(body) + say.LAST_CHUNK


REST = second(say.ROLE, *say.WORDS[2:], say.FINISH, say.usage_event(), say.DONE)


def chunks(body: bytes) -> list[dict[str, Any]]:
    """The JSON of every event but `[DONE]`."""
    events = [e for e in body.split(b"\n\n") if e.startswith(b"data: {")]
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


def text_of(body: bytes) -> str:
    return "".join(
        choice["delta"].get("content") or ""
        for chunk in chunks(body)
        for choice in chunk["choices"]
    )
