"""Keeps the budgets of this process's authority: reads them at start, writes what changes, and says when that fails.

The machines stay the truth as long as the process lives, so that whatever happens to the disk no call waits, and none
is judged by less than is known. What changes is handed to the writer's thread within `TICK`, and is on the disk within
`writer.EVERY` after that: so much a `kill -9` may cost, and not the second that is allowed.

Budgets count as away, and keys that have one are refused unless the configuration wants them served,
- as long as what was spent is unknown: the file is there and cannot be read, or was damaged and nobody has accepted
  what could be saved (`salvage`);
- when nothing could be written for `PATIENCE`: a crash would then reset more than a second's use.
"""

from __future__ import annotations

import asyncio
import sqlite3
from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import Final, Literal

from relay.admission.budgets import DAYS, MONTHS, Row
from relay.admission.gate import Gate
from relay.admission.period import end_of_month
from relay.config.model import Config
from relay.observe import logs
from relay.state import budgets, database, salvage
from relay.state.writer import STORE, Writer, reason_of

log = logs.get("state")

TICK: Final = 0.1
"""Seconds between two looks at what has changed."""
STEP: Final = 500
"""Budgets that are handed over in one turn of the loop: half a millisecond;"""
REST: Final = 0.005
"""and seconds until the next turn, where more have changed."""
MOST_WAITING: Final = 20
"""Handed over and not written. Changes of budgets beyond that wait where they are counted, which costs nothing."""
PATIENCE: Final = 5.0
"""Seconds without a write until budgets count as away."""
LOOK: Final = 1.0
"""Seconds between two looks whether the admin has accepted a loss."""
LAST_WRITE: Final = 5.0
"""Seconds the disk gets at the end."""

Policy = Literal["open", "closed"]


class Keeper:
    """Lives as long as the authority. That of a gate whose authority is another process keeps nothing."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, folder: Path, gate: Gate, policy: Policy
    ) -> None:
        self._loop = loop
        self._folder = folder
        self._path = folder / database.FILE
        self._gate = gate
        self._budgets = gate.budgets
        self.policy = policy
        """What becomes of keys with a budget while budgets are away; a reload may change it."""
        self._writer = Writer(self._path, self._connect, "budgets")
        self._known = False
        """What was spent before is known; the thread may have read it a moment before it is `_learned`."""
        self._learned = False
        self._file: tuple[int, int] | None = None
        """The file that has all of it."""
        self._lost: float | None = None
        self._looked = 0.0
        self._looking = 0
        self._rewriting = 0
        """The work that ends a rewriting of all; -1 while not all is handed over, 0 where there is none."""
        self._away_said = False
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop, config: Config, gate: Gate) -> Keeper:
        """As the configuration says."""
        return cls(loop, config.state.path, gate, config.on_store_failure.budgets)

    # -- life --

    def start(self) -> None:
        """Reads what there is. Called before anybody is served: it may wait for the disk."""
        if not self._budgets.kept:
            return
        try:
            found = salvage.enter(self._folder, time())
            self._file = database.identity(self._path)
        except (OSError, sqlite3.Error, database.NewerVersion) as error:
            log.error("state_unusable", path=str(self._folder), reason=reason_of(error))
            try:
                rows = budgets.running(budgets.read(self._folder), time())
                found = salvage.Found(list(rows), salvage.lost_since(self._folder))
            except (OSError, sqlite3.Error, database.NewerVersion):
                found = None
        if found is not None:
            self._known = True
            self._learn(found)
        self._writer.put(_touch)
        self._tick()

    def close(self) -> None:
        """Writes what is left; the calls have ended. May wait for the disk."""
        if self._timer is None:
            return
        self._timer.cancel()
        if self._learned:
            while self._budgets.has_changed:
                self._writer.put(partial(budgets.write, rows=self._budgets.take(STEP)))
        if not self._writer.close(LAST_WRITE):
            log.error("budgets_not_written", reason=self._writer.error)
        elif self._rewriting and self._lost is None:
            salvage.accept(self._folder)

    # -- what is shown --

    def store_up(self) -> list[tuple[str, bool]]:
        """Its name, and whether it does what it is for; nothing where the store is another process's."""
        up = self._writer.up and self._learned and not self._is_late()
        return [(STORE, up)] if self._budgets.kept else []

    def store_errors(self) -> list[tuple[str, int]]:
        return [(STORE, self._writer.errors)] if self._budgets.kept else []

    def degraded(self) -> list[str]:
        """What limps, in words."""
        said: list[str] = []
        if not self._budgets.kept:
            return said
        if not self._learned:
            said.append("budgets: what was spent before the start cannot be read")
        if self._writer.error is not None:
            said.append(f"budgets: not written to disk: {self._writer.error}")
        elif self._is_late():
            said.append("budgets: not written to disk: it does not answer")
        if salvage.away(self._lost, time()):
            said.append(f"budgets: some were lost, see {salvage.LOST} in the state folder")
        return said

    # -- the loop's side --

    def _learn(self, found: salvage.Found) -> None:
        """What was spent before, once."""
        self._lost = found.lost
        self._learned = True
        self.say_charged(self._budgets.learn(found.rows))
        wall = time()
        ahead = sum(row[3] > end_of_month(wall) for row in found.rows)
        if ahead:
            log.warning(
                "budgets_ahead",
                budgets=ahead,
                hint="their period has not begun: is the clock right?",
            )

    def say_charged(self, budgets: int) -> None:
        """So many were charged what calls held that nobody will tell of."""
        if budgets:
            log.warning("budgets_charged", budgets=budgets)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK, self._tick)
        self._flush()
        self._judge(monotonic(), time())

    def _flush(self) -> None:
        if not self._learned or self._writer.waiting >= MOST_WAITING:
            return
        if self._budgets.has_changed:
            rows: list[Row] = self._budgets.take(STEP)
            self._writer.put(partial(budgets.write, rows=rows))
            if self._budgets.has_changed:
                self._loop.call_later(REST, self._flush)
                return
        self._rewritten()

    def _judge(self, now: float, wall: float) -> None:
        """Are budgets away, and of which periods?"""
        away = 0
        if not self._learned or self._is_late():
            away = DAYS | MONTHS
        if self._lost is not None:
            away |= salvage.away(self._lost, wall)
            self._watch(now, wall)
        refused = self.policy == "closed" and away > 0
        self._budgets.away = away if refused else 0
        if refused != self._away_said:
            self._away_said = refused
            if refused:
                log.error("budgets_away", reasons=self.degraded())
            else:
                log.info("budgets_back")

    def _is_late(self) -> bool:
        return self._writer.behind(monotonic()) > PATIENCE

    def _watch(self, now: float, wall: float) -> None:
        """Looks whether the admin has accepted the loss, or all that was lost is over."""
        if now < self._looked + LOOK or self._writer.written < self._looking:
            return
        self._looked = now
        if self._lost is not None and not salvage.away(self._lost, wall):
            self._lost = None
            self._writer.put(self._accept)
        else:
            self._looking = self._writer.put(self._look)

    def _lost_is(self, lost: float | None) -> None:
        if lost is None and self._lost is not None:
            log.info("budgets_accepted")
        self._lost = lost

    def _rewrite(self) -> None:
        """There is a new file: all goes into it."""
        self._rewriting = -1
        self._gate.tell_all()

    def _rewritten(self) -> None:
        if self._rewriting < 0:
            self._rewriting = self._writer.put(_touch)
        elif self._rewriting and self._writer.written >= self._rewriting:
            self._rewriting = 0
            if self._lost is None:
                self._writer.put(self._accept)

    # -- the thread's side --

    def _connect(self) -> sqlite3.Connection:
        if not self._known:
            found = salvage.enter(self._folder, time())
            self._known = True
            self._file = database.identity(self._path)
            self._loop.call_soon_threadsafe(self._learn, found)
        damaged, there = database.is_damage(self._writer.cause), database.identity(self._path)
        if damaged or there is None or there != self._file:
            salvage.replace(self._folder, time(), damaged)
            self._loop.call_soon_threadsafe(self._rewrite)
        connection = database.connect(self._path)
        self._file = database.identity(self._path)
        return connection

    def _look(self, _: sqlite3.Connection) -> None:
        self._loop.call_soon_threadsafe(self._lost_is, salvage.lost_since(self._folder))

    def _accept(self, _: sqlite3.Connection) -> None:
        salvage.accept(self._folder)


def _touch(connection: sqlite3.Connection) -> None:
    """Writes something, to see whether it can; and deletes what nobody asks for any more."""
    connection.execute(f"PRAGMA user_version = {database.VERSION}")
    budgets.forget(connection, time())
