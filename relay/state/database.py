"""The relay's SQLite file: how it is made and opened. Whoever needs it opens a connection of its own.

Rules that hold here:
- the file appears whole or not at all: it is made under another name, so that an empty one is never ours;
- it is in WAL mode, where readers and the writer do not wait for each other, and several processes may write in turns:
  transactions are short;
- `PRAGMA user_version` is the number of `MIGRATIONS` it has been through; what a newer relay made is not touched.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import quote

from relay.state import calls

FILE: Final = "relay.db"
"""In the folder `state.path`."""
ASIDES: Final = ("", "-wal", "-shm")
"""A database of SQLite is up to three files."""

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
"""SQLite gives the same to the two beside it."""

BUSY: Final = 2.0
"""Seconds a statement waits for another process that writes. Only threads wait that nobody waits for."""

_NO_INDEX: Final = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        # Unix time; tokens, calls or nano-dollars. See `budgets`.
        "CREATE TABLE budgets (kind TEXT, owner TEXT, machine TEXT, ends INTEGER NOT NULL,"
        " spent INTEGER NOT NULL, reserved INTEGER NOT NULL,"
        " PRIMARY KEY (kind, owner, machine)) WITHOUT ROWID",
        *calls.SCHEMA,
    ),
)
"""What makes version N of version N - 1, from an empty file on. A released one never changes: a change is a new row."""

VERSION: Final = len(MIGRATIONS)


class NewerVersion(Exception):
    """A newer relay made this file: we would misread it."""

    def __init__(self, path: Path, version: int) -> None:
        super().__init__(
            f"{path} is of a newer relay (version {version}, this one knows {VERSION}): "
            "use that one, or another state.path"
        )


class NotOurs(sqlite3.DatabaseError):
    """A database, but none that a relay made."""


def make_folder(folder: Path) -> None:
    """Raises OSError where it cannot be made. One that is there keeps its mode."""
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)


def create(path: Path) -> None:
    """Makes an empty database where none is. Raises OSError or sqlite3.Error; then nothing is there."""
    install(prepare(path), path)


def prepare(path: Path, fill: Callable[[sqlite3.Connection], None] | None = None) -> Path:
    """Makes a database under another name, for `install`, with what `fill` writes. Raises as `create`."""
    new = path.with_name(f"{path.name}.new")
    for aside in ASIDES:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{new}{aside}")
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE))
    with contextlib.closing(_open(new, "rw")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        migrate(connection, new)
        if fill is not None:
            fill(connection)
    return new


def install(new: Path, path: Path) -> None:
    os.rename(new, path)
    sync_folder(path.parent)


def connect(path: Path) -> sqlite3.Connection:
    """To read and write, every statement a transaction unless it says BEGIN; commits are on the disk when they return.

    Raises sqlite3.Error where there is none, it is damaged or none of ours, and NewerVersion.
    """
    connection = _open(path, "rw")
    try:
        connection.execute("PRAGMA synchronous = FULL")
        migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def read_only(path: Path) -> sqlite3.Connection:
    """To look at it while a relay runs. Raises as `connect`; what an older relay made is read as it is."""
    connection = look(path)
    try:
        version_of(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def look(path: Path) -> sqlite3.Connection:
    """To read what can be read, whatever it is."""
    connection = _open(path, "ro")
    try:
        connection.execute("PRAGMA schema_version").close()
    except sqlite3.DatabaseError as error:
        connection.close()
        wal = Path(f"{path}-wal")
        if error.sqlite_errorcode & 0xFF not in _NO_INDEX or (wal.exists() and wal.stat().st_size):
            raise
        # On a disk that takes no writes SQLite cannot make the index of a log, and there is no log: nobody writes.
        connection = _open(path, "ro&immutable=1")
    return connection


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Brings an older file up to date, in one transaction."""
    version = version_of(connection, path)
    if version == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Somebody else may have done it while we waited.
        for statements in MIGRATIONS[version_of(connection, path) :]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def version_of(connection: sqlite3.Connection, path: Path) -> int:
    """Raises NewerVersion, and NotOurs for a database that no relay has made."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise NewerVersion(path, version)
    if version == 0 and not path.name.endswith(".new"):
        raise NotOurs("no relay has made this database")
    return version


def identity(path: Path) -> tuple[int, int] | None:
    """Which file this is; None where there is none."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def is_damage(error: Exception | None) -> bool:
    """Whether the file is at fault, not the disk or whoever else uses it."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, NotOurs) or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def faults(connection: sqlite3.Connection, table: str | None = None) -> list[str]:
    """What SQLite finds wrong with the file, or with one table; reads all of it. Never raises for a damaged one."""
    what = "" if table is None else f"({table})"
    try:
        found = [str(row[0]) for row in connection.execute(f"PRAGMA quick_check{what}")]
    except sqlite3.DatabaseError as error:
        return [str(error)]
    return [] if found == ["ok"] else found


def sync_folder(folder: Path) -> None:
    """A new name in the folder survives a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path, mode: str) -> sqlite3.Connection:
    address = f"file:{quote(str(path))}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=BUSY, isolation_level=None)
