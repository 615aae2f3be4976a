"""What today's calls have cost: those before this process from the ledger, once; the others as they end.

The ledger is read when a page is looked at for the first time, in a thread: a start costs nothing, and a day of
a million calls takes its second there.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Final

from relay.page.telling import NANO_DOLLARS, Telling
from relay.page.window import ALL
from relay.state import database
from relay.state.report import Period, Question, ask

DAY: Final = 86_400


class Spend:
    """By upstream. Lives as long as the process that shows it. `wall` is Unix time everywhere."""

    def __init__(self, store: Path, wall: float) -> None:
        """`store`: the ledger's file; `wall`: now."""
        self._store = store
        self._started = wall
        self._day = int(wall // DAY)
        self._since = wall
        self._cost: dict[str, int] = {}
        """Nano-dollars."""
        self._asked = False
        self._reading: asyncio.Future[dict[str, int]] | None = None

    def add(self, told: Telling, wall: float) -> None:
        """These calls have ended."""
        self._turn(wall)
        if told.all.cost:
            self._add(ALL, told.all.cost)
            for name, sums in told.upstreams.items():
                self._add(name, sums.cost)

    def today(self, name: str, wall: float) -> float:
        """US dollars since `since`."""
        self._turn(wall)
        return self._cost.get(name, 0) / NANO_DOLLARS

    def since(self, wall: float) -> float:
        """Midnight UTC, or the start of the process as long as the ledger has not told what was before."""
        self._turn(wall)
        return self._since

    def recall(self, wall: float) -> None:
        """Reads what the ledger knows of today, once; what it says is there soon after."""
        if self._asked:
            return
        self._asked = True
        midnight = int(wall // DAY) * DAY
        if self._started <= midnight:
            return
        loop = asyncio.get_running_loop()
        self._reading = loop.run_in_executor(None, _read, self._store, midnight, self._started)
        self._reading.add_done_callback(self._recalled)

    def _recalled(self, reading: asyncio.Future[dict[str, int]]) -> None:
        self._reading = None
        # A ledger that cannot be read is told elsewhere; the page says since when it counts.
        with contextlib.suppress(
            sqlite3.Error, OSError, database.NewerVersion, asyncio.CancelledError
        ):
            before = reading.result()
            if int(self._started // DAY) != self._day:
                return
            self._since = self._day * DAY
            for name, cost in before.items():
                self._add(ALL, cost)
                if name != ALL:
                    self._add(name, cost)

    def _turn(self, wall: float) -> None:
        """A new day begins at nothing; a clock that is set back does not."""
        day = int(wall // DAY)
        if day > self._day:
            self._day, self._since, self._cost = day, day * DAY, {}

    def _add(self, name: str, cost: int) -> None:
        self._cost[name] = self._cost.get(name, 0) + cost


def _read(store: Path, since: float, until: float) -> dict[str, int]:
    """Nano-dollars by upstream, "" for none. In a thread."""
    period = Period(int(since * 1000), int(until * 1000))
    with contextlib.closing(database.read_only(store)) as connection:
        lines = ask(connection, Question(("upstream",), period)).lines
    return {str(line[0]): totals.cost for line, totals in lines.items()}
