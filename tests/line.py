"""One upstream connection and its pool, without a socket, and a receiver that remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from relay.chunked import unframed
from relay.upstream.connections import Connections
from relay.upstream.headers import ResponseHead
from relay.upstream.wire import Connection
from tests.plane import play, turn
from tests.streams import cut
from tests.wires import Wire

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
REQUEST = b"POST /v1 HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n"


class Heard:
    """What a receiver was told."""

    def __init__(self) -> None:
        self.heads: list[ResponseHead] = []
        self.body = b""
        self.end: list[str] = []
        self.on_head: Callable[[], None] = lambda: None

    def headed(self, head: ResponseHead) -> None:
        assert not self.end
        self.heads.append(head)
        self.on_head()

    def whole(self, head: ResponseHead, body: bytes) -> None:
        self.headed(head)
        self.body += body
        self.end.append("ended")

    def chunks(self, data: bytes, first: int) -> None:
        self.payload(unframed(data, first))

    def payload(self, data: bytes) -> None:
        assert data
        assert self.heads
        assert not self.end
        self.body += data

    def ended(self, by_close: bool) -> None:
        self.end.append("closed" if by_close else "ended")

    def lost(self, fault: str) -> None:
        self.end.append(fault)


class Line:
    """One connection and its pool."""

    def __init__(self) -> None:
        self.now = asyncio.get_running_loop().time()
        self.bugs: list[BaseException] = []
        self.pool = Connections(asyncio.get_running_loop(), 4.0, 300.0, self.bugs.append)
        self.connection, self.wire = self.opened()
        self.heard = Heard()

    def opened(self) -> tuple[Connection, Wire]:
        connection = Connection(self.pool, self.now)
        wire = Wire(connection, "192.0.2.1")
        connection.connection_made(wire)
        self.pool.made(connection)
        return connection, wire

    def ask(self) -> Heard:
        self.heard = Heard()
        self.connection.send(self.heard, REQUEST, b"{}")
        return self.heard

    def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            if not self.wire.closed:
                self.connection.data_received(piece)

    def taken(self) -> Connection | None:
        """What the next request would get."""
        return self.pool.take(self.now)


def scene(test: Callable[[Line], None]) -> None:
    async def played() -> None:
        line = Line()
        test(line)
        await turn()
        assert line.bugs == []

    play(played())


def chunked(body: bytes, cuts: list[int]) -> bytes:
    parts = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in cut(body, cuts))
    return OK + b"Transfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"
