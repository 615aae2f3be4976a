"""Budgets through crashes, restarts and clocks, against an exact reference; the rows go through a real database."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relay.admission.authority import Authority, Holder
from relay.admission.budgets import Budgets
from relay.admission.gate import Gate, Lease
from relay.state import budgets, database
from tests.quota_rig import WALL, Limits, ModelLimits, ask, configure, refused

Name = tuple[str, str, str]
"""Kind, owner, machine: as in a row."""

CONFIG = configure(
    {
        "a": Limits(tokens_per_day=400, models={"m": ModelLimits(usd_per_month=9e-7)}),
        "b": Limits(requests_per_day=9, usd_per_day=8e-7),
    },
    {"a": "team", "b": "team"},
    {"team": Limits(tokens_per_month=700)},
)
TEAM = ("group", "team", "tokens_per_month")
DRAWS: dict[str, dict[Name, tuple[int, int]]] = {
    "a": {
        ("key", "a", "tokens_per_day"): (2, 400),
        ("key", "a", "usd_per_month m"): (3, 900),
        TEAM: (2, 700),
    },
    "b": {
        ("key", "b", "requests_per_day"): (0, 9),
        ("key", "b", "usd_per_day"): (3, 800),
        TEAM: (2, 700),
    },
}
"""What calls of a key draw on: the place in a call's amounts, and the limit."""


def period(name: Name, wall: float) -> str:
    date = datetime.fromtimestamp(wall, UTC).isoformat()
    return date[:7] if "month" in name[2] else date[:10]


@dataclass
class Book:
    """One budget of the reference: in memory, and as it is on the disk."""

    period: str = ""
    spent: int = 0
    held: dict[int, int] = field(default_factory=dict)
    disk: tuple[str, int, int] = ("", 0, 0)
    dirty: bool = False

    def follow(self, now: str) -> None:
        if now > self.period:
            self.period, self.spent, self.held = now, 0, {}

    @property
    def used(self) -> int:
        return self.spent + sum(self.held.values())

    def flush(self) -> None:
        if self.dirty:
            self.disk, self.dirty = (self.period, self.spent, sum(self.held.values())), False

    def crash(self) -> None:
        self.period, spent, reserved = self.disk
        self.spent, self.held, self.dirty = spent + reserved, {}, False


class Store:
    """A database of its own for each run."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / database.FILE
        database.create(path)
        self._connection = database.connect(path)
        self._connection.execute("PRAGMA synchronous = OFF")

    def flush(self, kept: Budgets) -> None:
        while kept.has_changed:
            budgets.write(self._connection, kept.take(2))

    def rows(self) -> list[tuple[str, str, str, int, int, int]]:
        return list(budgets.rows_of(self._connection))

    def close(self) -> None:
        with contextlib.closing(self._connection), self._folder:
            assert database.faults(self._connection) == []


class OneProcess(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.wall, self.ms, self.number = WALL, 86_400_000, 0
        self.books = {name: Book() for names in DRAWS.values() for name in names}
        self.running: list[tuple[Lease, str, int, tuple[int, ...]]] = []
        self.begin()

    def teardown(self) -> None:
        self.store.close()

    def begin(self) -> None:
        self.gate = Gate(*CONFIG, Budgets(kept=True))
        self.gate.budgets.learn(self.store.rows())

    @rule(seconds=st.integers(1, 90_000))
    def time_passes(self, seconds: int) -> None:
        self.wall += seconds
        self.ms += seconds * 1000

    @rule(days=st.sampled_from([-31, -1, 1, 40]))
    def the_clock_is_set(self, days: int) -> None:
        self.wall += days * 86_400

    @rule(id=st.sampled_from(["a", "b"]), worst=st.integers(0, 200), cost=st.integers(0, 500))
    def reserve(self, id: str, worst: int, cost: int) -> None:
        amounts = (1, 0, worst, cost)
        draws = DRAWS[id]
        lacking = [
            name[2].split()[0]
            for name, (unit, limit) in draws.items()
            if amounts[unit] and self.used(name) + amounts[unit] > limit
        ]

        principal = CONFIG[0].by_id[id]
        answer = ask(self.gate, principal, self.ms / 1000, worst=worst, cost=cost, wall=self.wall)

        if lacking:
            assert refused(answer).reason in lacking
            return
        assert isinstance(answer, Lease)
        self.number += 1
        self.running.append((answer, id, self.number, amounts))
        for name, (unit, _) in draws.items():
            self.books[name].follow(period(name, self.wall))
            self.books[name].held[self.number] = amounts[unit]
            self.books[name].dirty = True

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 99), share=st.sampled_from([0.0, 0.4, 1.0]))
    def settle(self, which: int, share: float) -> None:
        lease, id, number, amounts = self.running.pop(which % len(self.running))
        tokens, cost = int(amounts[2] * share), int(amounts[3] * share)

        lease.settle(self.ms / 1000, tokens, cost)

        actual = (1, tokens, tokens, cost)
        for name, (unit, _) in DRAWS[id].items():
            book = self.books[name]
            if book.held.pop(number, None) is not None:
                book.spent += actual[unit]
                book.dirty = True

    @rule()
    def flush(self) -> None:
        self.store.flush(self.gate.budgets)
        for book in self.books.values():
            book.flush()

    @rule()
    def crash(self) -> None:
        """And start again: what was running is charged as it was reserved, what is not on the disk is gone."""
        self.running = []
        for book in self.books.values():
            book.crash()
        self.begin()

    @rule()
    def stop(self) -> None:
        """Cleanly: calls end, and all is written."""
        while self.running:
            self.settle(0, 1.0)
        self.flush()
        assert all(reserved == 0 for *_, reserved in self.store.rows())
        self.crash()

    @rule()
    def the_file_is_lost_while_it_runs(self) -> None:
        self.store.close()
        self.store = Store()
        self.gate.tell_all()
        self.store.flush(self.gate.budgets)
        for name, book in self.books.items():
            book.dirty = book.dirty or book.period != ""
            book.flush()
            assert (book.period == "") == (name not in {row[:3] for row in self.store.rows()})

    @invariant()
    def what_is_used_is_what_the_reference_says(self) -> None:
        for id, draws in DRAWS.items():
            for _, name, machine, _ in self.gate.purse(CONFIG[0].by_id[id]).machines:
                which = next(
                    one for one in draws if one[2] == name and draws[one][1] == machine.limit
                )
                assert machine.used(self.ms, self.wall) == self.used(which)

    def used(self, name: Name) -> int:
        """Now; a period begins with the first call that is admitted in it."""
        book = self.books[name]
        return book.used if period(name, self.wall) <= book.period else 0


TestOneProcess = OneProcess.TestCase
TestOneProcess.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)


class SeveralProcesses(RuleBasedStateMachine):
    """A hub with two workers. Any of them may die, or the hub and a worker at once; the day does not end."""

    LIMIT = 1000

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.now, self.number = 86_400.0, 0
        self.config = configure({"a": Limits(tokens_per_day=self.LIMIT)})
        self.held: list[dict[int, int]] = [{}, {}]
        """The workers' leases: number, amount;"""
        self.told: list[list[tuple[int, int]]] = [[], []]
        """and what they were last told of what is spent, with their own settlements."""
        self.spent = 0
        """By all calls that have ended, and by those of workers that died."""
        self.unwritten = 0
        """Of that, since the last flush."""
        self.disk = (0, 0)
        self.begin()

    def teardown(self) -> None:
        self.store.close()

    def begin(self) -> None:
        self.authority = Authority(*self.config, Budgets(kept=True, patient=True))
        self.authority.gate.budgets.learn(self.store.rows())
        self.holders = [Holder(), Holder()]

    @property
    def state(self) -> tuple[int, int]:
        machine = self.authority.gate.purse(self.config[0].by_id["a"]).machines[0][2]
        used = machine.used(0, WALL)
        return machine.level()[1], used

    @rule(worker=st.integers(0, 1), amount=st.integers(0, 400))
    def call(self, worker: int, amount: int) -> None:
        self.number += 1
        self.now += 0.001
        fits = self.state[1] + amount <= self.LIMIT

        refusal = self.authority.ask(
            self.holders[worker], (self.number, "a", "m", 0, amount, 0), self.now, WALL
        )

        assert (refusal is None) == (fits or not amount)
        self.told[worker] = self.authority.levels("a")
        if refusal is None:
            self.held[worker][self.number] = amount

    @precondition(lambda self: self.held[0] or self.held[1])
    @rule(which=st.integers(0, 99), share=st.sampled_from([0.0, 0.3, 1.0]))
    def settle(self, which: int, share: float) -> None:
        worker = which % 2 if self.held[which % 2] else 1 - which % 2
        number = sorted(self.held[worker])[which % len(self.held[worker])]
        actual = int(self.held[worker].pop(number) * share)

        self.authority.settle(self.holders[worker], number, actual, 0, self.now)

        ends, spent = self.told[worker][0]
        self.told[worker] = [(ends, spent + actual)]
        self.spent += actual
        self.unwritten += actual

    @rule()
    def flush(self) -> None:
        self.store.flush(self.authority.gate.budgets)
        self.unwritten = 0
        spent, used = self.state
        self.disk = spent, used - spent

    @rule(worker=st.integers(0, 1))
    def a_worker_dies(self, worker: int) -> None:
        self.authority.died(self.holders[worker], self.now)
        lost = sum(self.held[worker].values())
        self.spent += lost
        self.unwritten += lost
        self.holders[worker], self.held[worker], self.told[worker] = Holder(), {}, []

    @rule(with_it=st.sampled_from([(), (0,), (1,), (0, 1)]))
    def the_hub_dies(self, with_it: tuple[int, ...]) -> None:
        """Alone, or workers at the same moment, or all."""
        before, most = self.spent, self.state[1]
        for worker in with_it:
            self.held[worker], self.told[worker] = {}, []
        self.begin()
        for holder, held, told in zip(self.holders, self.held, self.told, strict=True):
            leases = [(number, "a", "m", 0, amount, 0) for number, amount in held.items()]
            self.authority.restore(holder, leases, self.now, WALL)
            if told:
                self.authority.adopt({"a": told})
        self.authority.gate.budgets.charge()
        spent, used = self.state

        assert used - spent == sum(sum(held.values()) for held in self.held)
        assert spent >= self.disk[0]
        assert used >= sum(self.disk)
        assert spent >= before - self.unwritten
        assert used <= max(most, sum(self.disk)) <= self.LIMIT
        if len(with_it) == 2:
            assert spent == sum(self.disk)
        self.unwritten = max(0, spent - self.disk[0])
        self.spent = spent

    @invariant()
    def nothing_is_overspent(self) -> None:
        spent, used = self.state
        assert 0 <= spent <= used <= self.LIMIT
        assert spent == self.spent


TestSeveralProcesses = SeveralProcesses.TestCase
TestSeveralProcesses.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
