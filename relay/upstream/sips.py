"""Small reads for a fast upstream.

uvloop reads up to 250 KB at once, and what was read of a stream waits in memory if its client does not take it. A
connection that streams in large segments is therefore read through here, into one small buffer that all of them share.
That costs a call and a copy per read: little for bytes that come by the ten thousand, and nothing for the others.
"""

from __future__ import annotations

import asyncio
from typing import Final

SIP: Final = 32768
"""Bytes of one read."""

_ROOM = bytearray(SIP)
_VIEW = memoryview(_ROOM)


class Sips(asyncio.BufferedProtocol):
    """Stands between a transport and its protocol while that reads in sips."""

    __slots__ = ("_to",)

    def __init__(self, to: asyncio.Protocol) -> None:
        self._to = to

    def get_buffer(self, sizehint: int) -> bytearray:
        return _ROOM

    def buffer_updated(self, nbytes: int) -> None:
        self._to.data_received(bytes(_VIEW[:nbytes]))

    def eof_received(self) -> bool | None:
        return self._to.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._to.connection_lost(exc)
