"""The observer: which calls it writes, and what a store that is away may cost (nothing but the rows)."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest

from relay.state import calls, database, ledger
from relay.state.ledger import MOST_WAITING, Ledger
from relay.state.writer import Work, Writer
from tests.recorded import DAY, FIRST, call, made
from tests.rig.deadlines import WAIT, scenario, within


def stored(path: Path) -> list[str]:
    with contextlib.closing(database.read_only(path)) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM calls ORDER BY id")]


class Watched(Writer):
    """Tells when something is handed over, and when a try has failed."""

    def __init__(self, path: Path, connect: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(path, connect, "calls")
        self.given, self.failed = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def put(self, work: Work) -> int:
        self._loop.call_soon_threadsafe(self.given.set)
        return super().put(work)

    def _failed(self, error: Exception) -> None:
        super()._failed(error)
        self._loop.call_soon_threadsafe(self.failed.set)

    async def next(self) -> None:
        """Waits for the next hand-over, and until it is written."""
        async with within():
            await self.given.wait()
        self.given.clear()
        assert await asyncio.to_thread(self.flush, WAIT)


@contextlib.contextmanager
def keeping(
    path: Path, connect: Callable[[], sqlite3.Connection] | None = None
) -> Iterator[tuple[Ledger, Watched]]:
    """A ledger over a real thread, long after `FIRST`."""
    connect = connect or (lambda: database.connect(path))
    writer = Watched(path, connect)
    kept = Ledger(asyncio.get_running_loop(), writer, 90 * DAY, lambda: FIRST + 95 * DAY)
    try:
        yield kept, writer
    finally:
        kept.close(WAIT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return made(tmp_path)


@scenario
async def test_admitted_calls_are_written_and_refused_ones_are_not(path: Path) -> None:
    with keeping(path) as (kept, _):
        kept.observe([call(1), call(2, admitted=False), call(3)])
        kept.observe([call(4, admitted=False)])
        kept.close(WAIT)

        assert stored(path) == [call(number).request_id for number in (1, 3)]
        assert (kept.recorded, kept.dropped) == (2, 0)


@scenario
async def test_what_was_observed_is_written_without_an_end(path: Path) -> None:
    with keeping(path) as (kept, writer):
        kept.observe([call(1)])
        await writer.next()

        assert len(stored(path)) == kept.recorded == 1


@scenario
async def test_beyond_the_bound_calls_are_counted_and_lost_with_one_line(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = Event()

    def connect() -> sqlite3.Connection:
        blocked.wait(WAIT)
        return database.connect(path)

    with keeping(path, connect) as (kept, _):
        for start in range(0, MOST_WAITING, 1000):
            kept.observe([call(start + number) for number in range(1000)])
        for number in range(5):
            kept.observe([call(MOST_WAITING + number)])

        assert kept.dropped == 5
        assert [line.message for line in caplog.records] == ["ledger_drops"]
        blocked.set()
        kept.close(WAIT)
        assert kept.recorded == MOST_WAITING
        assert len(stored(path)) == MOST_WAITING


@scenario
async def test_a_full_disk_delays_calls_and_loses_none(path: Path) -> None:
    room = Event()

    def connect() -> sqlite3.Connection:
        connection = database.connect(path)
        if not room.is_set():
            # SQLite's own idea of a full disk: no page more than there are.
            connection.execute("PRAGMA max_page_count = 1")
        return connection

    with keeping(path, connect) as (kept, writer):
        kept.observe([call(number) for number in range(500)])
        async with within():
            await writer.failed.wait()
        assert "full" in (writer.error or "")
        room.set()
        kept.close(WAIT)

        assert len(stored(path)) == kept.recorded == 500
        assert kept.dropped == 0


@scenario
async def test_a_store_that_stays_away_costs_the_calls_in_hand_at_the_end(tmp_path: Path) -> None:
    with keeping(tmp_path / "nowhere" / "relay.db") as (kept, _):
        kept.observe([call(1), call(2)])
        kept.close(0.2)

        assert (kept.recorded, kept.dropped) == (0, 2)


@scenario
async def test_old_calls_are_summed_up_step_by_step(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "FIRST_TIDY", 0.0)
    monkeypatch.setattr(ledger, "STEP", 2)
    with contextlib.closing(database.connect(path)) as connection:
        calls.write(connection, [call(number, cost=1) for number in range(5)])
        calls.write(connection, [call(9, received=FIRST + 10 * DAY)])
        with keeping(path) as (_, writer):
            await writer.next()
            while writer.waiting:
                assert await asyncio.to_thread(writer.flush, WAIT)

        assert stored(path) == [call(9).request_id]
        assert connection.execute("SELECT calls, cost FROM days").fetchall() == [(5, 5)]
