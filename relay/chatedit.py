"""What we change in a chat call's body: its model, a report of usage, a limit to its answer.

Changes are made in the client's own bytes, at the top level only, and what they come to is remembered with the frame.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from relay.chatbody import ChatBody, Frame, places_of
from relay.jsonscan import Member
from relay.shapes import FIELDS

EDITS_KEPT: Final = 64
"""Edits remembered of one frame: models of a pool, times limits."""

_encode = msgspec.json.Encoder().encode

_VALUE_OF_MODEL = re.compile(
    rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"[ \t\n\r]*+:[ \t\n\r]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")'
)


_Change = tuple[int, int, bytes]
"""Start, end, and what stands there instead."""


def edit(
    body: bytes,
    chat: ChatBody,
    *,
    model: str | None,
    usage: int,
    max_tokens: int | None = None,
) -> bytes:
    """The body with another model, with token counts asked for, with a limit; the same object if nothing changes.

    `usage` is 0 for no counts, 1 for one at the end, 2 for running ones; `body` is what `chat` was decoded from.
    """
    frame = chat.frame
    if frame is None:
        changes = _changes(body, chat, model, usage, max_tokens)
        return _changed(body, changes) if changes else body
    key = (model, usage, max_tokens)
    around = frame.edits.get(key) or _edit_frame(frame, key)
    if around[0] is frame.before and around[1] is frame.after:
        return body
    return b"".join((around[0], chat.messages, around[1]))


def _edit_frame(frame: Frame, key: tuple[str | None, int, int | None]) -> tuple[bytes, bytes]:
    """What stands before and after the messages once it is edited, remembered for the next call."""
    empty, cut = frame.empty(), len(frame.before)
    changes = _changes(empty, frame.asked, *key)
    head = [change for change in changes if change[0] < cut]
    skip = len(empty) - len(frame.after)
    tail = [(start - skip, end - skip, new) for start, end, new in changes if start >= cut]
    around = (
        _changed(frame.before, head) if head else frame.before,
        _changed(frame.after, tail) if tail else frame.after,
    )
    if len(frame.edits) >= EDITS_KEPT:
        frame.edits.clear()
    frame.edits[key] = around
    return around


def _changes(
    body: bytes, chat: ChatBody, model: str | None, usage: int, max_tokens: int | None
) -> list[_Change]:
    inserted = b""
    changes: list[_Change] = []
    wanted = _wanted(chat, usage) if usage else []
    if wanted:
        if chat.has_stream_options:
            changes += _ask_in_options(body, wanted)
        else:
            asked = b"{%b}" % b",".join([b'"%b":true' % name for name in wanted])
            if chat.options_given:
                options = places_of(body, FIELDS)["stream_options"]
                changes.append((options.value, options.value + len(b"null"), asked))
            else:
                inserted = b'"stream_options":%b,' % asked
    if max_tokens is not None:
        if chat.max_tokens_given:
            place = places_of(body, FIELDS)["max_tokens"]
            changes.append((place.value, _end_of_scalar(body, place), b"%d" % max_tokens))
        else:
            inserted += b'"max_tokens":%d,' % max_tokens
    if model is not None and model != chat.model:
        value = _VALUE_OF_MODEL.match(body, chat.model_at)
        assert value is not None, "the body is the one that was decoded"
        changes.append((value.start(1), value.end(1), _encode(model)))
    if inserted:
        root = body.index(b"{") + 1
        changes.append((root, root, inserted))
    return changes


def _wanted(chat: ChatBody, usage: int) -> list[bytes]:
    """The options of a stream that have to become true."""
    wanted = []
    if chat.stream and chat.include_usage is not True:
        wanted.append(b"include_usage")
    if chat.stream and usage > 1 and not chat.own_running:
        wanted.append(b"continuous_usage_stats")
    return wanted


def _ask_in_options(body: bytes, wanted: list[bytes]) -> list[_Change]:
    options = places_of(body, FIELDS)["stream_options"]
    inner = body[options.value : options.end]
    place = places_of(inner, ("include_usage",)).get("include_usage")
    changes: list[_Change] = []
    added = wanted
    if place is not None and b"include_usage" in wanted:
        at = options.value + place.value
        end = at + _end_of_scalar(inner, place) - place.value
        changes.append((at, end, b"true"))
        added = wanted[1:]
    if added:
        at = options.value + 1
        new = b",".join([b'"%b":true' % name for name in added])
        empty = inner[1:].lstrip(b" \t\n\r").startswith(b"}")
        changes.append((at, at, new if empty else new + b","))
    return changes


def _end_of_scalar(data: bytes, place: Member) -> int:
    """A member's end is behind the blanks that follow its value."""
    return place.value + len(data[place.value : place.end].rstrip(b" \t\n\r"))


def _changed(body: bytes, changes: list[_Change]) -> bytes:
    if len(changes) > 1:
        changes.sort()
    kept: list[bytes] = []
    done = 0
    for start, end, replacement in changes:
        kept.append(body[done:start])
        kept.append(replacement)
        done = end
    kept.append(body[done:])
    return b"".join(kept)
