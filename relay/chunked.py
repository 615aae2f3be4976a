"""HTTP/1.1 chunked framing (RFC 9112 §7.1), read strictly and incrementally.

Both sides use it: bodies of clients, answers of upstreams. `whole_events` is the hot path of a stream: it answers
whether a segment consists of whole chunks of whole events, so that its bytes can be passed on as they are.
"""

from __future__ import annotations

import re
from typing import Final

MAX_LINE: Final = 256
"""Bytes of a chunk-size line with its extensions, which we skip."""
MAX_TRAILER: Final = 8192
"""Bytes of all trailer lines together, which we drop."""

_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")
_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")

SIZES: dict[bytes, int] = {}
"""Size lines seen and found strict: a look-up is a tenth of a match. Bounded; sizes repeat in a stream."""
_SIZES_KEPT: Final = 4096


class BadFraming(Exception):
    """The bytes are not what they should be. Nothing after this can be trusted.

    `payload` is what came before it in the same data, and stands.
    """

    def __init__(self, payload: bytes = b"") -> None:
        super().__init__()
        self.payload = payload


def size_of(line: bytes) -> int | None:
    """The size that a bare size line names, None when it is not strictly one (then let `Chunked` judge)."""
    size = SIZES.get(line)
    if size is None and _SIZE.fullmatch(line):
        if len(SIZES) >= _SIZES_KEPT:
            SIZES.clear()
        size = SIZES[line] = int(line, 16)
    return size


def frame(payload: bytes) -> bytes:
    """One chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


LAST_CHUNK: Final = b"0\r\n\r\n"


def whole_events(data: bytes) -> int:
    """Where the first payload begins if `data` is whole chunks, each of which ends where an event may; else -1.

    A chunk that ends inside an event could hide what is looked for in the bytes (half of `"error"` on either side).
    """
    first = 0
    at = 0
    end = len(data)
    if not data.endswith(b"\n\n\r\n"):
        return -1
    while True:
        eol = data.find(b"\r\n", at, at + 10)
        if eol < 0:
            return -1
        line = data[at:eol]
        size = SIZES.get(line)
        if size is None:
            size = size_of(line)
        if not size:
            return -1
        if not first:
            first = eol + 2
        at = eol + 4 + size
        if at > end or data[at - 4 : at] != b"\n\n\r\n":
            return -1
        if at == end:
            return first


def unframed(data: bytes, first: int) -> bytes:
    """The payload of whole chunks, of which the first payload begins at `first`."""
    size = int(data[: first - 2], 16)
    end = first + size
    if end + 2 == len(data):
        return data[first:end]
    parts = [data[first:end]]
    at = end + 2
    while at < len(data):
        eol = data.find(b"\r\n", at)
        end = eol + 2 + int(data[at:eol], 16)
        parts.append(data[eol + 2 : end])
        at = end + 2
    return b"".join(parts)


class Chunked:
    """Reads one chunked body; dies with it. States: size line → data → CRLF → … → trailers → done."""

    __slots__ = ("_left", "_line", "_state", "_trailer", "done", "rest")

    def __init__(self) -> None:
        self._state = 0  # 0 size line, 1 data, 2 CR LF after data, 3 trailers
        self._left = 0
        self._line = b""
        self._trailer = 0
        self.done = False
        self.rest = b""
        """What followed the body in the last segment."""

    @property
    def at_boundary(self) -> bool:
        """Between two chunks, nothing held."""
        return self._state == 0 and not self._line and not self.done

    def feed(self, data: bytes) -> bytes:
        """The payload in `data`. Raises `BadFraming`; after `done` further bytes are in `rest`."""
        out: list[bytes] = []
        at = 0
        end = len(data)
        while at < end:
            if self._state == 0 and not self._line:
                # A whole chunk at once, when its size line is one that was seen before; and the usual end.
                if end - at == 5 and data[at:] == LAST_CHUNK:
                    self.done = True
                    break
                eol = data.find(b"\r\n", at, at + 10)
                size = (SIZES.get(data[at:eol]) or size_of(data[at:eol])) if eol > 0 else None
                if size and data[eol + 2 + size : eol + 4 + size] == b"\r\n":
                    out.append(data[eol + 2 : eol + 2 + size])
                    at = eol + 4 + size
                    continue
            if self._state == 1:
                piece = data[at : at + self._left]
                out.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = 2
                continue
            try:
                at = self._read_line(data, at)
            except BadFraming:
                raise BadFraming(b"".join(out)) from None
            if self.done:
                self.rest = data[at:]
                break
        return b"".join(out) if len(out) != 1 else out[0]

    def _read_line(self, data: bytes, at: int) -> int:
        """Takes the line that begins (or goes on) at `at`; returns where it ended."""
        eol = data.find(b"\n", at)
        if eol < 0:
            self._hold(data[at:])
            return len(data)
        line = self._line + data[at : eol + 1]
        self._line = b""
        if line[-2:] != b"\r\n" or len(line) > MAX_LINE + 2:
            raise BadFraming
        self.done = self._step(line[:-2])
        return eol + 1

    def _hold(self, tail: bytes) -> None:
        self._line += tail
        if len(self._line) > MAX_LINE or (self._state == 2 and self._line != b"\r"):
            raise BadFraming

    def _step(self, line: bytes) -> bool:
        """Takes one line; True when the body is complete."""
        if self._state == 2:
            if line:
                raise BadFraming
            self._state = 0
        elif self._state == 0:
            match = _LINE.fullmatch(line)
            if match is None:
                raise BadFraming
            self._left = int(match[1], 16)
            self._state = 1 if self._left else 3
        else:
            if not line:
                return True
            self._trailer += len(line)
            if self._trailer > MAX_TRAILER:
                raise BadFraming
        return False
