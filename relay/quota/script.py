"""The script that is the authority, and how it is spoken to: msgpack in, msgpack out."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Final

import msgspec

from relay.admission.letters import Frame, Reply

TAG: Final = "{relay}"
"""Every key begins with it, so that all are in one slot of a cluster: one script changes them together."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Reply).decode


def source() -> str:
    """The script's text. It ships with the package."""
    return resources.files("relay.quota").joinpath("authority.lua").read_text("utf-8")


def digest(text: str) -> str:
    """What the server calls it. SHA-1, as its protocol has it; nothing is protected by it."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def meta_key(prefix: str) -> str:
    """The one key that the script is told. `prefix` keeps relays apart that share a server, and nothing else."""
    return f"{TAG}{prefix}:meta"


def channel(prefix: str) -> str:
    """Where it calls what idles."""
    return f"{TAG}{prefix}:recall"


def encoded(frame: Frame) -> bytes:
    return _encode(frame)


def decoded(answer: bytes) -> Reply:
    """Raises ValueError for what is no answer of the script."""
    reply: Reply = _decode(answer)
    return reply
