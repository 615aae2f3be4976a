"""The thread that writes: in order, in few transactions, and nobody waits for it or hears of its troubles."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from time import monotonic

import pytest

from relay.state import database
from relay.state import writer as writer_module
from relay.state.database import ASIDES, FILE
from relay.state.writer import EVERY, Work, Writer
from tests.rig.deadlines import WAIT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    database.create(tmp_path / FILE)
    return tmp_path / FILE


@contextlib.contextmanager
def writing(
    path: Path, connect: Callable[[], sqlite3.Connection] | None = None
) -> Iterator[Writer]:
    writer = Writer(path, connect or (lambda: database.connect(path)), "tests")
    try:
        yield writer
    finally:
        writer.close(WAIT)


def spends(amount: int, owner: str = "a") -> Work:
    row = ("key", owner, "rpd", 1, amount, 0)
    return lambda connection: connection.execute(
        "INSERT OR REPLACE INTO budgets VALUES (?, ?, ?, ?, ?, ?)", row
    ).close()


def stored(path: Path) -> list[tuple[str, int]]:
    with contextlib.closing(database.read_only(path)) as connection:
        return connection.execute("SELECT owner, spent FROM budgets ORDER BY owner").fetchall()


def test_what_is_handed_over_is_written_in_order(path: Path) -> None:
    with writing(path) as writer:
        for amount in range(100):
            number = writer.put(spends(amount))
        flushed = writer.flush(WAIT)

        assert flushed
        assert (writer.written, writer.waiting) == (number, 0)
        assert stored(path) == [("a", 99)]


def test_the_end_writes_what_is_left_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "EVERY", 1000 * WAIT)
    with writing(path) as writer:
        writer.put(spends(1))
        writer.flush(WAIT)
        writer.put(spends(2, "b"))

        assert writer.close(WAIT)

        assert [one.name for one in path.parent.iterdir()] == [FILE]
        assert stored(path) == [("a", 1), ("b", 2)]


def test_transactions_are_few(path: Path) -> None:
    begun: list[float] = []

    def connect() -> sqlite3.Connection:
        connection = database.connect(path)
        connection.set_trace_callback(
            lambda statement: begun.append(monotonic()) if statement.startswith("BEGIN") else None
        )
        return connection

    with writing(path, connect) as writer:
        writer.put(spends(0))
        writer.flush(WAIT)
        goal = [writer.put(spends(amount)) for amount in range(1, 50)][-1]
        while writer.written < goal:
            pass

    assert len(begun) == 2
    assert begun[1] - begun[0] >= EVERY * 0.9


def test_a_failure_is_kept_as_state_and_healed_by_trying_again(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "relay")
    failed = Event()

    def work(connection: sqlite3.Connection) -> None:
        if not writer.errors:
            failed.set()
            raise sqlite3.OperationalError("database or disk is full")
        spends(5)(connection)

    with writing(path) as writer:
        assert writer.up
        writer.put(work)
        assert failed.wait(WAIT)
        writer.put(spends(6, "b"))
        flushed = writer.flush(WAIT)

        assert flushed
        assert writer.up
        assert writer.errors == 1
        assert stored(path) == [("a", 5), ("b", 6)]
        assert [record.message for record in caplog.records] == ["store_down", "store_up"]


def test_a_failure_that_stays_is_told_once_and_no_end_waits_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / FILE
    tries = [Event() for _ in range(3)]

    def connect() -> sqlite3.Connection:
        next(event for event in tries if not event.is_set()).set()
        return database.connect(path)

    with writing(path, connect) as writer:
        writer.put(spends(1))
        assert tries[1].wait(WAIT)
        began = monotonic()
        whole = writer.close(WAIT)

        assert not whole
        assert monotonic() - began < 1
        assert tries[2].is_set()
        assert not writer.up
        assert writer.error == "unable to open database file (SQLITE_CANTOPEN)"
        assert writer.behind(monotonic()) > 0
        assert [record.message for record in caplog.records] == ["store_down"]


def test_a_bug_in_one_work_holds_up_no_other(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def wrong(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO budgets VALUES (?)", ("too", "many"))

    with writing(path) as writer:
        for work in (spends(1), wrong, spends(2, "b")):
            writer.put(work)
        flushed = writer.flush(WAIT)

        assert flushed
        assert writer.up
        assert stored(path) == [("a", 1), ("b", 2)]
        assert [record.message for record in caplog.records] == ["bug"]


def test_several_writers_of_one_file_take_turns(path: Path) -> None:
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(writing(path)) for _ in range(4)]
        for number, writer in enumerate(writers):
            for amount in range(20):
                writer.put(spends(amount, f"k{number}"))
        assert all([writer.close(WAIT) for writer in writers])

    assert stored(path) == [(f"k{number}", 19) for number in range(4)]
    assert all(writer.errors == 0 for writer in writers)


def test_a_file_that_has_been_replaced_is_noticed(path: Path) -> None:
    with writing(path) as writer:
        writer.put(spends(1))
        writer.flush(WAIT)
        for ending in ASIDES:
            os.unlink(f"{path}{ending}")
        database.create(path)
        writer.put(spends(2, "b"))
        writer.flush(WAIT)

        assert stored(path) == [("b", 2)]
        assert writer.errors == 0


def test_behind_is_the_time_since_the_oldest_was_handed_over(path: Path) -> None:
    held, go = Event(), Event()

    def work(connection: sqlite3.Connection) -> None:
        held.set()
        assert go.wait(WAIT)

    with writing(path) as writer:
        before = monotonic()
        writer.put(work)
        assert held.wait(WAIT)
        now = monotonic()
        behind, later = writer.behind(now), writer.behind(now + 7)
        go.set()
        writer.flush(WAIT)

        assert 0 <= behind <= now - before
        assert later == pytest.approx(behind + 7)
        assert writer.up
        assert writer.behind(monotonic()) == 0
