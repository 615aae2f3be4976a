"""Bodies that an upstream compressed although it was asked not to.

They are decoded as they come, so that event boundaries are seen, under a cap on the growth; a body whose coding
does not end is a truncated body, which the libraries do not tell by themselves.
"""

from __future__ import annotations

import zlib
from typing import Final

MAX_STEP: Final = 16 * 1024 * 1024
"""Bytes that one segment may decode to (a segment has 64–256 KiB)."""
MAX_RATIO: Final = 200
"""Decoded to received bytes over the whole body, past the first `FREE` bytes."""
FREE: Final = 4 * 1024 * 1024


class BadCoding(Exception):
    """Unknown coding, corrupt data, or a decompression bomb."""


class Inflater:
    """Decodes one body; dies with it. Knows `gzip` and `deflate`; others are refused."""

    __slots__ = ("_got", "_inflate", "_made")

    def __init__(self, coding: bytes) -> None:
        if coding not in (b"gzip", b"x-gzip", b"deflate"):
            raise BadCoding
        # 32: zlib or gzip by its header.
        self._inflate = zlib.decompressobj(32 + zlib.MAX_WBITS)
        self._got = 0
        self._made = 0

    def feed(self, data: bytes) -> bytes:
        """What `data` decodes to, possibly nothing yet. Raises `BadCoding`."""
        try:
            out = self._inflate.decompress(data, MAX_STEP)
        except zlib.error:
            raise BadCoding from None
        self._got += len(data)
        self._made += len(out)
        if self._inflate.unconsumed_tail or self._made > FREE + MAX_RATIO * self._got:
            raise BadCoding
        return out

    @property
    def complete(self) -> bool:
        return self._inflate.eof
