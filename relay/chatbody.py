"""A chat call's body: what we act on, read once; what we change, changed in the client's own bytes.

Only the fields of `shapes.Body` are looked at; everything else passes unread, but its JSON is valid (a body that two
parsers could read differently is refused: a field we act on given twice, bad UTF-8, half a surrogate pair). Edits are
made at the top level only, never by writing the body anew. Errors name the field, never what stood in it.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
from msgspec import UNSET

from relay.errors import BadField, BadJson, RelayError
from relay.jsonscan import UNREADABLE, Member, TooManyMembers, members
from relay.prompts import TOKENS_A_MESSAGE, media_of, up_to_first_user
from relay.shapes import (
    FIELDS,
    MOST_CHOICES,
    Body,
    StreamOptions,
    count_objects,
    decode_body,
    decode_options,
    decode_string,
)

_EXPECTED: Final = {
    "model": "model must be a non-empty string",
    "messages": "messages must be an array of objects",
    "stream": "stream must be a boolean",
    "stream_options": "stream_options must be an object",
    "stream_options.include_usage": "stream_options.include_usage must be a boolean",
    "max_tokens": "max_tokens must be a positive integer",
    "max_completion_tokens": "max_completion_tokens must be a positive integer",
    "n": f"n must be an integer between 1 and {MOST_CHOICES}",
    "user": "user must be a string",
    "prompt_cache_key": "prompt_cache_key must be a string",
}
"""What a client hears that sent something else."""


class ChatBody:
    """What a chat call asks for. Keeps its messages: drop it with the body."""

    __slots__ = (
        "frame",
        "has_stream_options",
        "include_usage",
        "max_tokens",
        "max_tokens_given",
        "message_count",
        "messages",
        "model",
        "model_at",
        "n",
        "options_given",
        "own_running",
        "prompt_cache_key",
        "stream",
        "tool_bytes",
        "user",
    )

    model: str
    stream: bool
    include_usage: bool | None
    """`stream_options.include_usage` as the client said it."""
    has_stream_options: bool
    own_running: bool
    """The client itself speaks of vLLM's `continuous_usage_stats`."""
    max_tokens: int | None
    """The larger of `max_tokens` and `max_completion_tokens`."""
    n: int
    user: str | None
    prompt_cache_key: str | None
    messages: bytes
    """The JSON of the array."""
    message_count: int
    tool_bytes: int
    """JSON bytes of what else becomes part of a prompt: tools, functions, the response's schema."""
    model_at: int
    """Where the key `model` stands in the body."""
    options_given: bool
    """There is a `stream_options`, be it null."""
    max_tokens_given: bool
    """There is a `max_tokens`, be it null."""
    frame: Frame | None
    """What stands around the messages, where it is known from an earlier call."""

    def prompt_bound(self, image_tokens: int) -> int:
        """No prompt of this call has more tokens: one a byte, but `image_tokens` for each part with media."""
        text = len(self.messages) + self.tool_bytes + TOKENS_A_MESSAGE * self.message_count
        if self.messages.find(b"[", 1) < 0:
            # The messages' own: no content is a list of parts.
            return text
        media, media_bytes = media_of(self.messages)
        return text - media_bytes + image_tokens * media

    def prefix(self) -> bytes:
        """What calls that could share an upstream's cache have in common."""
        if self.prompt_cache_key:
            return self.prompt_cache_key.encode()
        return b"\n".join((self.model.encode(), *up_to_first_user(self.messages)))

    def over(self, messages: bytes, count: int, model_at: int) -> ChatBody:
        """The same facts of a call with other messages."""
        chat = ChatBody()
        chat.model = self.model
        chat.stream = self.stream
        chat.include_usage = self.include_usage
        chat.has_stream_options = self.has_stream_options
        chat.own_running = self.own_running
        chat.max_tokens = self.max_tokens
        chat.n = self.n
        chat.user = self.user
        chat.prompt_cache_key = self.prompt_cache_key
        chat.messages = messages
        chat.message_count = count
        chat.tool_bytes = self.tool_bytes
        chat.model_at = model_at
        chat.options_given = self.options_given
        chat.max_tokens_given = self.max_tokens_given
        chat.frame = self.frame
        return chat


# -- frames: what an app sends around its messages is the same from call to call --

MAX_FRAME: Final = 8192
"""Bytes on either side of the messages that are remembered."""
FRAMES_KEPT: Final = 1024

_MESSAGES: Final = b'"messages":'
_NO_MESSAGES: Final = b"[]"


class Frame:
    """The bytes before and after the messages of an accepted body, and what follows from them.

    One valid array in the place of another leaves the rest of a body as it was: its facts, and that no field is
    given twice. So only the array is looked at when the same bytes stand around it again.
    """

    __slots__ = ("after", "asked", "before", "edits")

    def __init__(self, before: bytes, after: bytes, chat: ChatBody) -> None:
        self.before = before
        self.after = after
        self.edits: dict[tuple[str | None, int, int | None], tuple[bytes, bytes]] = {}
        """Before and after as the upstream gets them, by model, usage asked for, limit."""
        chat.frame = self
        at = chat.model_at
        if at >= len(before):
            at -= len(chat.messages) - len(_NO_MESSAGES)
        self.asked = chat.over(_NO_MESSAGES, 0, at)
        """The facts, of a body that has an empty array."""

    def empty(self) -> bytes:
        return self.before + _NO_MESSAGES + self.after


_frames: dict[tuple[bytes, bytes], Frame] = {}
"""Bounded. Holds no messages, but what apps send beside them (a `user`)."""


def _by_frame(body: bytes) -> ChatBody | None:
    """The facts of a body whose frame is known and whose messages are in order; None: look closer."""
    start = body.find(_MESSAGES, 0, MAX_FRAME) + len(_MESSAGES)
    if start < len(_MESSAGES):
        return None
    if body[start : start + 1] == b" ":
        start += 1
    end = body.rfind(b"]", start) + 1
    if not end or len(body) - end > MAX_FRAME:
        return None
    frame = _frames.get((body[:start], body[end:]))
    if frame is None:
        return None
    messages = body[start:end]
    try:
        count = len(count_objects(messages))
        if not messages.isascii():
            messages.decode()
    except UNREADABLE:
        return None
    asked = frame.asked
    at = asked.model_at
    if at >= start:
        at += len(messages) - len(_NO_MESSAGES)
    return asked.over(messages, count, at)


def _learn(body: bytes, cut: int, chat: ChatBody) -> None:
    """Remembers what stands around the messages, which begin at `cut`, if `_by_frame` can find it again."""
    end = cut + len(chat.messages)
    if cut > MAX_FRAME or len(body) - end > MAX_FRAME or body.find(b"]", end) >= 0:
        return
    if len(_frames) >= FRAMES_KEPT:
        _frames.clear()
    before, after = body[:cut], body[end:]
    _frames[before, after] = Frame(before, after, chat)


def decode(body: bytes) -> ChatBody:
    """The body's facts. Raises `BadJson`, or `BadField` with the field's name."""
    try:
        return _by_frame(body) or _decode(body)
    except RelayError as error:
        # `from None` as compiled code has it, too: what the decoder said may quote the client.
        error.__suppress_context__ = True
        raise


def _decode(body: bytes) -> ChatBody:
    try:
        wire = decode_body(body)
        if not body.isascii():
            # msgspec skips over the text of what it does not build, unseen.
            body.decode()
    except msgspec.ValidationError as error:
        raise _field_error(str(error)) from None
    except UNREADABLE:
        raise BadJson from None
    if not wire.model:
        raise BadField("model is required", param="model")
    messages = bytes(wire.messages)
    count = _count_messages(messages)
    cut = _value_at(body, b'"messages"', messages)
    model_at = -1 if cut < 0 else _model_at(body, wire, cut, messages)
    known = model_at >= 0
    if not known:
        model_at = places_of(body, FIELDS)["model"].start
    options = _options(wire) if wire.stream_options else None
    chat = ChatBody()
    chat.model = wire.model
    chat.stream = wire.stream is True
    chat.include_usage = None if options is None else options.include_usage
    chat.has_stream_options = options is not None
    chat.own_running = bytes(wire.stream_options).find(b"continuous_usage_stats") >= 0
    chat.max_tokens = max(wire.max_tokens or 0, wire.max_completion_tokens or 0) or None
    chat.n = wire.n or 1
    chat.user = wire.user or None
    chat.prompt_cache_key = wire.prompt_cache_key or None
    chat.messages = messages
    chat.message_count = count
    chat.tool_bytes = len(wire.tools) + len(wire.functions) + len(wire.response_format)
    chat.model_at = model_at
    chat.options_given = bool(wire.stream_options)
    chat.max_tokens_given = wire.max_tokens is not UNSET
    chat.frame = None
    if known:
        _learn(body, cut, chat)
    return chat


def _field_error(text: str) -> BadField | BadJson:
    """The words of msgspec's error are not for clients; only the path at its end is used."""
    path = re.search(r"at `\$\.(\w+)`$", text)
    if path is None:
        return BadJson("The body of your request must be a JSON object.")
    return _bad(path[1])


def _bad(field: str) -> BadField:
    return BadField(_EXPECTED[field], param=field)


def _count_messages(messages: bytes) -> int:
    if not messages or messages == b"null":
        raise BadField("messages is required", param="messages")
    try:
        return len(count_objects(messages))
    except msgspec.ValidationError:
        raise _bad("messages") from None
    except RecursionError:
        # What was just within the stack one call higher is not here.
        raise BadJson from None


def _options(wire: Body) -> StreamOptions | None:
    """The client's `stream_options`, null as none."""
    raw = bytes(wire.stream_options)
    if raw == b"null":
        return None
    try:
        options = decode_options(raw)
    except msgspec.ValidationError as error:
        inside = "include_usage" in str(error)
        raise _bad("stream_options.include_usage" if inside else "stream_options") from None
    except RecursionError:
        raise BadJson from None
    if wire.stream is not True:
        raise BadField("stream_options is only allowed with stream: true", param="stream_options")
    if raw.count(b"include_usage") > 1 or b"\\" in raw:
        places_of(raw, ("include_usage",), "stream_options.")
    return options


# -- no field twice --


def _model_at(body: bytes, wire: Body, cut: int, messages: bytes) -> int:
    """Where the key `model` stands, if a look proves that no field we act on is given twice; else -1.

    The proof: whole values are cut out of valid JSON, which takes no top-level key away. In what is left there is no
    backslash, so every key is spelled as it is and every quote opens or closes a string. Each field we know to be there
    is found exactly once: that is its top-level key, and the only one.
    """
    rest = body[:cut] + body[cut + len(messages) :]
    second, tools = 0, b""
    if wire.tools:
        tools = bytes(wire.tools)
        second = _value_at(rest, b'"tools"', tools)
        if second < 0:
            return -1
        rest = rest[:second] + rest[second + len(tools) :]
    if rest.find(b"\\") >= 0 or not _each_once(rest, wire):
        return -1
    at = rest.find(b'"model"')
    if tools and at >= second:
        at += len(tools)
    return at + len(messages) if at >= cut else at


def _value_at(data: bytes, key: bytes, value: bytes) -> int:
    """Where this value follows the first such key, in the two common spellings; -1: look closer."""
    at = data.find(key)
    if at < 0:
        return -1
    at += len(key)
    if not data.startswith(b":", at):
        return -1
    at += 2 if data.startswith(b" ", at + 1) else 1
    return at if data.startswith(value, at) else -1


def _each_once(rest: bytes, wire: Body) -> bool:
    count = rest.count
    return (
        count(b'"model"') == 1
        and count(b'"messages"') == 1
        and (wire.stream is UNSET or count(b'"stream"') == 1)
        and (not wire.stream_options or count(b'"stream_options"') == 1)
        and (wire.max_tokens is UNSET or count(b'"max_tokens"') == 1)
        and (wire.max_completion_tokens is UNSET or count(b'"max_completion_tokens"') == 1)
        and (wire.n is UNSET or count(b'"n"') == 1)
        and (wire.user is UNSET or count(b'"user"') == 1)
        and (wire.prompt_cache_key is UNSET or count(b'"prompt_cache_key"') == 1)
        and (not wire.tools or count(b'"tools"') == 1)
        and (not wire.functions or count(b'"functions"') == 1)
        and (not wire.response_format or count(b'"response_format"') == 1)
    )


def places_of(data: bytes, names: tuple[str, ...], path: str = "") -> dict[str, Member]:
    """Where the members of these names stand: the exact way, for bodies that a look does not settle."""
    places: dict[str, Member] = {}
    try:
        found = members(data)
    except TooManyMembers:
        raise BadJson("The body of your request has too many fields.") from None
    except RecursionError:
        raise BadJson from None
    for member in found:
        key = member.key
        name = decode_string(b'"%s"' % key) if b"\\" in key else key.decode()
        if name in places:
            raise BadField(f"{path}{name} is given twice", param=path + name)
        if name in names:
            places[name] = member
    return places
