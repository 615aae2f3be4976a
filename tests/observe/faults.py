"""What goes wrong in `make observe`, one after the other and beside each other, and which alerts must come of it."""

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
from tests.rig import RelayProcess

Subject = tuple[str, str]
"""An alert, and what it is about: the name of an upstream, model, key or store; "" for the relay."""

STALL = 0.2
"""Seconds for which a process stands still, and for which it may run after that twice."""


@dataclass
class Stage:
    """A relay, what it depends on, and who uses it."""

    relay: RelayProcess
    providers: dict[str, Provider]
    callers: Callers
    crowd: Callers
    """Those who come with a fault, and go with it."""
    lock: sqlite3.Connection | None = None
    stalling: asyncio.Task[None] | None = None
    ended: list[str] = field(default_factory=list)

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


@dataclass(frozen=True)
class Fault:
    """`must` come of it, each about its subject; `may` is what a slow machine adds."""

    what: str
    begins: float
    ends: float
    """Seconds from the start of the traffic."""
    begin: Act
    end: Act
    must: tuple[Subject, ...]
    may: tuple[Subject, ...] = ()


def _mood(name: str, mood: str) -> Act:
    async def act(stage: Stage) -> None:
        stage.providers[name].mood = mood

    return act


async def _nothing(_: Stage) -> None:
    pass


async def _kill(stage: Stage) -> None:
    await stage.providers["main"].upstream.__aexit__(None, None, None)


async def _raise(stage: Stage) -> None:
    await stage.providers["main"].upstream.__aenter__()


async def _crowd(stage: Stage) -> None:
    stage.providers["narrow"].mood = "busy"
    stage.crowd.start("narrow", "shop", 14, pause=0.02)


async def _disperse(stage: Stage) -> None:
    await stage.crowd.stop()
    stage.providers["narrow"].mood = "well"


async def _spend(stage: Stage) -> None:
    stage.callers.start("chat", "spender", pause=0.1)


async def _misconfigure(stage: Stage) -> None:
    whole = json.loads(stage.relay.path.read_text("utf-8"))
    whole["models"]["chat"]["pool"][0]["upstream"] = "nobody"
    stage.relay.path.write_text(json.dumps(whole), "utf-8")
    stage.relay.reload()


async def _configure(stage: Stage) -> None:
    whole = json.loads(stage.relay.path.read_text("utf-8"))
    whole["models"]["chat"]["pool"][0]["upstream"] = "main"
    stage.relay.path.write_text(json.dumps(whole), "utf-8")
    stage.relay.reload()


async def _lock(stage: Stage) -> None:
    path = stage.relay.path.parent / "state" / "relay.db"
    stage.lock = sqlite3.connect(path, isolation_level=None)
    stage.lock.execute("BEGIN IMMEDIATE")


async def _unlock(stage: Stage) -> None:
    assert stage.lock is not None
    stage.lock.execute("ROLLBACK")
    stage.lock.close()


async def _murder(stage: Stage) -> None:
    os.kill(stage.workers()[0], signal.SIGKILL)


async def _stall(stage: Stage) -> None:
    async def stall() -> None:
        while True:
            for pid in stage.workers():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    await asyncio.sleep(STALL)
                    os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(STALL)

    stage.stalling = asyncio.get_running_loop().create_task(stall())


async def _run(stage: Stage) -> None:
    assert stage.stalling is not None
    stage.stalling.cancel()
    await asyncio.gather(stage.stalling, return_exceptions=True)
    for pid in stage.workers():
        os.kill(pid, signal.SIGCONT)


async def _stop(stage: Stage) -> None:
    await stage.callers.stop()
    stage.ended.append(str(await stage.relay.stop()))


CALM = 25.0
"""Seconds in which nothing is wrong, and nothing may fire but what stands in the configuration."""
HEALED = 85.0
END = 120.0

STANDING: tuple[Subject, ...] = (("KeyExpiresSoon", "trial"),)

FAULTS: tuple[Fault, ...] = (
    Fault("the provider main is killed", CALM, HEALED, _kill, _raise, (("UpstreamDown", "main"),)),
    Fault(
        "paced answers 429",
        *(CALM, HEALED, _mood("paced", "throttling"), _mood("paced", "well")),
        (("UpstreamThrottled", "paced"),),
    ),
    Fault(
        "locked rejects our key",
        *(CALM, HEALED, _mood("locked", "rejecting"), _mood("locked", "well")),
        (("UpstreamCredentialRejected", "locked"),),
    ),
    Fault(
        "fragile hangs up on one stream in ten",
        *(CALM, HEALED, _mood("fragile", "brittle"), _mood("fragile", "well")),
        (("StreamsTruncated", "fragile"), ("ErrorBudgetBurn", "fragile")),
    ),
    Fault(
        "thinker takes a second to its first token",
        *(CALM, HEALED, _mood("thinker", "slow"), _mood("thinker", "well")),
        (("FirstTokenBudgetBurn", "thinker"),),
    ),
    Fault(
        "more callers come than narrow has places",
        *(CALM, HEALED, _crowd, _disperse),
        (("QueueSaturated", "narrow"), ("FirstTokenBudgetBurn", "narrow")),
        # Who would wait too long is refused.
        (("ErrorBudgetBurn", "narrow"),),
    ),
    Fault(
        "unlucky fails one call in seven, and retries are used up",
        *(CALM, HEALED, _mood("unlucky", "flaky"), _mood("unlucky", "well")),
        (("RetryBudgetEmpty", "unlucky"), ("ErrorBudgetBurn", "unlucky")),
        # Two in five are enough for its breaker.
        (("UpstreamDown", "unlucky"),),
    ),
    Fault(
        "lost fails whatever it is asked, and another model answers",
        *(CALM, HEALED, _mood("lost", "failing"), _mood("lost", "well")),
        (("FallbackServing", "lost"), ("UpstreamDown", "lost")),
    ),
    Fault(
        "the key spender uses up its day",
        *(CALM, HEALED, _spend, _nothing),
        (("KeyBudgetNearlySpent", "spender"),),
    ),
    Fault(
        "somebody saves a configuration that is wrong",
        *(CALM, HEALED, _misconfigure, _configure),
        (("ReloadFailed", ""),),
    ),
    Fault(
        "another program locks the database",
        *(CALM + 10, CALM + 35, _lock, _unlock),
        (("QuotaStoreDegraded", "sqlite"),),
        # Keys with a budget are refused meanwhile.
        (("ErrorBudgetBurn", "chat"),),
    ),
    Fault(
        "a worker is killed",
        *(CALM + 45, HEALED, _murder, _nothing),
        (("WorkerRestarts", ""),),
    ),
    Fault(
        "the workers stand still again and again",
        *(HEALED + 7, END - 1, _stall, _run),
        (("EventLoopLag", ""),),
        (("OverheadHigh", ""), ("RelayOverloaded", "")),
    ),
    Fault(
        "the relay is stopped",
        *(END, END + 10, _stop, _nothing),
        (("RelayDown", ""), ("RelayInstanceDown", "")),
    ),
)

NOT_PLAYED = (
    *(
        "DescriptorsNearlyUsedUp",
        "LedgerDropping",
        "LogLinesLost",
        "OverheadHigh",
        "RelayOverloaded",
    ),
)
"""Their cases are in `deploy/prometheus/tests` only."""


def subject_of(labels: dict[str, str]) -> str:
    return next(
        (labels[name] for name in ("upstream", "model", "key", "store") if name in labels), ""
    )
