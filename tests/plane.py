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
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar

import uvloop

from relay.admission.configured import GroupLike
from relay.admission.gate import Gate, Lease
from relay.admission.principals import Principals
from relay.call import RequestIds
from relay.config.file import loads
from relay.equipment import Memory
from relay.front import Front
from relay.health import Health
from relay.listener import listeners
from relay.port import Patience, Port
from relay.proxy import Proxy
from relay.reception import Reception
from relay.records import CallRecord
from relay.snapshot import Snapshot
from relay.timers import Wheel
from relay.upstream.attempt import Tools
from relay.upstream.connections import connections_of
from relay.upstream.dial import Dialer
from relay.upstream.directory import Directory
from relay.upstream.endpoint import Endpoint
from relay.upstream.tail import Tail
from relay.upstream.wire import Connection
from tests.rig.deadlines import WHOLE, within
from tests.rig.relay_process import Fields, config
from tests.rig.upstream import Upstream
from tests.wires import Caller, Provider, Tap

T = TypeVar("T")

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


class Settled(Lease):
    """A lease that counts how often it was settled."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self.open = lease.open
        self.settled: list[tuple[int, int]] = []
        """Tokens and cost, each time."""

    def settle(self, now: float, tokens: int, cost: int) -> None:
        self.settled.append((tokens, cost))
        self._lease.settle(now, tokens, cost)

    def cancel(self, now: float) -> None:
        self.settle(now, 0, 0)


class Ledger(Gate):
    """A gate that keeps every lease it gave."""

    def __init__(self, principals: Principals, groups: Mapping[str, GroupLike]) -> None:
        super().__init__(principals, groups)
        self.leases: list[Settled] = []

    def reserve(self, *args: Any, **more: Any) -> Lease:
        lease = Settled(super().reserve(*args, **more))
        self.leases.append(lease)
        return lease


class Plane:
    """Everything between the two sockets. `fields` is a configuration, by default one upstream `a` behind model `m`."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream | Fields] | None = None,
        models: Mapping[str, Fields] | None = None,
        keys: Sequence[Fields] | None = None,
        *,
        gate: type[Ledger] = Ledger,
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
        self.front = Front(Port(self.reception, self.wheel, RequestIds("test"), patience))
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
        assert all(len(lease.settled) == 1 for lease in self.gate.leases)
        assert self.bugs == []
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
        (sock,) = listeners("127.0.0.1", 0, 128)
        self._server = await loop.create_server(self._accept, sock=sock)
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
