"""The gate under any order of events, against an exact model that recomputes everything."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relay.admission.gate import Gate, Lease
from relay.admission.memory import BUDGETS
from relay.errors import RelayError
from tests.quota_rig import (
    WALL,
    Limits,
    ask,
    configure,
)

CONFIGS: list[tuple[dict[str, Limits], dict[str, str], dict[str, Limits]]] = [
    (
        {"a": Limits(rpm=5, tpm=100, concurrent=3, tokens_per_day=400), "b": Limits(rpm=7)},
        {"a": "team", "b": "team"},
        {"team": Limits(rpm=9, tpm=120, concurrent=4, usd_per_day=1e-6)},
    ),
    (
        {"a": Limits(rpm=3, tpm=130, tokens_per_day=300), "b": Limits(tpm=60, concurrent=1)},
        {"a": "team", "b": "team"},
        {"team": Limits(rpm=12, tpm=90, requests_per_day=40, usd_per_day=2e-6)},
    ),
    (
        {"a": Limits(concurrent=2, usd_per_month=5e-7), "b": Limits(rpm=7, tpm=0)},
        {"b": "team"},
        {"team": Limits(rpm=9, tpm=120)},
    ),
]
UNIT = {"rpm": 0, "concurrent": 0, "requests_per_day": 0, "tpm": 1}
UNIT |= {"tokens_per_day": 2, "tokens_per_month": 2, "usd_per_day": 3, "usd_per_month": 3}


@dataclass(eq=False)
class Book:
    """One limit as its history, from which everything is computed anew at every question."""

    name: str
    limits: list[tuple[int, int]]
    takes: list[dict[str, Any]] = field(default_factory=list)
    order: list[tuple[int, str, Any]] = field(default_factory=list)

    @property
    def limit(self) -> int:
        return self.limits[-1][1]

    def room(self, tick: int, wall: float) -> Fraction:
        """What still fits; a debt makes it negative."""
        open_takes = [take for take in self.takes if take["actual"] is None]
        if self.name == "concurrent":
            return Fraction(self.limit - len(open_takes))
        if self.name in ("rpm", "tpm"):
            return self._level(tick)
        period = self.period(wall)
        takes = [take for take in self.takes if self.period(take["wall"]) == period]
        return Fraction(
            self.limit - sum(t["amount"] if t["actual"] is None else t["actual"] for t in takes)
        )

    def period(self, wall: float) -> str:
        """The UTC date or month, as written."""
        date = datetime.fromtimestamp(wall, UTC).isoformat()
        return date[:7] if self.name.endswith("month") else date[:10]

    def _level(self, tick: int) -> Fraction:
        """Every take is charged, when it was made, with what is known of it now; a debt when it became known."""
        at, limit = self.limits[0]
        level = Fraction(limit)
        relimited = [place for place, (_, what, _) in enumerate(self.order) if what == "limit"]
        for place, (when, what, value) in enumerate([*self.order, (tick, "now", None)]):
            level = min(level + Fraction((when - at) * limit, 60_000), Fraction(limit))
            at = when
            if what == "limit":
                limit = value
                level = min(level, Fraction(limit))
            elif what == "take":
                level -= self._charge(value, place, relimited)
            elif what == "settle":
                take = self.takes[value]
                level -= max(0, take["actual"] - take["amount"])
        return level

    def _charge(self, number: int, place: int, relimited: list[int]) -> int:
        take = self.takes[number]
        amount: int = take["amount"]
        if take["actual"] is None or self.name == "rpm":
            return amount
        settled = self.order.index(
            next(entry for entry in self.order if entry[1:] == ("settle", number))
        )
        if any(place < other < settled for other in relimited):
            return amount
        actual: int = take["actual"]
        return min(amount, actual)


class GateMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ms = 86_400_000
        self.wall = WALL
        self.told = 0
        self.books: dict[tuple[str, str], dict[str, Book]] = {}
        self.budgets: dict[tuple[tuple[str, str], str], Book] = {}
        self.running: list[tuple[Lease, list[tuple[Book, int]]]] = []
        self.config = CONFIGS[0]
        principals, groups = configure(*self.config)
        self.gate = Gate(principals, groups)
        self.principals = principals
        self._follow()

    def _follow(self) -> None:
        """What the gate does at a reload, limit by limit; `told` is the last time it heard of."""
        keys, _, groups = self.config
        for owner, limits in [
            *((("key", id), limits) for id, limits in keys.items()),
            *((("group", name), limits) for name, limits in groups.items()),
        ]:
            old = self.books.get(owner, {})
            new = self.books[owner] = {}
            for name in UNIT:
                value = getattr(limits, name)
                if value is None:
                    continue
                value = round(value * 10**9) if name.startswith("usd") else value
                if name in BUDGETS:  # one that comes back goes on from where it was
                    old[name] = self.budgets.setdefault((owner, name), Book(name, []))
                book = new[name] = old.get(name) or Book(name, [(self.told, value)])
                book.limits = book.limits or [(self.told, value)]
                if book.limit != value:
                    book.limits.append((self.told, value))
                    book.order.append((self.told, "limit", value))

    def _books_of(self, id: str) -> list[Book]:
        members = self.config[1]
        books = list(self.books["key", id].values())
        if id in members:
            books += self.books["group", members[id]].values()
        return books

    @rule(ms=st.one_of(st.integers(1, 3000), st.integers(1, 70_000)))
    def time_passes(self, ms: int) -> None:
        self.ms += ms
        self.wall += ms / 1000

    @rule()
    def midnight_comes(self) -> None:
        self.wall = (self.wall // 86_400 + 1) * 86_400

    @rule(
        id=st.sampled_from(["a", "b"]),
        bound=st.integers(0, 140),
        worst=st.integers(0, 250),
        cost=st.integers(0, 400),
    )
    def reserve(self, id: str, bound: int, worst: int, cost: int) -> None:
        amounts = (1, bound, worst, cost)
        books = self._books_of(id)
        lacking = {
            book.name
            for book in books
            if (amount := amounts[UNIT[book.name]]) and amount > book.room(self.ms, self.wall)
        }
        before = [book.room(self.ms, self.wall) for book in books]

        answer = ask(
            self.gate,
            self.principals.by_id[id],
            self.ms / 1000,
            tokens=bound,
            worst=worst,
            cost=cost,
            wall=self.wall,
        )

        self.told = self.ms
        if isinstance(answer, RelayError):
            assert answer.reason in lacking
            assert [book.room(self.ms, self.wall) for book in books] == before
            return
        assert not lacking
        takes = []
        for book in books:
            amount = amounts[UNIT[book.name]]
            book.takes.append({"amount": amount, "actual": None, "wall": self.wall})
            book.order.append((self.ms, "take", len(book.takes) - 1))
            takes.append((book, len(book.takes) - 1))
        self.running.append((answer, takes))

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 99), share=st.sampled_from([0.0, 0.3, 1.0, 1.0, 1.5]))
    def settle(self, which: int, share: float) -> None:
        lease, takes = self.running.pop(which % len(self.running))
        tokens = int(100 * share)
        cost = int(200 * share)

        if share:
            lease.settle(self.ms / 1000, tokens, cost)
        else:
            lease.cancel(self.ms / 1000)
        lease.settle(self.ms / 1000, 10**6, 10**6)

        self.told = self.ms
        actual = (1, tokens, tokens, cost)
        for book, take in takes:
            book.takes[take]["actual"] = actual[UNIT[book.name]]
            book.order.append((self.ms, "settle", take))

    @rule(config=st.sampled_from(CONFIGS))
    def reload(self, config: tuple[dict[str, Limits], dict[str, str], dict[str, Limits]]) -> None:
        self.config = config
        self.principals, groups = configure(*config)
        self.gate.reload(self.principals, groups)
        self._follow()

    @invariant()
    def running_calls_are_counted(self) -> None:
        assert self.gate.inflight == len(self.running)

    @invariant()
    def headers_tell_the_level(self) -> None:
        for id in ("a", "b"):
            lines = self.gate.headers(self.principals.by_id[id], self.ms / 1000).decode()
            for name, word in (("rpm", "requests"), ("tpm", "tokens")):
                books = [book for book in self._books_of(id) if book.name == name]
                if not books:
                    assert word not in lines
                    continue
                left = min(max(0, book.room(self.ms, self.wall) // 1) for book in books)
                assert f"x-ratelimit-remaining-{word}: {left}\r\n" in lines
                assert left <= min(book.limit for book in books)


TestGateMachine = GateMachine.TestCase
TestGateMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@settings(deadline=None)
@given(
    limit=st.integers(1, 30),
    keys=st.lists(st.sampled_from(["a", "b"]), max_size=120),
    gaps=st.lists(st.integers(0, 5_000), min_size=120, max_size=120),
)
def test_in_any_window_key_and_group_stay_below_limit_and_refill(
    limit: int, keys: list[str], gaps: list[int]
) -> None:
    principals, groups = configure(
        {"a": Limits(rpm=limit), "b": Limits(rpm=limit)},
        {"a": "team", "b": "team"},
        {"team": Limits(rpm=limit + 3)},
    )
    gate = Gate(principals, groups)
    ms = 10**9
    let_in: list[tuple[int, str]] = []
    for key, gap in zip(keys, gaps, strict=False):
        ms += gap
        answer = ask(gate, principals.by_id[key], ms / 1000)
        if isinstance(answer, Lease):
            let_in.append((ms, key))
            answer.cancel(ms / 1000)

    for allowed, of in ((limit, {"a"}), (limit, {"b"}), (limit + 3, {"a", "b"})):
        times = [at for at, key in let_in if key in of]
        for first, start in enumerate(times):
            for count, at in enumerate(times[first:], 1):
                assert count * 60_000 <= allowed * (60_000 + at - start)
