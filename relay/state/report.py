"""What the ledger says: sums of recorded calls over a period, and what the same calls would have cost elsewhere.

Read-only, while the relay writes: one transaction sees one moment. Calls are exact to the millisecond; days that became
sums (`calls.fold`) are counted whole, and where a period begins or ends within one, that is told (`Report.whole_days`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

from relay.pricing import Price
from relay.state import calls
from relay.state.calls import DAY_MS
from relay.usage import Usage

Dimension = Literal["key", "group", "model", "upstream", "day"]
Line = tuple[str | int, ...]
"""A value for each dimension: names, "" for none; of a day the days since 1970-01-01."""

_COLUMNS: Final[Mapping[str, str]] = {
    "key": "key",
    "group": "grp",
    "model": "model",
    "upstream": "upstream",
}


@dataclass(frozen=True, slots=True)
class Period:
    """Unix time in milliseconds, from `since` to before `until`; None is open."""

    since: int | None = None
    until: int | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be summed up: by which dimensions, when, and of whom (None is everybody)."""

    by: tuple[Dimension, ...]
    period: Period = Period()
    key: str | None = None
    model: str | None = None


@dataclass(slots=True)
class Totals:
    """Sums over calls. `cached` is part of `input`; `reasoning` of `output`; costs in nano-dollars."""

    calls: int = 0
    failed: int = 0
    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0
    audio: int = 0
    cost: int = 0
    estimated: int = 0
    """Tokens that nobody reported."""
    free: int = 0
    """Calls that used tokens and cost nothing."""
    elsewhere: list[int] = field(default_factory=list)
    """What the same calls would have cost, for each price that was asked for."""

    def add(self, other: Totals) -> None:
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        if not self.elsewhere:
            self.elsewhere = [0] * len(other.elsewhere)
        self.elsewhere = [a + b for a, b in zip(self.elsewhere, other.elsewhere, strict=True)]


_NUMBERS: Final = tuple(one.name for one in fields(Totals) if one.name != "elsewhere")


@dataclass(slots=True)
class Report:
    lines: dict[Line, Totals]
    first: int | None = None
    """The earliest and latest moment of which there is something, Unix time in milliseconds."""
    last: int | None = None
    whole_days: list[int] = field(default_factory=list)
    """Days that the period cuts, and of which only the whole sums are left: they are counted in full."""
    summed: int | None = None
    """The last day of which sums are left only: hours of a price cannot be told apart there."""

    @property
    def total(self) -> Totals:
        total = Totals()
        for line in self.lines.values():
            total.add(line)
        return total


def ask(connection: sqlite3.Connection, question: Question, prices: Sequence[Price] = ()) -> Report:
    """Answers within one transaction. `prices` are those of other models, for what it would have cost there."""
    connection.execute("BEGIN")
    try:
        return _Reading(connection, question, prices).report()
    finally:
        connection.execute("ROLLBACK")


class _Reading:
    """One question put to one moment of the database."""

    def __init__(
        self, connection: sqlite3.Connection, question: Question, prices: Sequence[Price]
    ) -> None:
        self._connection = connection
        self._question = question
        self._prices = prices
        self._names: dict[int, str] = dict(connection.execute("SELECT id, name FROM names"))
        self._numbers = {name: number for number, name in self._names.items()}
        self._estimated = self._numbers.get("estimated", -1)
        self._failed = [self._numbers[name] for name in calls.FAILED if name in self._numbers]
        period = question.period
        self._rows = _where("at", period.since, period.until)
        first = None if period.since is None else period.since // DAY_MS
        until = None if period.until is None else -(-period.until // DAY_MS)
        self._days = _where("day", first, until)

    def report(self) -> Report:
        report = Report({})
        for table, source in self._sources():
            for line, totals in self._sums(source, summed=table == "days"):
                report.lines.setdefault(line, Totals(elsewhere=[0] * len(self._prices))).add(totals)
        if self._prices:
            self._price(report)
        self._span(report)
        return report

    def _sources(self) -> Iterator[tuple[str, tuple[str, list[int]]]]:
        """The tables with what of them is asked for."""
        of: list[tuple[str, str | None]] = [
            ("key", self._question.key),
            ("model", self._question.model),
        ]
        for table, (where, values) in (("calls", self._rows), ("days", self._days)):
            clauses, given = [where], list(values)
            for column, name in of:
                if name is not None:
                    clauses.append(f"{column} = ?")
                    given.append(self._numbers.get(name, -1))
            yield table, (f"FROM {table} WHERE {' AND '.join(clauses)}", given)

    def _dimensions(self, summed: bool) -> str:
        day = "day" if summed else f"at / {DAY_MS}"
        return ", ".join(_COLUMNS.get(name, day) for name in self._question.by)

    def _sums(
        self, source: tuple[str, list[int]], *, summed: bool
    ) -> Iterator[tuple[Line, Totals]]:
        count = "SUM(calls)" if summed else "COUNT(*)"
        of = "calls" if summed else "1"
        failed = "SUM(failed)" if summed else f"SUM(outcome IN ({_listed(self._failed)}))"
        tokens = "input + output"
        by = self._dimensions(summed)
        where, values = source
        rows = self._connection.execute(
            f"SELECT {by}, {count}, {failed}, SUM(input), SUM(cached), SUM(output), SUM(reasoning),"
            f" SUM(audio), SUM(cost), SUM(CASE source WHEN {self._estimated} THEN {tokens} ELSE 0 END),"
            f" SUM(CASE WHEN cost = 0 AND {tokens} > 0 THEN {of} ELSE 0 END) {where} GROUP BY {by}",
            values,
        )
        wide = len(self._question.by)
        for row in rows:
            totals = Totals(*row[wide:])
            totals.elsewhere = [0] * len(self._prices)
            yield self._line(row[:wide]), totals

    def _line(self, numbers: Sequence[int]) -> Line:
        return tuple(
            number if name == "day" else self._names[number]
            for name, number in zip(self._question.by, numbers, strict=True)
        )

    def _price(self, report: Report) -> None:
        """Call by call, as the relay itself prices them: each by its own hour, each rounded up."""
        found: dict[tuple[int, ...], list[int]] = {}
        columns = "at, input, cached, output"
        for table, (where, values) in self._sources():
            summed = table == "days"
            by = self._dimensions(summed)
            of = columns.replace("at", f"day * {DAY_MS}") if summed else columns
            for *line, at, taken, cached, given in self._connection.execute(
                f"SELECT {by}, {of} {where} AND input + output > 0",
                values,
            ):
                costs = found.setdefault(tuple(line), [0] * len(self._prices))
                usage = Usage(taken, given, cached)
                for number, price in enumerate(self._prices):
                    costs[number] += price.usual(usage) if summed else price.cost(usage, at / 1000)
        for numbers, costs in found.items():
            report.lines[self._line(numbers)].elsewhere = costs

    def _span(self, report: Report) -> None:
        """From when to when there is something, and what of it is coarse."""
        rows, days = (dict(self._sources())[table] for table in ("calls", "days"))
        ends = [*self._ends(f"MIN(at), MAX(at) {rows[0]}", rows[1])]
        summed = [*self._ends(f"MIN(day), MAX(day) {days[0]}", days[1])]
        report.summed = max(summed, default=None)
        moments = [*ends, *(day * DAY_MS for day in summed)]
        report.first, report.last = min(moments, default=None), max(moments, default=None)
        period = self._question.period
        for edge in (period.since, period.until):
            if edge is not None and edge % DAY_MS and self._is_summed(edge // DAY_MS):
                report.whole_days.append(edge // DAY_MS)

    def _ends(self, what: str, values: list[int]) -> Iterator[int]:
        row = self._connection.execute(f"SELECT {what}", values).fetchone()
        yield from (end for end in row if end is not None)

    def _is_summed(self, day: int) -> bool:
        found = self._connection.execute("SELECT 1 FROM days WHERE day = ? LIMIT 1", (day,))
        return found.fetchone() is not None


def _where(column: str, since: int | None, until: int | None) -> tuple[str, list[int]]:
    clauses = ["1"]
    values: list[int] = []
    for sign, value in ((">=", since), ("<", until)):
        if value is not None:
            clauses.append(f"{column} {sign} ?")
            values.append(value)
    return " AND ".join(clauses), values


def _listed(numbers: Sequence[Any]) -> str:
    return ", ".join(str(number) for number in numbers)
