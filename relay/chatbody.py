"""A chat call's body: what we act on, read once; what we change, changed in the client's own bytes.

Only the fields of `shapes.Body` are looked at; everything else passes unread, but its JSON is valid (a body that two
parsers could read differently is refused: a field we act on given twice, bad UTF-8, half a surrogate pair). Edits are
made at the top level only, never by writing the body anew. Errors name the field, never what stood in it.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
from msgspec import UNSET, Raw

from relay.errors import BadField, BadJson
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

_encode = msgspec.json.Encoder().encode


class ChatBody:
    """What a chat call asks for. Keeps the bytes of the body alive (`messages` is a view): drop it with the body."""

    __slots__ = (
        "flat",
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
    max_tokens: int | None
    """The larger of `max_tokens` and `max_completion_tokens`."""
    n: int
    user: str | None
    prompt_cache_key: str | None
    messages: Raw
    message_count: int
    tool_bytes: int
    """JSON bytes of what else becomes part of a prompt: tools, functions, the response's schema."""
    model_at: int
    """Where the key `model` stands in the body."""
    options_given: bool
    """There is a `stream_options`, be it null."""
    max_tokens_given: bool
    """There is a `max_tokens`, be it null."""
    flat: bool
    """Only one bracket opens in the messages, their own: no content is a list of parts."""

    def prompt_bound(self, image_tokens: int) -> int:
        """No prompt of this call has more tokens: one a byte, but `image_tokens` for each part with media."""
        text = len(self.messages) + self.tool_bytes + TOKENS_A_MESSAGE * self.message_count
        if self.flat:
            return text
        media, media_bytes = media_of(self.messages)
        return text - media_bytes + image_tokens * media

    def prefix(self) -> bytes:
        """What calls that could share an upstream's cache have in common."""
        if self.prompt_cache_key:
            return self.prompt_cache_key.encode()
        return b"\n".join((self.model.encode(), *up_to_first_user(self.messages)))


def decode(body: bytes) -> ChatBody:
    """The body's facts. Raises `BadJson`, or `BadField` with the field's name."""
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
    model_at = _model_at(body, wire, messages)
    if model_at < 0:
        model_at = _places(body, FIELDS)["model"].start
    options = _options(wire) if wire.stream_options else None
    chat = ChatBody()
    chat.model = wire.model
    chat.stream = wire.stream is True
    chat.include_usage = None if options is None else options.include_usage
    chat.has_stream_options = options is not None
    chat.max_tokens = max(wire.max_tokens or 0, wire.max_completion_tokens or 0) or None
    chat.n = wire.n or 1
    chat.user = wire.user or None
    chat.prompt_cache_key = wire.prompt_cache_key or None
    chat.messages = wire.messages
    chat.message_count = count
    chat.tool_bytes = len(wire.tools) + len(wire.functions) + len(wire.response_format)
    chat.model_at = model_at
    chat.options_given = bool(wire.stream_options)
    chat.max_tokens_given = wire.max_tokens is not UNSET
    chat.flat = messages.count(b"[") == 1
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
        _places(raw, ("include_usage",), "stream_options.")
    return options


# -- no field twice --


def _model_at(body: bytes, wire: Body, messages: bytes) -> int:
    """Where the key `model` stands, if a look proves that no field we act on is given twice; else -1.

    The proof: whole values are cut out of valid JSON, which takes no top-level key away. In what is left there is no
    backslash, so every key is spelled as it is and every quote opens or closes a string. Each field we know to be there
    is found exactly once: that is its top-level key, and the only one.
    """
    cut = _value_at(body, b'"messages"', messages)
    if cut < 0:
        return -1
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


def _places(data: bytes, names: tuple[str, ...], path: str = "") -> dict[str, Member]:
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


# -- edits --

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
    include_usage: bool,
    max_tokens: int | None = None,
) -> bytes:
    """The body with another model, with a usage report asked for, with a limit; the same object if nothing changes.

    `body` is what `chat` was decoded from.
    """
    inserted = b""
    changes: list[_Change] = []
    if include_usage and chat.stream and chat.include_usage is not True:
        if chat.options_given:
            changes.append(_ask_in_options(body, chat))
        else:
            inserted = b'"stream_options":{"include_usage":true},'
    if max_tokens is not None:
        if chat.max_tokens_given:
            place = _places(body, FIELDS)["max_tokens"]
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
    return _changed(body, changes) if changes else body


def _ask_in_options(body: bytes, chat: ChatBody) -> _Change:
    options = _places(body, FIELDS)["stream_options"]
    if not chat.has_stream_options:
        return options.value, options.value + len(b"null"), b'{"include_usage":true}'
    inner = body[options.value : options.end]
    place = _places(inner, ("include_usage",)).get("include_usage")
    if place is not None:
        at = options.value + place.value
        return at, at + _end_of_scalar(inner, place) - place.value, b"true"
    at = options.value + 1
    empty = inner[1:].lstrip(b" \t\n\r").startswith(b"}")
    return at, at, b'"include_usage":true' if empty else b'"include_usage":true,'


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
