"""Connections that are kept to upstreams: for how long, and what happens when one dies under a request.

Whether an upstream's close or our next request comes first is a race that nobody can win: what was sent on a connection
that was already closed is sent once more on a fresh one, and neither the client nor the upstream's health hears of it.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from relay.config.file import loads
from relay.snapshot import Snapshot
from relay.upstream.attempt import connections_of
from relay.upstream.connections import Connections
from tests.plane import Plane, play
from tests.rig import scripts as say
from tests.rig.deadlines import SCALE, scenario, within
from tests.rig.raw_client import RawClient
from tests.rig.relay_process import Fields, RelayProcess, config
from tests.rig.upstream import Upstream
from tests.wires import asked

PLAIN = asked({"stream": False})
BODY = json.dumps(say.completion()).encode()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)


# --- for how long ---------------------------------------------------------------------------------


def limited(**limits: object) -> Fields:
    return config({"a": {"base_url": "http://192.0.2.1/v1", "connections": limits}})


def limits_of(pool: Connections) -> tuple[float, float, int]:
    return pool.max_idle, pool.max_age, pool.max_kept


def test_the_limits_are_an_upstreams_own_and_follow_a_reload() -> None:
    async def scene() -> None:
        own = limited(max_idle="1s", max_age="1m", max_kept=3)["upstreams"]["a"]
        async with Plane({"a": {"base_url": "http://192.0.2.1/v1"}, "b": own}) as plane:
            ours, theirs = (connections_of(plane.endpoint(name)) for name in "ab")

            assert limits_of(ours) == (4.0, 300.0, 1000)
            assert limits_of(theirs) == (1.0, 60.0, 3)
            new = loads(json.dumps(limited(max_idle="2s")).encode(), {})
            snapshot = Snapshot(new, plane.memory)
            assert connections_of(snapshot.endpoints["a"][0]) is ours
            assert limits_of(ours) == (2.0, 300.0, 1000)

    play(scene())


@scenario
async def test_an_idle_connection_is_closed_after_max_idle(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        fields = config(
            {"a": {"base_url": upstream.base_url, "connections": {"max_idle": "300ms"}}}
        )
        async with RelayProcess(fields, tmp_path) as relay:
            await relay.chat(stream=False)
            exchange = await upstream.exchange()
            answered = asyncio.get_running_loop().time()
            gone = await exchange.left()

        assert 0.25 < gone - answered < 0.3 + 1.0 * SCALE


@scenario
async def test_a_connection_in_constant_use_is_replaced_after_max_age(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        fields = config({"a": {"base_url": upstream.base_url, "connections": {"max_age": "300ms"}}})
        async with RelayProcess(fields, tmp_path) as relay:
            loop = asyncio.get_running_loop()
            start = loop.time()
            calls = 0
            while upstream.connections < 3:
                assert (await relay.chat(stream=False)).status == 200
                calls += 1

        assert loop.time() - start > 0.6
        assert calls > 3


# --- dying under a request ------------------------------------------------------------------------


Served = Callable[[asyncio.Transport, int], None]
"""Is called with a connection and how many requests came on it, when the newest is whole."""


class Server(asyncio.Protocol):
    """Reads requests by their length, and leaves the rest to the test."""

    def __init__(self, served: Served, whole: bool) -> None:
        self._served = served
        self._whole = whole
        self._held = bytearray()
        self._requests = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._held[:end]).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            if len(self._held) < end + 4 + length and (self._whole or not self._requests):
                return
            del self._held[: end + 4 + length]
            self._requests += 1
            self._served(self._transport, self._requests)


@asynccontextmanager
async def serving(served: Served, *, whole: bool = True) -> AsyncIterator[Fields]:
    """An upstream; with `whole` false, it hears of the second request of a connection when its first bytes are here."""
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Server(served, whole), "127.0.0.1", 0)
    try:
        port = listening.sockets[0].getsockname()[1]
        yield {"base_url": f"http://127.0.0.1:{port}/v1"}
    finally:
        listening.close()


def test_an_upstream_that_closes_idle_connections_at_any_moment_costs_no_call() -> None:
    """Thousands of calls, each on a connection that may be closed at the very moment of it."""
    calls, at_once = 3000, 20
    dice = random.Random(7)

    def served(transport: asyncio.Transport, requests: int) -> None:
        transport.write(ANSWER)
        end = transport.abort if dice.random() < 0.5 else transport.close
        asyncio.get_running_loop().call_later(dice.random() * 0.004, end)

    async def scene() -> None:
        async with serving(served) as upstream, Plane({"a": upstream}) as plane:
            address = await plane.listen()

            async def client() -> None:
                async with await RawClient.connect(address) as client:
                    for _ in range(calls // at_once):
                        answer = await client.ask(PLAIN)
                        assert answer.status == 200
                        assert answer.body == BODY

            async with within(50 * SCALE):
                await asyncio.gather(*(client() for _ in range(at_once)))

            assert len(plane.records) == calls
            assert {record.outcome for record in plane.records} == {"ok"}
            results = [a.result for record in plane.records for a in record.attempts]
            assert set(results) == {"ok", "stale_conn"}
            assert plane.endpoint().breaker.state.value == "closed"

    play(scene())


@pytest.mark.parametrize("end", ["close", "abort"])
def test_a_connection_that_closes_while_a_large_request_is_sent_is_replaced(end: str) -> None:
    body = asked({"stream": False, "padding": "z" * (4 << 20)})

    def served(transport: asyncio.Transport, requests: int) -> None:
        if requests == 1:
            transport.write(ANSWER)
        else:
            getattr(transport, end)()

    async def scene() -> None:
        async with serving(served, whole=False) as upstream, Plane({"a": upstream}) as plane:
            async with await RawClient.connect(await plane.listen()) as client:
                for _ in range(2):
                    answer = await client.ask(body)
                    assert answer.status == 200

            results = [a.result for record in plane.records for a in record.attempts]
            assert results == ["ok", "stale_conn", "ok"]

    play(scene())


def test_one_that_dies_each_time_is_the_upstreams_fault_the_second_time() -> None:
    def served(transport: asyncio.Transport, requests: int) -> None:
        seen.append(requests)
        if len(seen) == 1:
            transport.write(ANSWER)
        else:
            transport.abort()

    seen: list[int] = []

    async def scene() -> None:
        once = {"m": {"pool": [{"upstream": "a"}], "retry": {"attempts": 1}}}
        async with serving(served) as upstream, Plane({"a": upstream}, once) as plane:
            async with await RawClient.connect(await plane.listen()) as client:
                assert (await client.ask(PLAIN)).status == 200
                assert (await client.ask(PLAIN)).status == 502

            results = [a.result for a in plane.records[1].attempts]
            assert results == ["stale_conn", "reset_before_headers"]

    play(scene())
