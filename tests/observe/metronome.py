"""Streams whose events say when they were sent, and somebody who notes when they came: two processes, so that what
measures holds nobody up but itself.

Plain sockets and one thread each, without a loop of asyncio between a packet and the look at the clock. Both read
CLOCK_MONOTONIC, which is the same for all processes of a host.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import selectors
import socket
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import monotonic, monotonic_ns, sleep  # noqa: TID251  a metronome

from tests.rig import scripts as say
from tests.rig.raw_client import Address, chat_body, request

EVERY = 0.01
"""Seconds between two events of a stream."""
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"%d"},"finish_reason":null}]}\n\n'
STAMPED = re.compile(rb'"content":"(\d+)"')
PREFERRED = ("chrt", "--fifo", "10")
"""What root starts a relay with that is measured; both of these are preferred as well: whatever else runs on the
machine would look like a delay of the relay's."""


@dataclass(frozen=True)
class Came:
    """An event, in seconds: when it was sent, and how much later it was here."""

    sent: float
    delay: float


def beat(streams: int, told: Connection) -> None:
    """The upstream: tells its port, takes so many calls, and sends each of them events until its peer is gone."""
    _prefer()
    with socket.create_server(("127.0.0.1", 0), backlog=streams) as server:
        told.send(server.getsockname()[1])
        peers = [_accepted(server) for _ in range(streams)]
    due = monotonic()
    with contextlib.suppress(OSError):
        while True:
            # One after the other, evenly: a burst would wait for itself.
            for peer in peers:
                due += EVERY / streams
                sleep(max(0.0, due - monotonic()))
                peer.sendall(say.frame(EVENT % monotonic_ns()))


def _accepted(server: socket.socket) -> socket.socket:
    peer, _ = server.accept()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    read = b""
    while b"\r\n\r\n" not in read:
        read += peer.recv(1 << 16)
    peer.sendall(say.SSE_HEAD)
    return peer


def listen(
    relay: Address, key: str, model: str, streams: int, seconds: float, told: Connection
) -> None:
    """The client: opens so many streams, tells when all of them flow, listens so long, and tells what came."""
    _prefer()
    body = chat_body(model=model)
    call = request("POST", "/v1/chat/completions", body, key=key)
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        rests: dict[socket.socket, bytes] = {}
        for _ in range(streams):
            sock = stack.enter_context(socket.create_connection(relay))
            sock.sendall(call)
            selector.register(sock, selectors.EVENT_READ)
            rests[sock] = b""
        told.send(_heard(selector, rests, monotonic() + 2.0) != [])
        told.send(_heard(selector, rests, monotonic() + seconds))


def _heard(
    selector: selectors.BaseSelector, rests: dict[socket.socket, bytes], until: float
) -> list[Came]:
    """`rests`: what came of an event that is not whole."""
    came: list[Came] = []
    while (now := monotonic()) < until:
        for key, _ in selector.select(until - now):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            data = rests[sock] + sock.recv(1 << 16)
            now = monotonic()
            end = 0
            for found in STAMPED.finditer(data):
                sent = int(found[1]) / 1e9
                came.append(Came(sent, now - sent))
                end = found.end()
            rests[sock] = data[end:]
    return came


def _prefer() -> None:
    gc.disable()
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(int(PREFERRED[-1])))
