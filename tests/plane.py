"""The data plane of one relay inside the test's own loop, composed as `app` does it.

Two ways in, one composition. Over real sockets: `Plane.listen()`, a `RawClient`, a scripted `Upstream`. By hand:
`Caller` and `Provider` are the two ends of a call with transports that the test holds, so that it decides which bytes
come together, in which order, and sees at once what they caused. Leaving the `async with` proves that nothing is left:
every call recorded once, every lease, load and deadline given back.
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import uvloop

from relay.admission.gate import Gate
from relay.call import RequestIds
from relay.config.file import loads
from relay.front import Front
from relay.health import Health
from relay.port import Patience
from relay.proxy import Proxy
from relay.reception import Reception
from relay.records import CallRecord
from relay.snapshot import Memory, Snapshot
from relay.timers import Wheel
from relay.upstream.attempt import Tools, connections_of
from relay.upstream.dial import Dialer
from relay.upstream.endpoint import Directory, Endpoint
from relay.upstream.tail import Tail
from relay.upstream.wire import Connection
from tests.rig.deadlines import WHOLE, within
from tests.rig.raw_client import KEY, chat_body, request
from tests.rig.relay_process import Fields, config
from tests.rig.upstream import Upstream

T = TypeVar("T")

CHAT = "/v1/chat/completions"
NOWHERE: Fields = {"base_url": "http://192.0.2.1:9/v1"}
"""An upstream that is reached by the connections a test hands over only."""


def play(scene: Coroutine[Any, Any, T]) -> T:
    """Runs a test's scene on the loop that serves in production."""

    async def bounded() -> T:
        async with asyncio.timeout(WHOLE):
            return await scene

    return uvloop.run(bounded())


@contextmanager
def stage(*args: Any, **fields: Any) -> Iterator[tuple[Plane, Callable[..., Any]]]:
    """A plane and what runs a scene on its loop, for the examples of a property."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        async def made() -> Plane:
            return await Plane(*args, **fields).__aenter__()

        plane = runner.run(made())
        error: BaseException | None = None
        try:
            yield plane, runner.run
        except BaseException as raised:
            error = raised
            raise
        finally:
            runner.run(plane.__aexit__(None if error is None else type(error), error, None))


async def turn() -> None:
    """Lets the loop run what is ready: callbacks that were put off until its next turn."""
    for _ in range(3):
        done = asyncio.Event()
        asyncio.get_running_loop().call_soon(done.set)
        await done.wait()


class Plane:
    """Everything between the two sockets. `fields` is a configuration, by default one upstream `a` behind model `m`."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream | Fields] | None = None,
        models: Mapping[str, Fields] | None = None,
        keys: Sequence[Fields] | None = None,
        *,
        gate: type[Gate] = Gate,
        **more: object,
    ) -> None:
        self._fields = config(upstreams or {"a": NOWHERE}, models, keys, **more)
        self._gate_of = gate
        self.records: list[CallRecord] = []
        """As they were when they were emitted."""
        self.bugs: list[BaseException] = []
        """What a boundary of the product caught."""
        self._news = asyncio.Event()
        self._ticked = asyncio.Event()
        self._ends: list[Tap] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self.config = loads(json.dumps(self._fields, ensure_ascii=False).encode(), {})
        self.wheel = Wheel(loop)
        self.wheel.on_lag = lambda _: self._ticked.set()
        self.dialer = Dialer(loop)
        self.memory = Memory(loop, Directory(), self.bugs.append)
        self.snapshot = Snapshot(self.config, self.memory)
        self.gate = self._gate_of(self.snapshot.principals, self.config.groups)
        self.proxy = Proxy(self.gate, Tools(self.dialer, self.wheel), self._emit, self.bugs.append)
        self.health = Health()
        self.health.phase = "ready"
        self.reception = Reception(self.proxy, self.snapshot, self.health.livez, self.health.readyz)
        timeouts = self.config.server.timeouts
        patience = Patience(timeouts.header, timeouts.body, timeouts.keep_alive)
        self.front = Front(self.reception, self.wheel, RequestIds("test"), patience)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                await self.idle()
                self.settled()
        finally:
            if self._server is not None:
                self._server.close()
            await self.front.shutdown()
            for connections in self.snapshot.connections():
                for connection in list(connections.open):
                    connection.close()
            await self.dialer.close()
            self.wheel.close()
            await turn()

    # --- what happened ------------------------------------------------------------------------

    def _emit(self, record: CallRecord) -> None:
        self.records.append(copy.copy(record))
        self._news.set()

    async def record(self, number: int = 0) -> CallRecord:
        """The record with this number, counted from 0, as soon as it is here."""
        async with within():
            while len(self.records) <= number:
                self._news.clear()
                await self._news.wait()
        return self.records[number]

    async def tick(self) -> None:
        """Returns after the wheel has turned once more."""
        self._ticked.clear()
        async with within():
            await self._ticked.wait()

    async def idle(self) -> None:
        """Returns when no call is under way."""
        if self.proxy.active:
            done = asyncio.Event()
            self.proxy.on_idle = done.set
            async with within():
                await done.wait()
            self.proxy.on_idle = None

    def endpoints(self) -> list[Endpoint]:
        return [endpoint for found in self.snapshot.endpoints.values() for endpoint in found]

    def endpoint(self, name: str = "a") -> Endpoint:
        return self.snapshot.endpoints[name][0]

    def waiting(self) -> list[object]:
        """What has a deadline, but for connections of clients and ends of framing."""
        items = {item for slot in self.wheel._slots.values() for item in slot if item.slot >= 0}
        return [item for item in items if not isinstance(item, asyncio.Protocol | Tail)]

    def settled(self) -> None:
        """Nothing is under way, and everything was given back, once."""
        assert not self.proxy.active
        assert self.gate.inflight == 0
        for endpoint in self.endpoints():
            assert endpoint.inflight == 0, endpoint
            assert endpoint.account.inflight == 0, endpoint
            for connection in connections_of(endpoint).open:
                assert connection.receiver is None or isinstance(connection.receiver, Tail)
        assert not any(self.proxy.streams.values()), self.proxy.streams
        assert self.waiting() == []
        ids = [record.request_id for record in self.records]
        assert len(set(ids)) == len(ids), "a call left two records"

    # --- ways in ------------------------------------------------------------------------------

    async def listen(self) -> tuple[str, int]:
        """Opens a real port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        return host, port

    def _accept(self) -> asyncio.Protocol:
        tap = Tap(self.front())
        self._ends.append(tap)
        return tap

    async def hung_up(self, number: int = 0) -> None:
        """Returns when the accepted connection with this number is gone."""
        async with within():
            await self._ends[number].lost.wait()

    def caller(self, peer: str = "127.0.0.1") -> Caller:
        """A client that has just connected."""
        return Caller(self.front(), peer)

    def provider(self, name: str = "a") -> Provider:
        """A connection of this upstream that stands ready; the next attempt takes the freshest."""
        pool = connections_of(self.endpoint(name))
        connection = Connection(pool, monotonic())
        provider = Provider(connection)
        pool.made(connection)
        pool.put(connection)
        return provider


class Tap(asyncio.Protocol):
    """Passes everything on to a protocol and tells when its connection is gone."""

    def __init__(self, inner: asyncio.Protocol) -> None:
        self._inner = inner
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)
        self.lost.set()


class Wire(asyncio.Transport):
    """A transport in the test's hand: remembers what was written and done, delivers nothing."""

    def __init__(self, protocol: asyncio.Protocol, peer: str) -> None:
        super().__init__({"peername": (peer, 40000)})
        self._protocol = protocol
        self.sent = bytearray()
        self.too_late = bytearray()
        """Written after it was closed."""
        self.closed = False
        self.aborted = False
        self.half_closed = False
        self.paused = False
        self.lost = False
        self.stuck = False
        """The peer reads nothing: a close waits for its flush for ever."""
        self.news = asyncio.Event()
        """Something was written, or it was lost."""

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self.closed or self.half_closed:
            self.too_late += data
        else:
            self.sent += data
        self.news.set()

    def write_eof(self) -> None:
        self.half_closed = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            if not self.stuck:
                asyncio.get_running_loop().call_soon(self.lose, None)

    def abort(self) -> None:
        self.aborted = self.closed = True
        asyncio.get_running_loop().call_soon(self.lose, None)

    def lose(self, error: Exception | None) -> None:
        self.closed = True
        if not self.lost:
            self.lost = True
            self._protocol.connection_lost(error)
            self.news.set()

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_reading(self) -> bool:
        return not self.paused

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 1 if self.stuck else 0


class _End:
    """One end of a wire: the test plays the peer."""

    def __init__(self, protocol: asyncio.Protocol, peer: str = "127.0.0.1") -> None:
        self.protocol = protocol
        self.wire = Wire(protocol, peer)
        protocol.connection_made(self.wire)

    @property
    def got(self) -> bytes:
        """Everything that was sent to the peer."""
        return bytes(self.wire.sent)

    def say(self, *pieces: bytes) -> None:
        """What the peer sends, one segment each. What it sends after the close reaches nobody."""
        for piece in pieces:
            if not self.wire.closed:
                self.protocol.data_received(piece)

    def leave(self, error: Exception | None = None) -> None:
        """The peer closes, or resets."""
        self.wire.lose(error)

    def choke(self) -> None:
        """The peer reads no more, and what waits for it has passed the high-water mark."""
        self.wire.stuck = True
        self.protocol.pause_writing()

    def drain(self) -> None:
        """It has read everything."""
        self.wire.stuck = False
        self.protocol.resume_writing()

    async def hears(self, words: bytes, times: int = 1) -> None:
        """Returns when the peer was sent these bytes."""
        await self._until(lambda: self.wire.sent.count(words) >= times)

    async def lost(self) -> None:
        """Returns when the connection is gone."""
        await self._until(lambda: self.wire.lost)

    async def _until(self, met: Callable[[], bool]) -> None:
        async with within():
            while not met():
                self.wire.news.clear()
                await self.wire.news.wait()


class Caller(_End):
    """A client on a wire of its own."""

    def ask(self, **body: object) -> None:
        """A whole chat call in one segment."""
        self.say(asked(body))

    @property
    def answers(self) -> Answers:
        return Answers(self.got)


class Provider(_End):
    """An upstream on a kept connection."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.connection = connection

    def body(self) -> Any:
        """The JSON of the request it was sent."""
        return json.loads(self.got.partition(b"\r\n\r\n")[2])


def asked(
    body: Mapping[str, object] | None = None,
    *,
    key: str = KEY,
    headers: Mapping[str, str] | None = None,
    version: str = "1.1",
) -> bytes:
    """The bytes of a chat call."""
    whole = chat_body(**(body or {}))
    return request("POST", CHAT, whole, key=key, headers=headers, version=version)


class Answers:
    """What a client was sent, read strictly by its framing. `rest` are bytes that belong to no answer."""

    def __init__(self, data: bytes) -> None:
        self.all: list[Reply] = []
        self.rest = data
        while self.rest.startswith(b"HTTP/1."):
            reply = Reply.of(self.rest)
            if reply is None:
                break
            self.all.append(reply)
            self.rest = self.rest[reply.size :]
            if not reply.whole:
                break

    @property
    def only(self) -> Reply:
        assert len(self.all) == 1, self.all
        assert not self.rest, self.rest
        return self.all[0]

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, number: int) -> Reply:
        return self.all[number]


_SIZE_LINE = re.compile(rb"([0-9a-fA-F]+)\r\n")


class Reply:
    """One answer, as far as it is there."""

    def __init__(self, head: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        self.headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:])
        }
        self.body = b""
        self.whole = False
        """Complete by its framing; never, where only a close delimits it."""
        self.size = len(head) + 4

    @classmethod
    def of(cls, data: bytes) -> Reply | None:
        head, found, rest = data.partition(b"\r\n\r\n")
        if not found:
            return None
        reply = cls(head)
        reply._read(rest)
        return reply

    def _read(self, rest: bytes) -> None:
        length = self.headers.get("content-length")
        if self.status < 200 or self.status in (204, 304):
            self.whole = True
        elif "transfer-encoding" in self.headers:
            assert length is None
            self._read_chunks(rest)
        elif length is not None:
            self.body = rest[: int(length)]
            self.whole = len(self.body) == int(length)
            self.size += len(self.body)
        else:
            self.body = rest
            self.size += len(rest)

    def _read_chunks(self, rest: bytes) -> None:
        at = 0
        while match := _SIZE_LINE.match(rest, at):
            size, start = int(match[1], 16), match.end()
            assert rest[start + size : start + size + 2] in (b"\r\n", b""), rest[at : at + 80]
            if not size:
                assert rest[start : start + 2] == b"\r\n"
                self.whole = True
                at = start + 2
                break
            self.body += rest[start : start + size]
            at = start + size + 2
        else:
            assert at == len(rest), f"not a chunk: {rest[at : at + 80]!r}"
        self.size += at

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The code of the error that the answer is."""
        return cast("str | None", self.json()["error"]["code"])
