"""Where `make observe` plays: two relays, what they depend on and who uses them, and how its faults begin and end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from tests.observe.place import Callers, Provider
from tests.observe.small import Small, Visitors
from tests.rig import RelayProcess

LARGE, SMALL = "large", "small"
"""The relays."""

STALL = (0.2, 0.2)
THROTTLE = (0.08, 0.008)
"""Seconds for which a process stands still, and runs: the second is what a control group does that allows it a tenth
of a CPU."""


@dataclass
class Stage:
    """Two relays, what they depend on, and who uses them."""

    relay: RelayProcess
    providers: dict[str, Provider]
    callers: Callers
    crowd: Callers
    """Those who come with a fault, and go with it."""
    small: Small
    steady: Provider
    """Behind the small one."""
    visitors: Visitors
    """Of the small one; the others come with a fault."""
    flood: Visitors
    locks: dict[str, sqlite3.Connection] = field(default_factory=dict)
    """On the database of each relay."""
    stalling: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    @property
    def names(self) -> dict[str, str]:
        """Of the relays, by the label `instance`."""
        relays = {LARGE: self.relay, SMALL: self.small}
        return {"{}:{}".format(*relay.admin): name for name, relay in relays.items()}

    def pids(self, name: str) -> list[int]:
        """The processes of a relay that serve."""
        return [self.small.pid] if name == SMALL else self.workers()

    def workers(self) -> list[int]:
        """The processes that serve, of those that were ever started."""
        lines = self.relay.lines
        dead = {line["pid"] for line in lines if line.get("event") == "process_died"}
        started = [line for line in lines if line.get("event") == "process_started"]
        return [
            line["pid"]
            for line in started
            if str(line["process"]).startswith("worker") and line["pid"] not in dead
        ]


Act = Callable[[Stage], Awaitable[None]]


def mood(name: str, mood: str) -> Act:
    async def act(stage: Stage) -> None:
        stage.providers[name].mood = mood

    return act


async def nothing(_: Stage) -> None:
    pass


async def kill(stage: Stage) -> None:
    await stage.providers["main"].upstream.__aexit__(None, None, None)


async def raise_again(stage: Stage) -> None:
    await stage.providers["main"].upstream.__aenter__()


async def crowd(stage: Stage) -> None:
    stage.providers["narrow"].mood = "busy"
    stage.crowd.start("narrow", "shop", 14, pause=0.02)


async def disperse(stage: Stage) -> None:
    await stage.crowd.stop()
    stage.providers["narrow"].mood = "well"


async def spend(stage: Stage) -> None:
    stage.callers.start("chat", "spender", 2, pause=0.1)


async def misconfigure(stage: Stage) -> None:
    whole = json.loads(stage.relay.path.read_text("utf-8"))
    whole["models"]["chat"]["pool"][0]["upstream"] = "nobody"
    stage.relay.path.write_text(json.dumps(whole), "utf-8")
    stage.relay.reload()


async def configure(stage: Stage) -> None:
    whole = json.loads(stage.relay.path.read_text("utf-8"))
    whole["models"]["chat"]["pool"][0]["upstream"] = "main"
    stage.relay.path.write_text(json.dumps(whole), "utf-8")
    stage.relay.reload()


async def lock(stage: Stage, name: str = LARGE) -> None:
    relay = stage.small if name == SMALL else stage.relay
    path = relay.path.parent / "state" / "relay.db"
    stage.locks[name] = sqlite3.connect(path, isolation_level=None)
    stage.locks[name].execute("BEGIN IMMEDIATE")


async def unlock(stage: Stage, name: str = LARGE) -> None:
    stage.locks[name].execute("ROLLBACK")
    stage.locks[name].close()


async def murder(stage: Stage) -> None:
    os.kill(stage.workers()[0], signal.SIGKILL)


async def stall(stage: Stage, name: str = LARGE) -> None:
    stands, runs = THROTTLE if name == SMALL else STALL

    async def again_and_again() -> None:
        while True:
            for pid in stage.pids(name):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    await asyncio.sleep(stands)
                    os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(runs)

    stage.stalling[name] = asyncio.get_running_loop().create_task(again_and_again())


async def run(stage: Stage, name: str = LARGE) -> None:
    stage.stalling[name].cancel()
    await asyncio.gather(stage.stalling[name], return_exceptions=True)
    for pid in stage.pids(name):
        os.kill(pid, signal.SIGCONT)


async def inundate(stage: Stage) -> None:
    await lock(stage, SMALL)
    stage.small.read.clear()
    stage.flood.flood()


async def drain(stage: Stage) -> None:
    await stage.flood.stop()
    stage.small.read.set()
    await unlock(stage, SMALL)


async def hold(stage: Stage) -> None:
    stage.steady.mood = "endless"
    stage.flood.hold()


async def let_go(stage: Stage) -> None:
    stage.steady.mood = "well"
    await stage.flood.stop()


async def throttle(stage: Stage) -> None:
    stage.flood.write_at_length()
    await stall(stage, SMALL)


async def unthrottle(stage: Stage) -> None:
    await run(stage, SMALL)
    await stage.flood.stop()


async def stop(stage: Stage) -> None:
    for callers in (stage.callers, stage.visitors):
        await callers.stop()
    await asyncio.gather(stage.relay.stop(), stage.small.stop())
