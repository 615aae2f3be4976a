"""The table of budgets: one row for each budget that was ever used, of a key or a group.

Whose it is stands in `kind` (`key` or `group`), `owner` (the id) and `machine` (the limit's name, and a model's behind
a blank where that has one of its own). `ends` is the end of the period in Unix time; `spent` and `reserved` are calls,
tokens or nano-dollars, as the limit counts. What is reserved belonged to running calls when it was written.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from relay.admission.budgets import Row
from relay.state import database

KEPT: Final = 40 * 86_400
"""Seconds for which a row outlives its period: a clock that was ahead for a while has ended none for good."""

COLUMNS: Final = "kind, owner, machine, ends, spent, reserved"

# One statement for many rows: each statement takes the interpreter from the event loop once more.
_WRITE: Final = (
    f"INSERT INTO budgets ({COLUMNS})"  # noqa: S608  names of ours
    " SELECT "
    + ", ".join(f"json_extract(value, '$[{place}]')" for place in range(6))
    + " FROM json_each(?) WHERE true"
    " ON CONFLICT DO UPDATE SET"
    " ends = excluded.ends, spent = excluded.spent, reserved = excluded.reserved"
)

_encode = msgspec.json.Encoder().encode


def read(folder: Path) -> list[Row]:
    """All rows, also while a relay runs on the folder: then as they were a fraction of a second ago.

    Nothing is written. No file is no rows; raises sqlite3.Error where it cannot be read, and NewerVersion.
    """
    path = folder / database.FILE
    if not path.exists():
        return []
    with contextlib.closing(database.read_only(path)) as connection:
        return list(rows_of(connection))


def rows_of(connection: sqlite3.Connection, order: str = "") -> Iterator[Row]:
    """Row after row: of a damaged file as far as it goes."""
    ends: dict[int, int] = {}
    found = connection.execute(f"SELECT {COLUMNS} FROM budgets {order}")  # noqa: S608
    for kind, owner, machine, end, spent, reserved in found:
        # Very many rows share a few words and numbers, and memory.
        yield (
            sys.intern(str(kind)),
            str(owner),
            sys.intern(str(machine)),
            ends.setdefault(int(end), int(end)),
            int(spent),
            int(reserved),
        )


def write(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Each replaces the row of the same budget."""
    connection.execute(_WRITE, (_encode(rows).decode(),))


def forget(connection: sqlite3.Connection, wall: float) -> None:
    """Deletes rows whose period has been over for long."""
    connection.execute("DELETE FROM budgets WHERE ends < ?", (int(wall) - KEPT,))


def running(rows: Iterable[Row], wall: float) -> Iterator[Row]:
    """Without those that `forget` deletes."""
    return (row for row in rows if row[3] >= wall - KEPT)
