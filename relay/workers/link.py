"""A connection between a worker and the hub: frames in, frames out, all of one turn of the loop in one write.

The listener belongs to the parent, so that it outlives the hub: a worker that connects while there is none is kept by
the kernel. Who connects must be of our own user.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from typing import cast

BACKLOG = 1024
LARGEST = 1 << 30
"""Bytes of a frame; a larger one is no frame of ours."""
FULL = 1 << 28
"""Bytes waiting in a link at which the other side counts as gone."""

_LENGTH = struct.Struct("!I")


def listen() -> socket.socket:
    """A listener with an address of the system's choice that is no file."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(b"")
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def is_ours(peer: socket.socket) -> bool:
    """Whether the process at the other end runs as the same user."""
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return bool(user == os.getuid())


class Link(asyncio.Protocol):
    """One end. `receive` is told every frame, `lost` the end of the connection."""

    def __init__(self, receive: Callable[[bytes], None], lost: Callable[[], None]) -> None:
        self._receive = receive
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()

    @property
    def open(self) -> bool:
        return self._transport is not None

    def send(self, frame: bytes) -> None:
        """What comes after the end of the connection is dropped."""
        transport = self._transport
        if transport is None:
            return
        transport.write(_LENGTH.pack(len(frame)) + frame)
        if transport.get_write_buffer_size() > FULL:
            transport.abort()

    def close(self) -> None:
        """Closes after what was sent is flushed."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        made = cast(asyncio.Transport, transport)
        if is_ours(made.get_extra_info("socket")):
            self._transport = made
        else:
            # uvloop does not take it well within this callback.
            asyncio.get_running_loop().call_soon(made.abort)

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            end = at + _LENGTH.size + length
            if length > LARGEST:
                self.abort()
                return
            if len(buffer) < end:
                break
            self._receive(bytes(buffer[at + _LENGTH.size : end]))
            at = end
        del buffer[:at]

    def connection_lost(self, exc: BaseException | None) -> None:
        self._transport = None
        self._lost()
