"""The one thread of a process that writes to the database. Nobody waits for the disk but this thread.

What is handed over is written in order, many pieces in one transaction, at most one transaction in `EVERY` seconds. A
failure is kept as state and tried again after growing waits, with a connection made anew; it is told once when it
comes and once when it goes, and never raised to whoever handed something over.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Final

from relay.observe import logs
from relay.state.database import NewerVersion, identity

log = logs.get("state")

EVERY: Final = 0.2
"""Seconds between two commits: with the time until something is handed over, what a crash may cost."""
FIRST_WAIT: Final = 0.2
"""Seconds before the second try after a failure; each further wait is twice the one before."""
LONGEST_WAIT: Final = 3.2
QUIET: Final = 10.0
"""Seconds between two lines that say so: a disk that is nearly full comes and goes with every write."""

Work = Callable[[sqlite3.Connection], None]
"""Writes something, inside a transaction of the writer's. Called again where that transaction failed."""

STORE: Final = "sqlite"
"""Its name in metrics and log."""

_BUGS: Final = (
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.DataError,
    sqlite3.NotSupportedError,
)
"""Errors of SQLite that no disk is to blame for; SQLITE_ERROR is one, too: a statement that makes no sense."""


class Writer:
    """Its thread starts with the first work, hence after any fork, and ends with `close`."""

    def __init__(self, path: Path, connect: Callable[[], sqlite3.Connection], what: str) -> None:
        """`connect` is called in the thread, before the first work and after a failure. It may raise OSError, too.

        `what` it writes is for the log.
        """
        self._path = path
        self._what = what
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        """Which file that is connected to."""
        self._works: deque[Work] = deque()
        self._given = 0
        self._done = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._hurry_to = 0
        """The number up to which somebody waits: no rest before it is written."""
        self._last_commit = float("-inf")
        self._waits_since: float | None = None
        """When the oldest work was handed over that is not written yet."""
        self.errors = 0
        """Tries that failed, since the start."""
        self.error: str | None = None
        """What keeps the store away, in words of SQLite or the system; None while it is up."""
        self.cause: Exception | None = None
        """And the failure itself."""
        self._failed_at = 0.0
        self._told = False
        """The log has heard of this failure."""
        self._told_at = float("-inf")

    # -- the loop's side: nothing here waits --

    def put(self, work: Work) -> int:
        """Hands something over, and returns its number: written once `written` has come to it."""
        with self._changed:
            self._works.append(work)
            self._given += 1
            if self._waits_since is None:
                self._waits_since = monotonic()
            if self._thread is None:
                # A daemon: a disk that hangs must not keep the process from ending.
                self._thread = threading.Thread(target=self._run, name="state", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return self._given

    @property
    def written(self) -> int:
        """Works that are on the disk, or were given up as bugs."""
        return self._done

    @property
    def waiting(self) -> int:
        """Works that are not written yet; who hands over more than it can lose looks at it."""
        return self._given - self._done

    @property
    def up(self) -> bool:
        return self.error is None

    def behind(self, now: float) -> float:
        """Seconds (of the monotonic clock) for which something has waited to be written: nothing may hang for long."""
        since = self._waits_since
        return 0.0 if since is None else max(0.0, now - since)

    def flush(self, timeout: float) -> bool:
        """Waits until all that was handed over so far is written. False where that takes longer. Not for a loop."""
        with self._changed:
            goal = self._given
            self._hurry_to = goal
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._done >= goal, timeout)

    def close(self, timeout: float) -> bool:
        """Writes what is left, tries once more where it fails, and ends. False where something is left behind."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)
        return self._done >= self._given

    # -- the thread's side --

    def _run(self) -> None:
        while batch := self._gather():
            if not self._persist(batch):
                break
        self._disconnect()

    def _gather(self) -> list[Work]:
        """What is to be written next, when its time has come; nothing at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._works or self._closing)
            rest = self._last_commit + EVERY - monotonic()
            if rest > 0:
                self._changed.wait_for(lambda: self._closing or self._hurry_to > self._done, rest)
            return list(self._works)

    def _persist(self, batch: list[Work]) -> bool:
        """Tries until it is written. False when the end has come before."""
        wait = FIRST_WAIT
        while batch:
            try:
                self._write(batch)
            except (sqlite3.Error, OSError, NewerVersion) as error:
                self._failed(error)
                with self._changed:
                    if self._closing or self._changed.wait_for(lambda: self._closing, wait):
                        return self._last_try()
                wait = min(wait * 2, LONGEST_WAIT)
            else:
                return True
        return True

    def _last_try(self) -> bool:
        with self._changed:
            batch = list(self._works)
        try:
            self._write(batch)
        except (sqlite3.Error, OSError, NewerVersion) as error:
            self._failed(error)
            return False
        return True

    def _write(self, batch: list[Work]) -> None:
        if self._connection is not None and identity(self._path) != self._file:
            # Somebody has moved or deleted it: what we write there would be gone.
            self._disconnect()
        connection = self._connection
        if connection is None:
            connection = self._connection = self._connect()
            self._file = identity(self._path)
        connection.execute("BEGIN IMMEDIATE")
        for work in list(batch):
            try:
                work(connection)
            except Exception as error:
                if isinstance(error, sqlite3.Error | OSError) and not _is_bug(error):
                    raise
                # A bug in one piece of work must not hold up the others for ever: they are done again without it.
                log.crash("bug", error)
                batch.remove(work)
                self._forget(work)
                connection.execute("ROLLBACK")
                self._write(batch)
                return
        connection.execute("COMMIT")
        self._succeeded(len(batch))

    def _forget(self, work: Work) -> None:
        with self._changed:
            self._works.remove(work)
            self._done += 1

    def _succeeded(self, count: int) -> None:
        self._last_commit = monotonic()
        with self._changed:
            for _ in range(count):
                self._works.popleft()
            self._done += count
            self._waits_since = self._last_commit if self._works else None
            self._changed.notify_all()
        if self.error is not None:
            self.error = self.cause = None
            if self._told:
                self._told = False
                away = round(self._last_commit - self._failed_at, 3)
                log.info("store_up", store=STORE, of=self._what, away_seconds=away)

    def _failed(self, error: Exception) -> None:
        self._disconnect()
        self.errors += 1
        coming = self.error is None
        self.error, self.cause = reason_of(error), error
        now = monotonic()
        if coming:
            self._failed_at = now
        if not self._told and now - self._told_at > QUIET:
            self._told, self._told_at = True, now
            log.error("store_down", store=STORE, of=self._what, reason=self.error)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error:
                self.errors += 1


def _is_bug(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, _BUGS) or code == sqlite3.SQLITE_ERROR


def reason_of(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, sqlite3.Error):
        name = getattr(error, "sqlite_errorname", None)
        return str(error) if name is None else f"{error} ({name})"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error)
