"""The file of what outlives the process: how it comes to be, who may read it, and what is not ours to touch."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from relay.state import database
from relay.state.database import FILE, VERSION, NewerVersion, NotOurs


def made(folder: Path) -> Path:
    database.make_folder(folder)
    path = folder / FILE
    database.create(path)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_is_for_its_owner_alone_and_so_are_those_beside_it(tmp_path: Path) -> None:
    path = made(tmp_path / "state")
    with contextlib.closing(database.connect(path)) as connection:
        connection.execute("INSERT INTO budgets VALUES ('key', 'a', 'rpd', 1, 2, 3)")

        names = {one.name for one in path.parent.iterdir()}
        assert names == {FILE, f"{FILE}-wal", f"{FILE}-shm"}
        assert mode(path.parent) == 0o700
        assert {mode(one) for one in path.parent.iterdir()} == {0o600}


def test_what_was_left_of_a_creation_that_was_killed_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.new").write_bytes(b"")
    (tmp_path / f"{FILE}.new-wal").write_bytes(b"half")

    path = made(tmp_path)

    assert [one.name for one in tmp_path.iterdir()] == [FILE]
    with contextlib.closing(database.connect(path)) as connection:
        assert database.faults(connection) == []


def test_an_empty_file_and_a_stranger_are_not_ours(tmp_path: Path) -> None:
    empty, strange = tmp_path / "empty.db", tmp_path / "strange.db"
    empty.write_bytes(b"")
    with contextlib.closing(sqlite3.connect(strange)) as connection:
        connection.execute("CREATE TABLE songs (title)")

    for path in (empty, strange):
        with pytest.raises(NotOurs):
            database.connect(path)


def test_a_missing_file_is_not_made_by_opening_it(tmp_path: Path) -> None:
    for look in (database.connect, database.read_only):
        with pytest.raises(sqlite3.OperationalError):
            look(tmp_path / FILE)

    assert not list(tmp_path.iterdir())


def test_a_file_of_a_newer_relay_is_refused_in_one_line_and_not_touched(tmp_path: Path) -> None:
    path = made(tmp_path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    before = path.read_bytes()

    with pytest.raises(NewerVersion, match=f"version {VERSION + 1}, this one knows {VERSION}"):
        database.connect(path)

    assert path.read_bytes() == before


def test_an_older_file_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path)
    more = (*database.MIGRATIONS, ("CREATE TABLE later (a)", "INSERT INTO later VALUES (7)"))
    monkeypatch.setattr(database, "MIGRATIONS", more)
    monkeypatch.setattr(database, "VERSION", len(more))

    for _ in range(2):
        with contextlib.closing(database.connect(path)) as connection:
            rows = connection.execute("SELECT a FROM later").fetchall()
            version = connection.execute("PRAGMA user_version").fetchone()

            assert rows == [(7,)]
            assert version == (len(more),)


def test_a_migration_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(
            database, "MIGRATIONS", (*database.MIGRATIONS, ("CREATE TABLE later (a)", "NONSENSE"))
        )
        patch.setattr(database, "VERSION", VERSION + 1)
        with pytest.raises(sqlite3.OperationalError):
            database.connect(path)

    with contextlib.closing(database.connect(path)) as connection:
        names = connection.execute("SELECT name FROM sqlite_schema").fetchall()
        assert ("later",) not in names


def test_a_reader_sees_what_was_committed_while_somebody_writes(tmp_path: Path) -> None:
    path = made(tmp_path)
    with (
        contextlib.closing(database.connect(path)) as writer,
        contextlib.closing(database.read_only(path)) as reader,
    ):
        writer.execute("INSERT INTO budgets VALUES ('key', 'a', 'rpd', 1, 2, 3)")
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE budgets SET spent = 9")

        assert reader.execute("SELECT spent FROM budgets").fetchall() == [(2,)]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute("DELETE FROM budgets")


def test_a_damaged_page_is_found(tmp_path: Path) -> None:
    path = made(tmp_path)
    with contextlib.closing(database.connect(path)) as connection:
        connection.executemany(
            "INSERT INTO budgets VALUES ('key', ?, 'usd_per_month', 1, 2, 3)",
            [(f"key-{number}",) for number in range(2000)],
        )
    with path.open("r+b") as file:
        file.seek(os.path.getsize(path) // 2 // 4096 * 4096)
        file.write(b"\xa5" * 4096)

    with contextlib.closing(database.connect(path)) as connection:
        assert database.faults(connection)
        assert database.faults(connection, "budgets")
