"""Conversations of several turns over four accounts, by `strategy: prefix`; one account is throttled for a while.

- held: of all turns but first ones, those that went to an account that has served an earlier turn of the conversation,
  and so holds its prefix in its cache; `same`: to the one that served the turn before.
- load: the account with the most turns beside the mean, over the parts of the run in which all could be used, and
  the most that were under way on one at a time beside the mean of that time.

`python -m tests.faults.figures.prefixes`
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.faults.figures.load import Load, quantile, relay
from tests.faults.figures.provider import paced
from tests.rig import scripts as say
from tests.rig.relay_process import config
from tests.rig.scripts import Do, Script
from tests.rig.upstream import Request, Upstream

ACCOUNTS = 4
PAUSE = 2
"""Seconds for which the throttled account asks to be left alone: whole ones."""


@dataclass
class Account:
    """One account's provider: whose turns it has served, and how many are under way."""

    number: int
    accounts: list[Account]
    throttled: int = 0
    """Seconds to be left alone for, said to the next call."""
    known: set[int] = field(default_factory=set)
    turns: list[tuple[float, int]] = field(default_factory=list)
    under_way: int = 0
    peaks: list[tuple[float, float]] = field(default_factory=list)
    """At each turn's beginning: when, and what is under way here beside the mean of all."""

    def answer(self, request: Request) -> Script:
        if self.throttled:
            wait, self.throttled = self.throttled, 0
            return say.error(429, "slow down", headers=b"Retry-After: %d\r\n" % wait)
        conversation = int(request.json()["messages"][0]["content"].split(" ")[1])
        self.known.add(conversation)
        self.turns.append((request.received, conversation))
        self.under_way += 1
        mean = sum(account.under_way for account in self.accounts) / len(self.accounts)
        self.peaks.append((request.received, self.under_way / mean))
        return [*paced(ttft=0.1, pace=0.02), Do(self._over)]

    def _over(self) -> None:
        self.under_way -= 1


async def one(
    *, conversations: int = 200, turns: int = 8, callers: int = 40, seed: int = 1, rest: int = PAUSE
) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    accounts: list[Account] = []
    accounts += [Account(number, accounts) for number in range(ACCOUNTS)]
    served: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        names = [f"account{number}" for number in range(ACCOUNTS)]
        upstreams = {
            name: await stack.enter_async_context(Upstream(account.answer))
            for name, account in zip(names, accounts, strict=True)
        }
        model = {"pool": [{"upstream": name} for name in names], "strategy": "prefix"}
        process = await stack.enter_async_context(relay(config(upstreams, {"m": model})))
        load = Load(process)
        waiting = list(range(conversations))
        Random(seed).shuffle(waiting)
        done = 0
        throttled_at = conversations * turns // 3
        pause = [0.0, 0.0]

        async def caller() -> None:
            nonlocal done
            while waiting:
                number = waiting.pop()
                messages = [{"role": "user", "content": f"Conversation {number} of seed {seed}."}]
                for _ in range(turns):
                    await load.begin(messages=list(messages))
                    messages += [
                        {"role": "assistant", "content": say.TEXT},
                        {"role": "user", "content": "And then?"},
                    ]
                    done += 1
                    if done == throttled_at:
                        accounts[0].throttled = rest
                        pause[0] = loop.time()

        await asyncio.gather(*(caller() for _ in range(callers)))
        seen = await load.ended()
        served.update(call.upstream for call in seen)
    pause[1] = pause[0] + rest + 0.5
    return {
        "conversations": conversations,
        "turns": len(seen),
        "failed": sum(not call.good for call in seen),
        "turns_while_throttled": sum(pause[0] <= call.began < pause[1] for call in seen),
        **_held(accounts),
        "turns_by_account": [served[name] for name in names],
        **_loads(accounts, pause),
    }


def _held(accounts: list[Account]) -> dict[str, Any]:
    journey: dict[int, list[tuple[float, int]]] = {}
    for account in accounts:
        for moment, conversation in account.turns:
            journey.setdefault(conversation, []).append((moment, account.number))
    later = held = same = 0
    for turns in journey.values():
        way = [number for _, number in sorted(turns)]
        for place in range(1, len(way)):
            later += 1
            held += way[place] in way[:place]
            same += way[place] == way[place - 1]
    return {
        "later_turns": later,
        "held_share": round(held / later, 4),
        "same_share": round(same / later, 4),
    }


def _loads(accounts: list[Account], pause: list[float]) -> dict[str, Any]:
    counts = [
        sum(not pause[0] <= moment < pause[1] for moment, _ in account.turns)
        for account in accounts
    ]
    # Not the first and last seconds, when few are under way.
    first = min(moment for account in accounts for moment, _ in account.turns) + 1
    last = max(moment for account in accounts for moment, _ in account.turns) - 1
    peaks = [
        peak
        for account in accounts
        for moment, peak in account.peaks
        if first <= moment < last and not pause[0] <= moment < pause[1]
    ]
    return {
        "turns_while_all_serve": sum(counts),
        "load_of_mean": round(max(counts) / (sum(counts) / len(counts)), 3),
        "under_way_of_mean_p95": round(quantile(peaks, 0.95), 3),
        "under_way_of_mean_max": round(quantile(peaks, 1.0), 3),
    }


def run() -> dict[str, Any]:
    return {"prefixes": [asyncio.run(one(seed=seed)) for seed in (1, 2, 3)]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(), indent=2) + "\n")
