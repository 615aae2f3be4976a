"""What of a chat call becomes its prompt: how many tokens at the most, and what it shares with others.

Reads the raw `messages` a second time, and only for calls that need it: keys with a token limit, pools that place by
prefix. JSON text is never shorter than the UTF-8 it stands for, and no tokenizer makes two tokens of a byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Raw

from relay.errors import BadJson
from relay.jsonscan import UNREADABLE

TOKENS_A_MESSAGE: Final = 8
"""Upper bound of what a chat template puts around a message."""


class _Content(msgspec.Struct, gc=False):
    content: Raw = Raw()
    role: Any = None


class _Part(msgspec.Struct, gc=False):
    """The members of a content part that are no text, as OpenAI and vLLM name them."""

    image_url: Raw = Raw()
    input_audio: Raw = Raw()
    file: Raw = Raw()
    video_url: Raw = Raw()
    video: Raw = Raw()
    audio_url: Raw = Raw()


_decode_contents = msgspec.json.Decoder(list[_Content]).decode
_decode_parts = msgspec.json.Decoder(list[_Part]).decode
_decode_raws = msgspec.json.Decoder(list[Raw]).decode


def media_of(messages: Raw) -> tuple[int, int]:
    """How many content parts carry media, and the bytes of the media themselves."""
    parts = size = 0
    try:
        for message in _decode_contents(messages):
            content = message.content
            if content and memoryview(content)[0] == 0x5B:  # [
                for part in _parts(content):
                    if part:
                        parts += 1
                        size += part
    except UNREADABLE:
        raise BadJson from None
    return parts, size


def _parts(content: Raw) -> list[int]:
    """The bytes of media in each part."""
    try:
        parts = _decode_parts(content)
    except msgspec.ValidationError:
        # Not all of them objects: text, as far as we know.
        return []
    return [
        sum(
            len(media)
            for media in (p.image_url, p.input_audio, p.file, p.video_url, p.video, p.audio_url)
            if len(media) > len(b"null")
        )
        for p in parts
    ]


def up_to_first_user(messages: Raw) -> Iterator[bytes]:
    """The messages a cache would have seen before, as spelled: the system's words and the first user's."""
    try:
        for raw, message in zip(_decode_raws(messages), _decode_contents(messages), strict=True):
            yield bytes(raw)
            if message.role == "user":
                return
    except UNREADABLE:
        raise BadJson from None
