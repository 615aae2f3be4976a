"""What admission costs: CPU of the serving process for a reservation and its settlement, four limits each.

In process: the gate alone. Over the socket: the worker's end of a real link to a real hub in another process, with many
calls under way, so that a frame carries as many as it does under load. Runs on the sources, or on what `make compile`
made of them (`PYTHONPATH=.cache/compiled python -P -m …` with this checkout behind it).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from math import inf
from pathlib import Path
from statistics import median
from time import monotonic, process_time, time

import uvloop

import relay.admission.gate
from relay.admission.authority import Authority
from relay.admission.gate import Gate, Lease, Need
from relay.admission.principals import Principal, Principals
from relay.admission.remote import RemoteGate
from relay.admission.store import StoreGate
from relay.config import file
from relay.errors import RelayError
from relay.observe.exposition import Snapshot
from relay.page.telling import Telling
from relay.upstream.shares import Shares
from relay.workers import link
from relay.workers.board import Board
from relay.workers.members import Members
from relay.workers.messages import Judged
from relay.workers.uplink import Uplink

KEY = """
models: {m: {static: x}}
keys:
  - id: bench
    key: sk-bench-0123456789abcdef
    limits: {rpm: 100000000, tpm: 1000000000, concurrent: 100000, usd_per_month: 1000000}
"""
NEED = Need(500, 2000, 3_000_000)
USED = (420, 900_000)
"""Tokens, nano-dollars."""
UNDER_WAY = 256
CODE = "sources" if Path(relay.admission.gate.__file__).suffix == ".py" else "compiled"


def principals() -> Principals:
    return Principals.build(file.loads(KEY.encode(), {}).keys, {})


def in_process(calls: int) -> float:
    """Microseconds of CPU a call."""
    table = principals()
    gate, principal = Gate(table, {}), table.by_id["bench"]
    now, wall = monotonic(), time()
    began = process_time()
    for number in range(calls):
        at = now + number * 1e-4
        lease = gate.reserve(principal, "m", NEED, at, wall)
        lease.settle(at, *USED)
    return (process_time() - began) / calls * 1e6


class Subject:
    """A worker that does nothing else."""

    serving = True
    digest = ""

    def told(self) -> Telling:
        return Telling()

    async def counted(self) -> tuple[Snapshot, list[str], bool]:
        return Snapshot({}, {}), [], False

    async def welcomed(self, source: bytes | None) -> None:
        pass

    async def prepare(self, source: bytes) -> tuple[str, list[str]]:
        return "", []

    def commit(self) -> Callable[[], Awaitable[None]]:
        return lambda: asyncio.sleep(0)

    async def abandon(self) -> None:
        pass

    def judged(self, note: Judged) -> None:
        pass


class Callers:
    """So many calls under way at once; each that is admitted ends, and the next one asks."""

    def __init__(self, gate: RemoteGate, principal: Principal, calls: int) -> None:
        self._gate = gate
        self._principal = principal
        self.left = calls
        self.done = asyncio.Event()
        self.running = 0

    def ask(self) -> None:
        self.left -= 1
        self.running += 1
        one = Caller(self)
        one.lease = self._gate.reserve(self._principal, "m", NEED, monotonic(), time(), one)

    def ended(self) -> None:
        self.running -= 1
        if self.left > 0:
            self.ask()
        elif not self.running:
            self.done.set()


class Caller:
    """Implements `gate.Applicant`."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers
        self.lease: Lease | None = None

    def admitted(self) -> None:
        lease = self.lease
        assert lease is not None, "the answer comes later"
        lease.settle(monotonic(), *USED)
        self._callers.ended()

    def refused(self, error: RelayError) -> None:
        raise error


async def _hub(listener: object) -> None:
    members = Members(Authority(principals(), {}), Board(1))
    await members.start(listener)
    await asyncio.get_running_loop().create_future()


async def _worker(address: bytes, calls: int) -> float:
    table = principals()
    gate = RemoteGate(table, {})
    uplink = Uplink(0, address, gate, Shares(), Subject())
    await uplink.start()
    callers = Callers(gate, table.by_id["bench"], calls)
    began = process_time()
    for _ in range(min(calls, UNDER_WAY)):
        callers.ask()
    await callers.done.wait()
    return (process_time() - began) / calls * 1e6


def over_the_socket(calls: int) -> float:
    """Microseconds of the worker's CPU a call."""
    listener = link.listen()
    address = listener.getsockname()
    hub = os.fork()
    if not hub:
        signal.alarm(120)
        uvloop.run(_hub(listener))
        os._exit(0)
    try:
        return uvloop.run(_worker(address, calls))
    finally:
        os.kill(hub, signal.SIGKILL)
        os.waitpid(hub, 0)
        listener.close()


def of_a_slice(calls: int) -> float:
    """Microseconds of CPU a call that a relay admits from what a store has leased it."""
    table = principals()
    gate, principal = StoreGate(table, {}, lambda: ""), table.by_id["bench"]
    now, wall = monotonic(), time()
    gate.away = False
    gate.reserve(principal, "m", NEED, now, wall, _Told())
    for stake in gate.letters.stakes.values():
        stake.free, stake.keeps = 10**15, True
        stake.ends, stake.until = 2**40, inf
    gate.letters.until = inf
    began = process_time()
    for _ in range(calls):
        gate.reserve(principal, "m", NEED, now, wall).settle(now, *USED)
    return (process_time() - began) / calls * 1e6


class _Told:
    """A call that does not listen."""

    def admitted(self) -> None:
        pass

    def refused(self, error: RelayError) -> None:
        pass


PLACES: dict[str, Callable[[int], float]] = {
    "in process": in_process,
    "socket, saturated": over_the_socket,
    "slice of a store": of_a_slice,
}


def run(calls: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds a call, of every round."""
    return {name: [measure(calls) for _ in range(rounds)] for name, measure in PLACES.items()}


if __name__ == "__main__":
    for name, found in run(100_000, 5).items():
        told = ", ".join(f"{each:.2f}" for each in found)
        sys.stdout.write(f"{CODE}: {name}: median {median(found):.2f} µs ({told})\n")
