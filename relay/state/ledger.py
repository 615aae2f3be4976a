"""The ledger: an observer of records that writes one row for each call that was admitted (`calls` has the tables).

Rules that hold here:
- the loop only collects; the process's writer thread writes, all of half a second together;
- a store that is away costs calls nothing: what waits for it is bounded, and what does not fit is counted and lost;
- every process writes its own calls, and each may sum up old ones: transactions take turns.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from functools import partial
from time import time
from typing import Final

from relay.config.model import Config
from relay.observe import logs
from relay.records import CallRecord
from relay.state import calls, database
from relay.state.writer import Writer

log = logs.get("ledger")

HAND_OVER: Final = 0.25
"""Seconds for which calls are collected. With the batch before and the commit after it a crash costs less than one."""
MOST_WAITING: Final = 10_000
"""Calls that wait for a store that is away or slow, about a kilobyte each."""

TIDY: Final = 600.0
"""Seconds between two looks for calls whose time is over."""
FIRST_TIDY: Final = 20.0
"""Seconds after the start."""
STEP: Final = 2000
"""Old calls summed up at once: ten milliseconds of the thread, for which other processes wait to write."""

LAST_WRITE: Final = 5.0
"""Seconds the disk gets at the end."""

DAY: Final = 86_400


class Ledger:
    """Lives as long as the process. `observe` is an Observer of records."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        writer: Writer,
        retention: float,
        wall: Callable[[], float],
    ) -> None:
        """`retention` in seconds; `wall` tells Unix time."""
        self._loop = loop
        self._writer = writer
        self.retention = retention
        """May be set at any time (a reload)."""
        self._wall = wall
        self._collected: list[CallRecord] = []
        self._handed: deque[tuple[int, int]] = deque()
        """What the writer has not written yet: its number there, and its calls."""
        self._waiting = 0
        """Calls in both."""
        self._timer: asyncio.TimerHandle | None = None
        self._tidy: asyncio.TimerHandle | None = loop.call_later(FIRST_TIDY, self._look)
        self._closed = False
        self._losing = False
        self._recorded = 0
        self.dropped = 0
        """Calls lost since the start."""

    @property
    def recorded(self) -> int:
        """Calls written since the start."""
        self._settle()
        return self._recorded

    def observe(self, records: list[CallRecord]) -> None:
        """Less than a microsecond a call; never waits."""
        admitted = [record for record in records if record.admitted]
        if not admitted:
            return
        self._settle()
        if self._waiting + len(admitted) > MOST_WAITING or self._closed:
            self._lose(len(admitted))
            return
        self._losing = False
        self._waiting += len(admitted)
        self._collected += admitted
        if self._timer is None:
            self._timer = self._loop.call_later(HAND_OVER, self._hand_over)

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop, config: Config) -> Ledger:
        """As the configuration says, with a thread of its own: what waits for the disk here holds up no budgets."""
        path = config.state.path / database.FILE
        writer = Writer(path, partial(database.connect, path), "calls")
        return cls(loop, writer, config.state.retention, time)

    def close(self, timeout: float = LAST_WRITE) -> None:
        """Waits up to `timeout` seconds until all is written; what is not counts as dropped."""
        self._closed = True
        for timer in (self._timer, self._tidy):
            if timer is not None:
                timer.cancel()
        self._hand_over()
        if not self._writer.close(timeout):
            self._settle()
            left, self._waiting = self._waiting, 0
            self._handed.clear()
            if left:
                self._lose(left)

    def _hand_over(self) -> None:
        self._timer = None
        records, self._collected = self._collected, []
        if records:
            number = self._writer.put(partial(_write, records))
            self._handed.append((number, len(records)))

    def _settle(self) -> None:
        """Takes note of what has been written."""
        written, handed = self._writer.written, self._handed
        while handed and handed[0][0] <= written:
            _, count = handed.popleft()
            self._waiting -= count
            self._recorded += count

    def _lose(self, count: int) -> None:
        self.dropped += count
        if not self._losing:
            self._losing = True
            log.error("ledger_drops", waiting=self._waiting, reason=self._writer.error or "slow")

    # -- retention --

    def _look(self) -> None:
        self._tidy = self._loop.call_later(TIDY, self._look)
        self._writer.put(self._fold)

    def _fold(self, connection: sqlite3.Connection) -> None:
        """In the writer's thread: one step, and the next one after whatever else is to be written."""
        before = int((self._wall() - self.retention) // DAY)
        if calls.fold(connection, before, STEP) and not self._closed:
            self._writer.put(self._fold)


def _write(records: list[CallRecord], connection: sqlite3.Connection) -> None:
    calls.write(connection, records)
