"""What of a chat call becomes its prompt: how many tokens at the most, and what it shares with others.

Reads the raw `messages` a second time, and only for calls that need it: keys with a token limit, pools that place by
prefix. JSON text is never shorter than the UTF-8 it stands for, and no tokenizer makes two tokens of a byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from msgspec import Raw

from relay.errors import BadJson
from relay.jsonscan import UNREADABLE
from relay.shapes import count_objects, decode_contents, decode_parts, decode_raws

TOKENS_A_MESSAGE: Final = 8
"""Upper bound of what a chat template puts around a message."""


MOST_PARTS: Final = 10_000
"""Content parts looked into in one call; each costs half a microsecond, and 32 MiB hold millions of empty ones."""
SHORTEST_MEDIUM: Final = len('{"file":0}')
"""Bytes of the smallest part that could pass for a medium."""


def media_of(messages: bytes) -> tuple[int, int]:
    """How many content parts carry media, and the bytes of the media themselves.

    Beyond `MOST_PARTS` as many as the bytes could hold: an upper bound still, and no key will pay for it.
    """
    looked = parts = size = 0
    try:
        for message in decode_contents(messages):
            content = message.content
            if not content or memoryview(content)[0] != 0x5B:  # [
                continue
            media = _media_bytes(content)
            looked += 1 + len(media)
            if looked > MOST_PARTS:
                return len(messages) // SHORTEST_MEDIUM, 0
            for medium in media:
                if medium:
                    parts += 1
                    size += medium
    except UNREADABLE:
        raise BadJson from None
    return parts, size


def _media_bytes(content: Raw) -> Sequence[int]:
    """The bytes of media in each part; 0 in those of text."""
    try:
        if len(content) > 3 * MOST_PARTS:
            count = len(count_objects(content))
            if count > MOST_PARTS:
                return range(count)
        parts = decode_parts(content)
    except msgspec.ValidationError:
        # Not all of them objects: text, as far as we know.
        return ()
    return [
        sum(
            len(medium)
            for medium in (p.image_url, p.input_audio, p.file, p.video_url, p.video, p.audio_url)
            if medium and (len(medium) != 4 or bytes(medium) != b"null")
        )
        for p in parts
    ]


def up_to_first_user(messages: bytes) -> Iterator[bytes]:
    """The messages a cache would have seen before, as spelled: the system's words and the first user's."""
    try:
        for raw, message in zip(decode_raws(messages), decode_contents(messages), strict=True):
            yield bytes(raw)
            if bytes(message.role) == b'"user"':
                return
    except UNREADABLE:
        raise BadJson from None
