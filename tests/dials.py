"""Dials and where they lead: ports that answer, refuse or stay silent, names in the test's hand."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from relay.upstream.connections import Connections
from relay.upstream.dial import Dialer
from relay.upstream.names import Found
from relay.upstream.wire import Connection
from tests.rig.deadlines import WHOLE, within


@dataclass
class Target:
    port: int
    host: str = "127.0.0.1"
    tls: bool = False
    connect: float = 5.0
    ca_file: Path | None = None


class Dials:
    """A dialer, its pool, and what its dials came to."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.bugs: list[BaseException] = []
        self.pool = Connections(loop, 4.0, 300.0, self.bugs.append)
        self.names = Names()
        self.dialer = Dialer(loop, self.names)
        self.told: list[Connection | str] = []
        self._news = asyncio.Event()

    def start(self, target: Target) -> asyncio.Task[None]:
        return self.dialer.dial(target, self.pool, self._tell)

    def _tell(self, connection: Connection | None, fault: str) -> None:
        self.told.append(fault if connection is None else connection)
        self._news.set()

    async def outcome(self, target: Target) -> Connection | str:
        before = len(self.told)
        self.start(target)
        async with within():
            while len(self.told) == before:
                self._news.clear()
                await self._news.wait()
        return self.told[-1]


@asynccontextmanager
async def dials() -> AsyncIterator[Dials]:
    made = Dials()
    try:
        yield made
        assert made.bugs == []
    finally:
        for connection in list(made.pool.open):
            connection.close()
        await made.dialer.close()


class Peer(asyncio.Protocol):
    """A server's end of a connection."""

    def __init__(self, peers: list[Peer]) -> None:
        self.gone = asyncio.Event()
        peers.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()


@asynccontextmanager
async def server(
    context: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[tuple[int, list[Peer]]]:
    """A port of this host that takes connections, and those it took."""
    peers: list[Peer] = []
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Peer(peers), host, port, ssl=context)
    try:
        yield listening.sockets[0].getsockname()[1], peers
    finally:
        listening.close()


@contextmanager
def dead_port() -> Iterator[int]:
    """A port that refuses: taken, and nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextmanager
def deaf_port(host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A port that answers no SYN: its queue is full and nobody accepts."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.bind((host, port))
        listening.listen(0)
        waiting = [socket.socket(family) for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(listening.getsockname())
        try:
            yield listening.getsockname()[1]
        finally:
            for sock in waiting:
                sock.close()


class Names:
    """A resolver in the test's hand. It blocks, as the system's does."""

    def __init__(self) -> None:
        self.answer: Callable[[str], list[str]] = lambda _: ["127.0.0.1"]
        self.asked: list[str] = []
        self.silent: set[str] = set()
        """Names whose servers say nothing until `free` is set."""
        self.free = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, host: str) -> Found:
        with self._lock:
            self.asked.append(host)
        if host in self.silent:
            assert self.free.wait(WHOLE)
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                (address, 0, 0, 0) if ":" in address else (address, 0),
            )
            for address in self.answer(host)
        ]
