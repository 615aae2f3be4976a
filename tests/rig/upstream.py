"""A scripted upstream: a raw asyncio TCP server on 127.0.0.1 that plays a script to each request.

It reads requests strictly by `Content-Length`, since that is what the relay promises to send. It
lives as long as its `async with`; leaving it ends every connection and awaits every task.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from tests.rig import scripts
from tests.rig.deadlines import within
from tests.rig.scripts import (
    Close,
    Do,
    Flood,
    Gate,
    HalfClose,
    Pause,
    Reset,
    Script,
    Send,
    Stall,
    Step,
)


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it stood on the wire."""

    head: bytes
    body: bytes
    connection: int
    """Which connection it came on, counted from 0."""
    received: float
    """Seconds of the loop's clock."""

    @property
    def target(self) -> str:
        return self.head.split(b" ", 2)[1].decode("latin-1")

    @property
    def headers(self) -> dict[str, str]:
        """Lower-case names; a repeated one is joined with commas."""
        found: dict[str, str] = {}
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            name, colon, value = line.partition(":")
            if colon:
                name, value = name.strip().lower(), value.strip()
                found[name] = f"{found[name]},{value}" if name in found else value
        return found

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Exchange:
    """One request and how its answer goes. Gates are opened and awaited by name."""

    request: Request
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """The peer closed the connection (or we ended it)."""
    gone_at: float | None = None
    played: asyncio.Event = field(default_factory=asyncio.Event)
    """The script has ended."""
    sent: int = 0
    """Bytes the transport took, less what it still holds."""
    _gates: dict[str, asyncio.Event] = field(default_factory=dict)
    _reached: dict[str, asyncio.Event] = field(default_factory=dict)

    def gate(self, name: str) -> asyncio.Event:
        return self._gates.setdefault(name, asyncio.Event())

    def arrival(self, name: str) -> asyncio.Event:
        return self._reached.setdefault(name, asyncio.Event())

    def open(self, name: str) -> None:
        """Lets the script pass this gate."""
        self.gate(name).set()

    async def reached(self, name: str) -> None:
        """Returns when the script stands at this gate: all before it was written."""
        async with within():
            await self.arrival(name).wait()

    async def left(self) -> float:
        """Returns when the peer has closed the connection: the loop's time of that."""
        async with within():
            await self.gone.wait()
        assert self.gone_at is not None
        return self.gone_at


Player = Callable[[Request], Script]


def model_like(request: Request) -> Script:
    """The default: what a good provider answers, streamed or not, with usage when asked."""
    asked = request.json()
    if not asked.get("stream"):
        return scripts.plain(200, scripts.completion())
    events = list(scripts.EVENTS)
    if (asked.get("stream_options") or {}).get("include_usage"):
        events.insert(-1, scripts.usage_event())
    return scripts.sse(events)


class Upstream:
    """`script` answers every request; `then(...)` puts scripts in front of it, one per request.

    `hasty` is asked at the head of a connection's first request: one that it has a script for is answered then and
    there, and its body is never read.
    """

    def __init__(
        self,
        script: Script | Player = model_like,
        host: str = "127.0.0.1",
        *,
        tls: ssl.SSLContext | None = None,
        hasty: Callable[[Request], Script | None] | None = None,
    ) -> None:
        self.script = script
        self.hasty = hasty
        self._host = host
        self._tls = tls
        self.exchanges: list[Exchange] = []
        self.connections = 0
        self.port = 0
        self._next: deque[Script] = deque()
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wires: set[_Wire] = set()
        self._server: asyncio.Server | None = None

    @property
    def base_url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http{'s' if self._tls else ''}://{host}:{self.port}/v1"

    def then(self, *each: Script) -> None:
        """Plays these to the next requests, one each, before `script` answers again."""
        self._next.extend(each)

    async def exchange(self, number: int = 0) -> Exchange:
        """The request with this number, counted from 0, as soon as it is here."""
        async with within(), self._changed:
            await self._changed.wait_for(lambda: len(self.exchanges) > number)
        return self.exchanges[number]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Wire(self), self._host, self.port, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for wire in list(self._wires):
            wire.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with within():
                await self._server.wait_closed()

    # --- told by the connections --------------------------------------------------------------

    def connected(self, wire: _Wire) -> int:
        self._wires.add(wire)
        self.connections += 1
        return self.connections - 1

    def disconnected(self, wire: _Wire) -> None:
        self._wires.discard(wire)

    def received(self, exchange: Exchange, wire: _Wire, script: Script | None = None) -> None:
        self.exchanges.append(exchange)
        if script is None:
            if self._next:
                script = self._next.popleft()
            else:
                script = self.script(exchange.request) if callable(self.script) else self.script
        loop = asyncio.get_running_loop()
        for work in (wire.play(exchange, script), self._tell()):
            task = loop.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class _Wire(asyncio.Protocol):
    """One connection: collects requests, plays scripts one after the other."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._held = bytearray()
        self._number = 0
        self._current: Exchange | None = None
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._number = self._upstream.connected(self)

    def data_received(self, data: bytes) -> None:
        self._held += data
        self._take()

    def eof_received(self) -> bool:
        self._left()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._left()
        self._may_write.set()
        self._upstream.disconnected(self)

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _left(self) -> None:
        if self._current is not None and not self._current.gone.is_set():
            self._current.gone_at = asyncio.get_running_loop().time()
            self._current.gone.set()

    def _take(self) -> None:
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._held[:end])
        now = asyncio.get_running_loop().time()
        if self._upstream.hasty is not None and self._current is None:
            request = Request(head, b"", self._number, now)
            script = self._upstream.hasty(request)
            if script is not None:
                assert self._transport is not None
                self._transport.pause_reading()
                self._current = Exchange(request)
                self._upstream.received(self._current, self, script)
                return
        length = int(Request(head, b"", 0, 0.0).headers.get("content-length", "0"))
        if len(self._held) < end + 4 + length:
            return
        body = bytes(self._held[end + 4 : end + 4 + length])
        del self._held[: end + 4 + length]
        self._current = Exchange(Request(head, body, self._number, now))
        self._upstream.received(self._current, self)

    async def play(self, exchange: Exchange, script: Script) -> None:
        for step in script:
            if exchange.gone.is_set() and not isinstance(step, Close):
                break
            await self._step(exchange, step)
        exchange.played.set()

    async def _step(self, exchange: Exchange, step: Step) -> None:
        transport = self._transport
        assert transport is not None
        match step:
            case Send(data):
                self._write(exchange, data)
            case Flood(data, times):
                for _ in range(times):
                    self._write(exchange, data)
                    await self._may_write.wait()
                    if exchange.gone.is_set():
                        break
            case Gate(name):
                exchange.arrival(name).set()
                await _either(exchange.gate(name), exchange.gone)
            case Pause(seconds):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await exchange.gone.wait()
            case Do(action):
                action()
            case Stall():
                exchange.arrival("stall").set()
                await exchange.gone.wait()
            case Reset():
                sock: socket.socket = transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                transport.abort()
            case Close():
                transport.close()
            case HalfClose():
                transport.write_eof()

    def _write(self, exchange: Exchange, data: bytes) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(data)
            exchange.sent += len(data)


async def _either(*events: asyncio.Event) -> None:
    """Returns when any of the events is set."""
    loop = asyncio.get_running_loop()
    waits = [loop.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
