"""`python -m tests.killed`: kills a relay, or a part of it, again and again, and compares what its budgets say with
what the upstream has seen.

    python -m tests.killed --rounds 200 --seed 1 --workers 1,2,4

In each round clients call keys that have budgets; at a random moment the hub, a worker, both, the parent, or all
processes get SIGKILL. Then: no budget may have fallen, nothing older than `ALLOWED` may be missing, what is too much is
what broken calls had reserved, the database is whole, and all permits are back. The exit code is 1 if anything was
not so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random, randrange
from typing import Any

from relay.state import database
from relay.state.database import FILE
from tests.crew import runs, started
from tests.rig import Answer, RelayProcess, Request, Upstream, chat, config
from tests.rig import scripts as say
from tests.rig.deadlines import SCALE, within
from tests.state_rig import rows, turn

ALLOWED = 1.0
"""Seconds of settlements that a kill may cost."""
CLIENTS = 8
PERMITS = 5
MOST_OUTPUT = 64
WORST = 400
"""Tokens: more than a call can reserve, by its bytes and `max_tokens`."""
TIGHT = 300
"""Calls of the one key whose budget will be spent on the way."""

Tell = Callable[[str], None]


def key(name: str, **limits: object) -> dict[str, Any]:
    return {"id": name, "key": f"sk-{name * 20}", "limits": limits}


KEYS = [
    key("a", requests_per_day=10**7, tokens_per_month=10**10),
    key("b", requests_per_day=10**7, tokens_per_month=10**10) | {"group": "team"},
    key("c", requests_per_day=10**7, tokens_per_month=10**10, concurrent=PERMITS)
    | {"group": "team"},
    key("t", requests_per_day=TIGHT),
    key("z", requests_per_day=10**7),
]
TEAM = {"team": {"limits": {"tokens_per_month": 10**11, "usd_per_month": 10**6}}}
SECRET = {one["id"]: one["key"] for one in KEYS}


@dataclass
class Books:
    """The upstream's own: what began and what was delivered, when, for which key."""

    began: list[tuple[float, str, int]] = field(default_factory=list)
    done: list[tuple[float, str, int]] = field(default_factory=list)
    running: int = 0
    most: int = 0

    def __call__(self, asked: Request) -> list[say.Step]:
        loop, name = asyncio.get_running_loop(), asked.json()["user"]
        output = randrange(1, MOST_OUTPUT)
        usage = {"prompt_tokens": 9, "completion_tokens": output, "total_tokens": 9 + output}
        self.began.append((loop.time(), name, 1))
        self.running += 1
        self.most = max(self.most, self.running)

        def ends() -> None:
            self.running -= 1
            self.done.append((loop.time(), name, 9 + output))

        events = [*say.EVENTS[:3], *say.EVENTS[-2:-1], say.usage_event(usage), say.DONE]
        steps = say.sse(events)
        return [*steps[:3], say.Pause(randrange(1, 60) / 1000), *steps[3:], say.Do(ends)]


@dataclass
class Report:
    rounds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    calls: int = 0
    broken: int = 0
    lost_calls: int = 0
    oldest: float = 0.0
    """Seconds before the kill: the oldest thing that was lost."""
    overcharged: int = 0
    """Tokens of broken calls that were charged as reserved."""

    def lines(self) -> Iterable[str]:
        kinds = ", ".join(f"{count} × {kind}" for kind, count in sorted(self.rounds.items()))
        yield f"{sum(self.rounds.values())} rounds: {kinds}"
        yield f"{self.calls} calls reached the upstream, {self.broken} broke"
        yield f"lost: {self.lost_calls} calls, the oldest {self.oldest * 1000:.0f} ms before the kill"
        yield f"charged for broken calls: {self.overcharged} tokens"
        yield f"not as it should be: {len(self.wrong)}"
        yield from self.wrong


class Stage:
    """One folder, and the relays that live on it one after another."""

    def __init__(self, folder: Path, seed: int, workers: list[int], report: Report) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.random = Random(seed)
        self.workers = workers
        self.report = report
        self.books = Books()
        self.statuses: Counter[str] = Counter()
        self.attempts: Counter[str] = Counter()
        self.lost_of_tight = 0

    async def play(self, rounds: int, tell: Tell) -> None:
        async with Upstream(self.books) as upstream:
            played = life = told = 0
            while played < rounds:
                workers = self.workers[life % len(self.workers)]
                life += 1
                async with self.relay(upstream, workers) as relay:
                    lives = True
                    while lives and played < rounds:
                        lives = await self.round(relay, workers)
                        played += 1
                        tell(f"{played}/{rounds} {self.last}, {len(self.report.wrong)} wrong")
                        for line in self.report.wrong[told:]:
                            tell(f"  {line}")
                        told = len(self.report.wrong)
                    if lives:
                        await relay.stop()
        tight = sum(name == "t" for _, name, _ in self.books.began)
        if tight > TIGHT + self.lost_of_tight:
            self.report.wrong.append(f"{tight} calls on a budget of {TIGHT}")
        self.report.calls = len(self.books.began)

    @contextlib.asynccontextmanager
    async def relay(self, upstream: Upstream, workers: int) -> AsyncIterator[RelayProcess]:
        fields = config({"a": upstream}, None, KEYS, groups=TEAM)
        fields["server"]["workers"] = workers
        fields["models"]["m"] |= {"price": {"input": 1, "output": 2}, "max_output": MOST_OUTPUT}
        async with RelayProcess(fields, self.folder) as relay:
            yield relay

    async def round(self, relay: RelayProcess, workers: int) -> bool:
        """One kill. Whether this relay outlives it."""
        await self.all_permits(relay)
        base = await self.at_rest(relay)
        before = len(self.books.began), len(self.books.done), self.attempts.copy()
        kinds = ["all"] if workers == 1 else ["worker", "hub", "worker and hub", "parent", "all"]
        kind = self.random.choice(kinds)
        self.last = f"{kind} of {workers}"
        self.report.rounds[self.last] += 1
        stop = asyncio.Event()
        load = asyncio.gather(*(self.client(relay, stop) for _ in range(CLIENTS)))
        await asyncio.sleep(self.random.uniform(0.2, 1.2))
        pids = self.pids(relay)
        chosen = self.chosen(kind, relay, pids)
        for pid in chosen:
            os.kill(pid, signal.SIGKILL)
        killed = asyncio.get_running_loop().time()
        lives = kind not in ("parent", "all")
        if lives:
            for name, pid in pids.items():
                if pid in chosen:
                    await relay.log(started(name, pid), timeout=20 * SCALE)
            await asyncio.sleep(self.random.uniform(0.0, 0.3))
        stop.set()
        await load
        if lives:
            after = await self.at_rest(relay)
        else:
            await relay.kill()
            await gone([relay.pid, *pids.values()])
            after = self.rest()
        self.judge(base, after, before, killed)
        return lives

    def pids(self, relay: RelayProcess) -> dict[str, int]:
        """The processes that were forked, by name."""
        lines = [line for line in relay.lines if line.get("event") == "process_started"]
        return {line["process"]: line["pid"] for line in lines}

    def chosen(self, kind: str, relay: RelayProcess, pids: dict[str, int]) -> list[int]:
        workers = [pid for name, pid in pids.items() if name != "hub"]
        if kind == "worker":
            return [self.random.choice(workers)]
        if kind == "hub":
            return [pids["hub"]]
        if kind == "worker and hub":
            return self.random.sample([pids["hub"], self.random.choice(workers)], 2)
        if kind == "parent":
            return [relay.pid]
        every = [relay.pid, *pids.values()]
        return self.random.sample(every, len(every))

    # -- load --

    async def client(self, relay: RelayProcess, stop: asyncio.Event) -> None:
        while not stop.is_set():
            name = self.random.choice("aabbct")
            answer = await self.call(relay, name)
            if answer is None or (answer.status == 200 and not answer.body.endswith(say.DONE)):
                self.report.broken += 1
                await turn()
            elif answer.status == 503 or (answer.status == 429 and name in "ct"):
                await turn()
            elif answer.status != 200:
                self.report.wrong.append(f"a client of {name} got {answer.status} {answer.body!r}")

    async def call(self, relay: RelayProcess, name: str) -> Answer | None:
        self.attempts[name] += 1
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            return await chat(
                relay.address,
                key=SECRET[name],
                timeout=5 * SCALE,
                user=name,
                max_tokens=MOST_OUTPUT,
                stream_options={"include_usage": True},
            )
        return None

    async def all_permits(self, relay: RelayProcess) -> None:
        """After whatever has happened, as many calls at once as there are permits."""
        self.books.most = self.books.running = 0
        answers = await asyncio.gather(*(self.call(relay, "c") for _ in range(PERMITS)))
        states = Counter(0 if answer is None else answer.status for answer in answers)
        if states != {200: PERMITS}:
            self.report.wrong.append(f"after {getattr(self, 'last', 'the start')}: {states}")

    # -- what the relay says --

    def rest(self) -> dict[tuple[str, str], int]:
        """What is used by what is on the disk, which must be whole."""
        with contextlib.closing(database.read_only(self.state / FILE)) as connection:
            found = connection.execute("PRAGMA integrity_check").fetchall()
            if found != [("ok",)]:
                self.report.wrong.append(f"after {self.last}: {found[:3]}")
            every = "SELECT owner, machine, spent + reserved FROM budgets"
            return {(owner, name): used for owner, name, used in connection.execute(every)}

    async def at_rest(self, relay: RelayProcess) -> dict[tuple[str, str], int]:
        """What is used, as soon as one more call is on the disk, and nothing is reserved there any more."""
        which = "z", "requests_per_day"
        before = self.rest().get(which, 0) if (self.state / FILE).exists() else 0
        async with within(20 * SCALE):
            while (answer := await self.call(relay, "z")) is None or answer.status != 200:
                await turn()
            while True:
                used = self.rest()
                reserved = any(row[5] for row in rows(self.state).values())
                if not reserved and used.get(which, 0) > before:
                    return used
                await turn()

    def judge(
        self,
        base: dict[tuple[str, str], int],
        after: dict[tuple[str, str], int],
        before: tuple[int, int, Counter[str]],
        killed: float,
    ) -> None:
        """Every call that began is counted, and every token delivered is charged, but for the last moment."""
        wrong, report = self.report.wrong, self.report
        began, done = self.books.began[before[0] :], self.books.done[before[1] :]
        for one in KEYS:
            name = one["id"]
            for machine, entries in (("requests_per_day", began), ("tokens_per_month", done)):
                if machine not in one["limits"]:
                    continue
                charged = after.get((name, machine), 0) - base.get((name, machine), 0)
                seen = [(at, amount) for at, owner, amount in entries if owner == name]
                missing = sum(amount for _, amount in seen) - charged
                attempts = self.attempts[name] - before[2][name]
                # What was just told when the kill came may be on the disk as it was reserved.
                sure = [amount for at, amount in seen if at < killed - ALLOWED or at > killed]
                most = sum(sure) + WORST * (attempts - len(sure))
                if machine == "requests_per_day":
                    most = attempts
                if charged < 0:
                    wrong.append(f"after {self.last}: {machine} of {name} fell by {-charged}")
                if charged > most:
                    wrong.append(f"after {self.last}: {machine} of {name}: {charged} of {most}")
                age = self.age(seen, missing, killed)
                if age > ALLOWED:
                    wrong.append(f"after {self.last}: {machine} of {name} lost {age:.2f} s")
                report.oldest = max(report.oldest, age)
                if machine == "requests_per_day":
                    report.lost_calls += max(0, missing)
                    self.lost_of_tight += max(0, missing) if name == "t" else 0
                else:
                    report.overcharged += max(0, -missing)

    @staticmethod
    def age(seen: list[tuple[float, int]], missing: int, killed: float) -> float:
        """How long before the kill the oldest of what is missing was, if the newest is.

        A process that is killed needs a moment to end, and the next hub one to begin.
        """
        near = [(at, amount) for at, amount in seen if at <= killed + ALLOWED / 2]
        for at, amount in sorted(near, reverse=True):
            if missing <= 0:
                return 0.0
            missing -= amount
            if missing <= 0:
                return max(0.0, killed - at)
        return 0.0 if missing <= 0 else float("inf")


async def gone(pids: list[int]) -> None:
    """Returns when none of these runs any more."""
    async with within():
        while any(runs(pid) for pid in pids):
            await turn()


async def play(rounds: int, seed: int, workers: list[int], folder: Path, tell: Tell) -> Report:
    report = Report()
    await Stage(folder, seed, workers, report).play(rounds, tell)
    return report


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.killed")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=randrange(10**6))
    parser.add_argument("--workers", default="1,2,4", help="of the relays, one after another")
    options = parser.parse_args()
    tell(f"seed {options.seed}")
    workers = [int(number) for number in options.workers.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(play(options.rounds, options.seed, workers, Path(folder), tell))
    for line in report.lines():
        tell(line)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
