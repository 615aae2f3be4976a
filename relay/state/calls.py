"""The ledger's tables: what is written of a call, and what stays of it.

- A call is a row of `calls`, kept by the moment it came in and its request id: written twice, it is there once.
- Texts that come again (ids of keys, models, upstreams, outcomes) stand in `names` once; 0 is no text.
- Rows whose time is over become sums by day, key, group, model, upstream and source in `days`, which stay. Summing and
  deleting are one transaction, so that nothing is ever counted twice or not at all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from relay.records import CallRecord

DAY_MS: Final = 86_400_000

FAILED: Final = ("degraded", "overloaded", "stream_truncated", "timeout", "upstream_error")
"""Outcomes that nobody wanted, and no client caused."""

SUMS: Final = ("calls", "failed", "input", "cached", "output", "reasoning", "audio", "cost")
"""What `days` adds up."""
LINE: Final = ("day", "key", "grp", "model", "upstream", "source")
"""Whose sums they are."""

SCHEMA: Final[tuple[str, ...]] = (
    "CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    "INSERT INTO names VALUES (0, '')",
    # `at`: when the call came in, Unix time in ms. Names are numbers of `names`; tokens; nano-dollars. The table is its
    # own index: by time, as `--since` reads it.
    "CREATE TABLE calls (at INTEGER NOT NULL, id TEXT NOT NULL, key INTEGER NOT NULL, grp INTEGER NOT NULL,"
    " model INTEGER NOT NULL, asked INTEGER NOT NULL, upstream INTEGER NOT NULL, outcome INTEGER NOT NULL,"
    " code INTEGER NOT NULL, stream INTEGER NOT NULL, attempts INTEGER NOT NULL, input INTEGER NOT NULL,"
    " cached INTEGER NOT NULL, output INTEGER NOT NULL, reasoning INTEGER NOT NULL, audio INTEGER NOT NULL,"
    " source INTEGER NOT NULL, cost INTEGER NOT NULL, ttft_ms INTEGER, duration_ms INTEGER NOT NULL,"
    " PRIMARY KEY (at, id)) WITHOUT ROWID",
    # `day`: days since 1970-01-01, UTC.
    "CREATE TABLE days (day INTEGER, key INTEGER, grp INTEGER, model INTEGER, upstream INTEGER, source INTEGER,"
    " calls INTEGER NOT NULL, failed INTEGER NOT NULL, input INTEGER NOT NULL, cached INTEGER NOT NULL,"
    " output INTEGER NOT NULL, reasoning INTEGER NOT NULL, audio INTEGER NOT NULL, cost INTEGER NOT NULL,"
    " PRIMARY KEY (day, key, grp, model, upstream, source)) WITHOUT ROWID",
)

COLUMNS: Final = 20
MANY: Final = 48
"""Rows in one statement: a thread that writes row by row asks for the interpreter after each of them, and waits for it
while it holds the database; so many stay below the 999 parameters that an old SQLite takes."""

LARGEST: Final = 2**63 - 1
"""What a column of SQLite holds."""


def write(connection: sqlite3.Connection, records: Sequence[CallRecord]) -> None:
    """Adds calls, inside a transaction; those that are there already are left as they are. Some 6 µs each."""
    named = [_texts(record) for record in records]
    ids = _ids(connection, {text for texts in named for text in texts})
    for start in range(0, len(named), MANY):
        values: list[Any] = []
        some = named[start : start + MANY]
        for record, texts in zip(records[start : start + MANY], some, strict=True):
            values += _row(record, [ids[text] for text in texts])
        connection.execute(_insert(len(some)), values)


def _insert(rows: int) -> str:
    row = "(" + ",".join("?" * COLUMNS) + ")"
    return f"INSERT INTO calls VALUES {','.join([row] * rows)} ON CONFLICT (at, id) DO NOTHING"


def _texts(record: CallRecord) -> tuple[str, str, str, str, str, str, str]:
    usage = record.usage
    return (
        record.key or "",
        record.group or "",
        record.served_model or "",
        _asked(record),
        record.upstream,
        record.outcome,
        "" if usage is None else usage.source,
    )


def _asked(record: CallRecord) -> str:
    """The model that was asked for, where another one answered."""
    asked = record.model or ""
    return "" if asked == record.served_model else asked


def _row(record: CallRecord, numbers: list[int]) -> tuple[Any, ...]:
    """The columns of a call; `numbers` are those of its texts."""
    key, group, model, asked, upstream, outcome, source = numbers
    usage, ttft = record.usage, record.ttft
    if usage is None:
        tokens = (0, 0, 0, 0, 0)
    else:
        tokens = (usage.input, usage.cached, usage.output, usage.reasoning, usage.audio)
    return (
        int(record.received * 1000),
        record.request_id,
        *(key, group, model, asked, upstream, outcome),
        *(record.code, int(record.stream), len(record.attempts)),
        *tokens,
        source,
        min(record.cost, LARGEST),
        None if ttft is None else round(ttft * 1000),
        round(record.duration * 1000),
    )


def _ids(connection: sqlite3.Connection, texts: Iterable[str]) -> dict[str, int]:
    """The numbers of these texts; new ones get one. Read for each batch: a transaction that failed took them back."""
    found: dict[str, int] = {}
    for text in texts:
        row = connection.execute("SELECT id FROM names WHERE name = ?", (text,)).fetchone()
        if row is None:
            row = connection.execute(
                "INSERT INTO names (name) VALUES (?) RETURNING id", (text,)
            ).fetchone()
        found[text] = row[0]
    return found


def ids_of(connection: sqlite3.Connection, texts: Iterable[str]) -> list[int]:
    """The numbers of those texts that have one."""
    rows = (
        connection.execute("SELECT id FROM names WHERE name = ?", (text,)).fetchone()
        for text in texts
    )
    return [row[0] for row in rows if row is not None]


def fold(connection: sqlite3.Connection, before: int, most: int) -> bool:
    """Turns the oldest calls of the days before `before` into sums, `most` at a time, inside a transaction.

    Whether more are left. A call that ended so late that its day is summed already is added to it the next time.
    """
    until = before * DAY_MS
    last = connection.execute(
        "SELECT at, id FROM (SELECT at, id FROM calls WHERE at < ? ORDER BY at, id LIMIT ?)"
        " ORDER BY at DESC, id DESC LIMIT 1",
        (until, most),
    ).fetchone()
    if last is None:
        return False
    failed = ids_of(connection, FAILED)
    holes = ",".join("?" * len(failed))
    line, sums = ", ".join(LINE), ", ".join(SUMS)
    connection.execute(
        f"INSERT INTO days ({line}, {sums})"
        f" SELECT at / {DAY_MS}, {', '.join(LINE[1:])}, COUNT(*), SUM(outcome IN ({holes})),"
        f" {', '.join(f'SUM({name})' for name in SUMS[2:])}"
        f" FROM calls WHERE (at, id) <= (?, ?) GROUP BY 1, {', '.join(LINE[1:])}"
        f" ON CONFLICT ({line}) DO UPDATE SET"
        f" {', '.join(f'{name} = {name} + excluded.{name}' for name in SUMS)}",
        (*failed, *last),
    )
    gone = connection.execute("DELETE FROM calls WHERE (at, id) <= (?, ?)", last).rowcount
    return gone == most
