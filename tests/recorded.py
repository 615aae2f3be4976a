"""Ledgers for tests: calls of any kind, a database that holds them, and the same sums made by hand."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from relay.errors import Outcome
from relay.records import CallRecord
from relay.state import calls, database
from relay.state.calls import DAY_MS
from relay.state.report import Dimension, Totals
from relay.usage import Source, Usage

DAY = 86_400.0
FIRST = datetime(2026, 11, 23, tzinfo=UTC).timestamp()
"""A Monday."""
KEYS = ("shop", "店铺-前端", "batch")
MODELS = ("deepseek-chat", "qwen")

PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Of calls as `recorded` draws them: a dozen facts each, which takes its time on a busy machine."""


def call(number: int = 0, **facts: object) -> CallRecord:
    """An admitted call; its number makes its id."""
    record = CallRecord()
    record.request_id = f"req_{number:020x}"
    record.received = FIRST
    record.key, record.model, record.served_model, record.upstream = "shop", "m", "m", "up"
    record.admitted = True
    record.code = 200
    for name, fact in facts.items():
        setattr(record, name, fact)
    return record


@st.composite
def recorded(draw: st.DrawFn, days: int = 4) -> list[CallRecord]:
    """Up to twenty calls within some days from `FIRST` on."""
    made = []
    for number in range(draw(st.integers(0, 20))):
        taken, given = draw(st.integers(0, 10**6)), draw(st.integers(0, 10**6))
        usage = Usage(
            taken,
            given,
            draw(st.integers(0, taken)),
            draw(st.integers(0, given)),
            draw(st.integers(0, 99)),
            draw(st.sampled_from(get_args(Source))),
        )
        made.append(
            call(
                number,
                received=FIRST + draw(st.integers(0, int(days * DAY * 1000) - 1)) / 1000,
                key=draw(st.sampled_from(KEYS)),
                group=draw(st.sampled_from((None, "team"))),
                model=draw(st.sampled_from(MODELS)),
                served_model=draw(st.sampled_from(MODELS)),
                upstream=draw(st.sampled_from(("a", "b", "none", "static"))),
                outcome=draw(st.sampled_from(get_args(Outcome))),
                usage=draw(st.sampled_from((usage, None))),
                cost=draw(st.integers(0, 10**15)),
                duration=draw(st.floats(0, 3600)),
            )
        )
    return made


@contextlib.contextmanager
def memory(records: Sequence[CallRecord] = ()) -> Iterator[sqlite3.Connection]:
    """The ledger's tables with these calls, in memory."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for statement in calls.SCHEMA:
            connection.execute(statement)
        calls.write(connection, records)
        yield connection


def store(folder: Path, records: Sequence[CallRecord]) -> Path:
    """A database file of a relay that has ended."""
    path = made(folder)
    with contextlib.closing(database.connect(path)) as connection:
        calls.write(connection, records)
    return path


def made(folder: Path) -> Path:
    """An empty database."""
    database.make_folder(folder)
    path = folder / database.FILE
    if not path.exists():
        database.create(path)
    return path


def value_of(record: CallRecord, by: Dimension) -> str | int:
    if by == "day":
        return int(record.received * 1000) // DAY_MS
    of = {
        "key": record.key,
        "group": record.group,
        "model": record.served_model,
        "upstream": record.upstream,
    }
    return of[by] or ""


def summed(records: Iterable[CallRecord], *by: Dimension) -> dict[tuple[str | int, ...], Totals]:
    """What the ledger should say, added up one by one."""
    found: dict[tuple[str | int, ...], Totals] = {}
    for record in records:
        totals = found.setdefault(tuple(value_of(record, each) for each in by), Totals())
        totals.calls += 1
        totals.failed += record.outcome in calls.FAILED
        totals.cost += record.cost
        usage = record.usage
        if usage is None:
            continue
        totals.input += usage.input
        totals.cached += usage.cached
        totals.output += usage.output
        totals.reasoning += usage.reasoning
        totals.audio += usage.audio
        used = usage.input + usage.output
        totals.estimated += used if usage.source == "estimated" else 0
        totals.free += used > 0 and record.cost == 0
    return found
