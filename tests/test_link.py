"""Frames between a worker and the hub: whole, in order, however they are cut."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.workers import link
from relay.workers.link import Link
from tests.plane import play
from tests.rig import within

NOBODY = 65534


class Ends:
    """Both ends of a link, and what they were told."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.lost = asyncio.Event()
        self.came = asyncio.Event()

    def receive(self, frame: bytes) -> None:
        self.got.append(frame)
        self.came.set()

    async def open(self) -> tuple[Link, socket.socket]:
        """Ours, accepted as the hub accepts, and the bare socket at the other end. The first frame is empty."""
        listener = link.listen()
        made = Link(self.receive, self.lost.set)
        loop = asyncio.get_running_loop()
        self.server = await loop.create_unix_server(lambda: made, sock=listener)
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.setblocking(False)
        peer.connect(listener.getsockname())
        peer.send(b"\0\0\0\0")
        return made, peer

    async def until(self, count: int) -> None:
        async with within():
            while len(self.got) < count:
                self.came.clear()
                await self.came.wait()


@given(
    frames=st.lists(st.binary(max_size=300), min_size=1, max_size=8),
    cuts=st.lists(st.integers(1, 50), min_size=1),
)
def test_frames_come_whole_and_in_order_however_they_are_cut(
    frames: list[bytes], cuts: list[int]
) -> None:
    got: list[bytes] = []
    ours = Link(got.append, lambda: None)
    ours._transport = asyncio.Transport()
    wire = b"".join(struct.pack("!I", len(frame)) + frame for frame in frames)

    at = 0
    for number in range(len(wire)):
        size = cuts[number % len(cuts)]
        ours.data_received(wire[at : at + size])
        at += size

    assert got == frames


def test_both_directions_over_a_real_socket() -> None:
    async def scene() -> tuple[bytes, list[bytes]]:
        loop = asyncio.get_running_loop()
        ends = Ends()
        ours, peer = await ends.open()
        await ends.until(1)
        ours.send(b"hello")
        async with within():
            out = await loop.sock_recv(peer, 100)
        await loop.sock_sendall(peer, b"\0\0\0\3abc\0\0\0\0\0\0\0\1d")
        await ends.until(4)
        peer.close()
        ends.server.close()
        async with within():
            await ends.lost.wait()
        ours.send(b"dropped")
        return out, ends.got

    out, got = play(scene())

    assert out == b"\0\0\0\5hello"
    assert got == [b"", b"abc", b"", b"d"]


def test_a_length_that_is_none_of_ours_ends_the_connection() -> None:
    async def scene() -> list[bytes]:
        ends = Ends()
        _, peer = await ends.open()
        await asyncio.get_running_loop().sock_sendall(peer, b"GET / HTTP/1.1\r\n\r\n")
        async with within():
            await ends.lost.wait()
        peer.close()
        ends.server.close()
        return ends.got

    assert play(scene()) == [b""]


def test_another_user_is_no_process_of_ours() -> None:
    if os.getuid():
        pytest.skip("only root can be somebody else")

    async def scene() -> bytes:
        ends = Ends()
        os.seteuid(NOBODY)
        try:
            _, peer = await ends.open()
        finally:
            os.seteuid(0)
        async with within():
            await ends.lost.wait()
            end = await asyncio.get_running_loop().sock_recv(peer, 1)
        peer.close()
        ends.server.close()
        return end

    assert play(scene()) == b""
