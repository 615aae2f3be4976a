"""A configured text as an ordinary chat completion: the last step of a degradation plan.

Streamed it is a role delta, the text in a few pieces, a `finish_reason` and `[DONE]`, so that no client can tell it
from a model; the header `x-relay-fallback: static` and the record can.
"""

from __future__ import annotations

from typing import Final

import msgspec

from relay import replies
from relay.call import Call
from relay.chatbody import ChatBody

PIECE: Final = 24
"""Characters a delta."""

_encode = msgspec.json.Encoder().encode


def _pieces(text: str) -> list[str]:
    return [text[at : at + PIECE] for at in range(0, len(text), PIECE)]


def static_stream(text: str, chat: ChatBody, request_id: str, created: int) -> tuple[bytes, int]:
    """The events of the answer, and how many there are."""
    common = {
        "id": "chatcmpl-" + request_id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": chat.model,
    }

    def chunk(delta: dict[str, str], finish: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b"data: " + _encode({**common, "choices": [choice]}) + b"\n\n"

    events = [chunk({"role": "assistant", "content": ""}, None)]
    events += [chunk({"content": piece}, None) for piece in _pieces(text)]
    events.append(chunk({}, "stop"))
    if chat.include_usage:
        usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        events.append(b"data: " + _encode({**common, "choices": [], "usage": usage}) + b"\n\n")
    events.append(b"data: [DONE]\n\n")
    return b"".join(events), len(events)


def static_body(text: str, chat: ChatBody, request_id: str, created: int) -> bytes:
    """The answer to a call that is not streamed."""
    message = {"role": "assistant", "content": text, "refusal": None}
    return _encode(
        {
            "id": "chatcmpl-" + request_id,
            "object": "chat.completion",
            "created": created,
            "model": chat.model,
            "choices": [
                {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
            ],
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        }
    )


def static_reply(
    text: str, chat: ChatBody, call: Call, lines: bytes, *, keep_alive: bool
) -> tuple[bytes, bytes, int]:
    """The head and the body of the answer, and how many events it has."""
    http11, request_id = call.head.http11, call.request_id.decode()
    created = int(call.record.received)
    if chat.stream:
        events, count = static_stream(text, chat, request_id, created)
        head = replies.stream_head(lines, http11=http11, keep_alive=keep_alive)
        return head, replies.whole_body(events, http11=http11), count
    body = static_body(text, chat, request_id, created)
    head = replies.whole_head(200, len(body), lines, http11=http11, keep_alive=keep_alive)
    return head, body, 0
