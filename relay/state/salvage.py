"""A damaged database: it is set aside, never mended and never thrown away, and a new one takes over what can be read.

Whatever of the budgets could not be read is unknown, and unknown is not zero: a small file, `budgets.lost`, says so in
words, and as long as it is there and the periods of then still run, budgets count as away. The admin who deletes it
accepts what was saved. The file is written before anything else is touched, so that a crash in between loses nothing
silently.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import gmtime, strftime
from typing import Final, NamedTuple

from relay.admission.budgets import DAYS, MONTHS, Row
from relay.admission.period import end_of_day, end_of_month
from relay.observe import logs
from relay.state import budgets, database
from relay.state.database import ASIDES, FILE, FILE_MODE

log = logs.get("state")

LOST: Final = "budgets.lost"

CHECKED_WHOLE: Final = 64 * 1024 * 1024
"""Bytes of a file that is read through at start; of a larger one, with years of calls, the budgets are."""

_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


class Found(NamedTuple):
    """What there is at start."""

    rows: list[Row]
    lost: float | None
    """When budgets were lost that nobody has accepted yet, Unix time."""


def enter(folder: Path, wall: float) -> Found:
    """Opens the database, makes it where there is none, and sets a damaged one aside.

    Raises OSError or sqlite3.Error where that is not possible just now, and NewerVersion.
    """
    database.make_folder(folder)
    path = folder / FILE
    if not path.exists():
        _put_aside(path, _name_aside(path, wall))
        database.create(path)
        log.info("state_created", path=str(path))
    try:
        rows = _checked(path)
    except sqlite3.DatabaseError as error:
        if not database.is_damage(error):
            raise
        rows = _save(path, str(error), wall)
    return Found(list(budgets.running(rows, wall)), lost_since(folder))


def replace(folder: Path, wall: float, damaged: bool) -> bool:
    """The file of a relay that runs is damaged, or has gone: makes an empty one. Returns whether that was needed.

    Whoever knows the budgets writes all of them, and calls `accept` when that is done: until then they would be lost.
    """
    path = folder / FILE
    if path.exists() and not damaged:
        return False
    database.make_folder(folder)
    aside = _name_aside(path, wall)
    if lost_since(folder) is None:
        _tell_lost(folder, aside.name, 0, wall)
    _put_aside(path, aside)
    database.create(path)
    log.error("state_replaced", set_aside=aside.name if damaged else None)
    return True


def lost_since(folder: Path) -> float | None:
    """What `budgets.lost` says; None where there is none. Raises OSError where it cannot be read."""
    text = _text(folder)
    if text is None:
        return None
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            return datetime.strptime(line.strip(), _TIME).replace(tzinfo=UTC).timestamp()
    return (folder / LOST).stat().st_mtime


def _text(folder: Path) -> str | None:
    try:
        return (folder / LOST).read_text("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return None


def away(lost: float | None, wall: float) -> int:
    """The budgets (bits) that are unknown since then: those of periods that have not ended meanwhile."""
    if lost is None:
        return 0
    return DAYS * (wall < end_of_day(lost)) | MONTHS * (wall < end_of_month(lost))


def accept(folder: Path) -> None:
    """What was lost is of no use any more."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder / LOST)


def _checked(path: Path) -> list[Row]:
    """Raises sqlite3.DatabaseError for a damaged file."""
    with contextlib.closing(database.connect(path)) as connection:
        table = None if path.stat().st_size <= CHECKED_WHOLE else "budgets"
        found = database.faults(connection, table)
        if found:
            raise _Damage(found[0])
        try:
            return list(budgets.rows_of(connection))
        except (ValueError, TypeError):
            raise _Damage("no numbers where numbers should be") from None


class _Damage(database.NotOurs):
    """What a check has found."""


def _save(path: Path, fault: str, wall: float) -> list[Row]:
    """Sets the file aside and makes one with what can be read of it."""
    folder = path.parent
    rows, whole = _readable(path)
    before = _text(folder)
    aside = _name_aside(path, wall)
    # What was read is safe before the file is touched.
    new = database.prepare(path, partial(budgets.write, rows=rows))
    _tell_lost(folder, aside.name, len(rows), wall)
    _put_aside(path, aside)
    database.install(new, path)
    if whole:
        accept(folder) if before is None else _write(folder, before)
    log.error("state_damaged", fault=fault, set_aside=aside.name, budgets_read=len(rows), all=whole)
    return rows


def _readable(path: Path) -> tuple[list[Row], bool]:
    """What can be read of the budgets, from both ends of the table, and whether that is all."""
    rows: dict[tuple[str, str, str], Row] = {}
    whole = False
    with contextlib.suppress(sqlite3.Error, OSError), contextlib.ExitStack() as stack:
        connection = stack.enter_context(contextlib.closing(database.look(path)))
        whole = not database.faults(connection, "budgets")
        for order in ("", "ORDER BY kind DESC, owner DESC, machine DESC"):
            try:
                for row in budgets.rows_of(connection, order):
                    if min(row[3:]) >= 0:
                        rows.setdefault(row[:3], row)
            except (sqlite3.Error, ValueError, TypeError):
                whole = False
    return list(rows.values()), whole


def _name_aside(path: Path, wall: float) -> Path:
    """A name that is free."""
    while True:
        name = path.with_name(f"{path.name}.corrupt-{strftime('%Y%m%dT%H%M%SZ', gmtime(wall))}")
        if not any(Path(f"{name}{ending}").exists() for ending in ASIDES):
            return name
        wall += 1


def _put_aside(path: Path, aside: Path) -> None:
    # The log of SQLite first: beside another file it would be taken for that one's.
    for ending in reversed(ASIDES):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{ending}", f"{aside}{ending}")


def _tell_lost(folder: Path, aside: str, saved: int, wall: float) -> None:
    day, month = (strftime(_TIME, gmtime(end(wall))) for end in (end_of_day, end_of_month))
    text = f"""\
{strftime(_TIME, gmtime(wall))}

The relay found its database damaged or missing at that time. What there was of it has the
name {aside} now. {saved} budgets could be read; what others had used is not known.

While this file is here, calls of keys that have a limit per day (until {day}) or
per month (until {month}) are refused with 503, unless the configuration says
on_store_failure: {{budgets: open}}.

Delete this file to go on with what could be read: budgets that could not be read then start
from nothing. Nothing has to be restarted. The relay deletes it when both periods are over.
"""
    _write(folder, text)


def _write(folder: Path, text: str) -> None:
    new = folder / f"{LOST}.new"
    descriptor = os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, FILE_MODE)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(new, folder / LOST)
    database.sync_folder(folder)
