"""A Redis that fails under two relays that are kept busy: what each fault costs, and that no limit becomes none.

Three keys are asked more than they may all the time: one with a rate, one with a budget, one with permits. Every fault
is preceded and followed by a time without one. What is looked at: what was admitted beyond the limits, answers that are
neither 200, 429 nor 503 for want of the store, how long calls had to wait, and when the store was asked again.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from tests.quotas.forwarder import Forwarder
from tests.redis_rig import RedisServer
from tests.rig import RawClient, RelayProcess, Request, Upstream, config
from tests.rig import scripts as say
from tests.rig.ports import free_port
from tests.rig.raw_client import chat_body, request
from tests.rig.relay_process import Fields

RPM, BUDGET, PERMITS = 120, 60, 4
RELAYS = 2
PACE = 0.025
"""Seconds between two calls of one client: two clients per key and relay ask 80 times a second."""
KEYS = {
    "rate": {"rpm": RPM},
    "budget": {"requests_per_day": BUDGET},
    "permits": {"concurrent": PERMITS},
}
BACK_WITHIN = 3.0
"""Seconds from the end of a fault until every relay asks the store again."""


class Work:
    """An upstream's player: how many calls of each key run at once, by what the call's user field says."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    def __call__(self, asked: Request) -> list[say.Step]:
        id = asked.json()["user"]
        self._running[id] += 1
        self.most[id] = max(self.most[id], self._running[id])

        def ends() -> None:
            self._running[id] -= 1

        return [say.Pause(0.03), say.Do(ends), *say.plain(200, say.completion())]


class Site:
    """Two servers, the second a replica of the first, and the address that the relays know."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.first = RedisServer(folder / "first", *options, port=free_port())
        self.second = RedisServer(
            folder / "second",
            *options,
            *("--replicaof", "127.0.0.1", str(self.first.port)),
            port=free_port(),
        )
        self.forwarder = Forwarder(self.first.port)

    async def __aenter__(self) -> Site:
        await self.first.__aenter__()
        await self.forwarder.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.forwarder.close()
        for server in (self.first, self.second):
            await server.__aexit__()

    async def told(self, *words: Any) -> Any:
        """A command to the first server, beside the relays."""
        return await asyncio.to_thread(self.first.client().execute_command, *words)


Act = Callable[[Site], Awaitable[object]]


@dataclass(frozen=True)
class Fault:
    name: str
    begin: Act
    end: Act | None = None
    """None: it is over by itself, or at once."""
    lasts: float = 2.0
    options: tuple[str, ...] = ()
    forgets: bool = False
    """The server has lost what it knew: budgets rest until the relays have told it."""


async def _stop(site: Site) -> None:
    site.first.signal(signal.SIGSTOP)


async def _go_on(site: Site) -> None:
    site.first.signal(signal.SIGCONT)


async def _kill(site: Site) -> None:
    await asyncio.to_thread(site.first.kill)


async def _start(site: Site) -> None:
    await asyncio.to_thread(site.first.start)


async def _fail_over(site: Site) -> None:
    """The first dies, and a moment later the second is at its address."""
    await asyncio.to_thread(site.first.kill)
    await asyncio.to_thread(site.second.client().execute_command, "REPLICAOF", "NO", "ONE")


async def _to_second(site: Site) -> None:
    site.forwarder.port = site.second.port


async def _full(site: Site) -> None:
    await site.told("SET", "filler", "x" * 2_000_000)
    await site.told("CONFIG", "SET", "maxmemory", "1mb")


async def _sleep(site: Site) -> None:
    # Its own answer comes when it wakes.
    asyncio.get_running_loop().run_in_executor(
        None, site.first.client().execute_command, "DEBUG", "SLEEP", "2"
    )


def _says(*words: Any) -> Act:
    return lambda site: site.told(*words)


FAULTS = (
    Fault("SIGSTOP, SIGCONT", _stop, _go_on),
    Fault("kill -9, restart", _kill, _start, forgets=True),
    Fault(
        "kill -9, restart, AOF",
        _kill,
        _start,
        options=("--appendonly", "yes", "--appendfsync", "everysec"),
        forgets=True,
    ),
    Fault("DEBUG SLEEP 2", _sleep),
    Fault("FLUSHALL", _says("FLUSHALL"), lasts=0.5, forgets=True),
    Fault("SCRIPT FLUSH", _says("SCRIPT", "FLUSH"), lasts=0.5),
    Fault("failover", _fail_over, _to_second, forgets=True),
    Fault("READONLY", _says("REPLICAOF", "127.0.0.1", "1"), _says("REPLICAOF", "NO", "ONE")),
    Fault("OOM", _full, _says("CONFIG", "SET", "maxmemory", "0")),
    Fault("CLIENT PAUSE 2000", _says("CLIENT", "PAUSE", "2000", "ALL")),
    Fault("connections cut", lambda site: site.forwarder.cut(), lasts=0.5),
)


@dataclass
class Row:
    """What came of one fault."""

    fault: str
    calls: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    over: dict[str, int] = field(default_factory=dict)
    """Admitted beyond the limit, by key."""
    odd: list[str] = field(default_factory=list)
    before_ms: float = 0.0
    """The 99th percentile of a call before the fault,"""
    during_ms: float = 0.0
    """and during it."""
    slowest_ms: float = 0.0
    back_s: float = -1.0
    away: int = 0
    """Relays that said that it was away."""

    @property
    def added_ms(self) -> float:
        return self.during_ms - self.before_ms

    def wrong(self) -> list[str]:
        """What is not as it is promised."""
        found = list(self.odd)
        found += [f"{key} over by {n}" for key, n in self.over.items() if n and key != "rate"]
        if self.over["rate"] > RPM:
            found.append(f"rate over by {self.over['rate']}")
        if self.added_ms > 50:
            found.append(f"{self.added_ms:.0f} ms more")
        if not 0 <= self.back_s <= BACK_WITHIN:
            found.append(f"asked again after {self.back_s} s")
        return found


def fields_of(site: Site, upstream: Upstream) -> Fields:
    keys = [{"id": id, "key": key_of(id), "limits": limits} for id, limits in KEYS.items()]
    return config(
        {"a": upstream}, None, keys, quota_store=f"redis://127.0.0.1:{site.forwarder.address}/0"
    )


def key_of(id: str) -> str:
    return f"sk-fault-{id}-0123456789"


class Crowd:
    """Clients that ask all the time, each at its pace, and note what they were told."""

    def __init__(self, relays: list[RelayProcess]) -> None:
        self._relays = relays
        self.seen: list[tuple[str, float, float, int, str]] = []
        """Key, when it was asked, how long it took, status, code."""
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for relay in self._relays:
            for id in KEYS:
                for _ in range(2):
                    task = asyncio.ensure_future(self._ask(relay, id))  # noqa: TID251
                    self._tasks.append(task)

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _ask(self, relay: RelayProcess, id: str) -> None:
        call = request(
            "POST", "/v1/chat/completions", chat_body(stream=False, user=id), key=key_of(id)
        )
        async with await RawClient.connect(relay.address) as client:
            while not self._stop.is_set():
                began = monotonic()
                answer = await client.ask(call)
                took = monotonic() - began
                code = "" if answer.status == 200 else str(answer.error["code"])
                self.seen.append((id, began, took, answer.status, code))
                try:
                    async with asyncio.timeout(PACE):
                        await self._stop.wait()
                except TimeoutError:
                    continue


async def play(fault: Fault, folder: Path) -> Row:
    """One fault under load."""
    row = Row(fault.name)
    load = Work()
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(Site(folder, *fault.options))
        if fault.name == "failover":
            await site.second.__aenter__()
            await asyncio.to_thread(site.second.in_step)
        upstream = await stack.enter_async_context(Upstream(load))
        fields = fields_of(site, upstream)
        relays = []
        for number in range(RELAYS):
            home = folder / f"relay-{number}"
            home.mkdir()
            relays.append(await stack.enter_async_context(RelayProcess(fields, home)))
        crowd = Crowd(relays)
        began = monotonic()
        crowd.start()
        await _passes(1.5)
        broke = monotonic()
        await fault.begin(site)
        await _passes(fault.lasts)
        if fault.end is not None:
            await fault.end(site)
        mended = monotonic()
        row.back_s = await _asked_again(relays, mended)
        await _passes(1.5)
        await crowd.stop()
        row.away = sum("quota_store_away" in relay.stderr for relay in relays)
        _judge(row, crowd, load, began, broke, mended)
    return row


async def _passes(seconds: float) -> None:
    """The crowd goes on for so long."""
    await asyncio.sleep(seconds)


async def _asked_again(relays: list[RelayProcess], since: float) -> float:
    """Seconds until all relays say that the store answers."""
    name = 'relay_store_up{store="redis"}'
    while monotonic() < since + 30:
        if all([(await relay.metrics()).get(name) == 1 for relay in relays]):
            return round(monotonic() - since, 2)
    return -1.0


def _judge(row: Row, crowd: Crowd, load: Work, began: float, broke: float, mended: float) -> None:
    seen = crowd.seen
    row.calls = len(seen)
    row.statuses = dict(Counter(f"{status} {code}".strip() for _, _, _, status, code in seen))
    row.odd = sorted(
        {
            f"{status} {code}"
            for _, _, _, status, code in seen
            if status not in (200, 429) and code != "quota_store_unavailable"
        }
    )
    admitted = Counter(id for id, _, _, status, _ in seen if status == 200)
    took = monotonic() - began
    row.over = {
        "rate": max(0, admitted["rate"] - int(RPM * (1 + took / 60))),
        "budget": max(0, admitted["budget"] - BUDGET),
        "permits": max(0, load.most["permits"] - PERMITS),
    }
    # Not the first half second: relays and clients get to know each other.
    before = [took for _, at, took, _, _ in seen if began + 0.5 < at < broke - 0.1]
    during = [took for _, at, took, _, _ in seen if broke - 0.1 <= at < mended]
    row.before_ms, row.during_ms = (round(_p99(each) * 1000, 1) for each in (before, during))
    row.slowest_ms = round(max(during, default=0.0) * 1000, 1)


def _p99(found: list[float]) -> float:
    return sorted(found)[int(len(found) * 0.99)] if found else 0.0


def line(row: Row) -> str:
    return json.dumps(vars(row) | {"added_ms": round(row.added_ms, 1)})
