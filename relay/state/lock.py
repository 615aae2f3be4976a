"""One relay per state folder: a second one would charge the budgets of the first twice, and undo what it writes.

The lock is the kernel's (`flock`), held by the process that was started and inherited by those it forks. So it is free
when the last of them has ended, however they ended, and what stands in the file is only for people.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Final

from relay.state import database
from relay.state.database import FILE_MODE, make_folder, read_only

FILE: Final = "lock"

PATIENCE: Final = 3.0
"""Seconds: the processes of a relay that was killed need a moment to end."""
LOOK: Final = 0.05
"""Seconds between two tries: the kernel tells nobody that a lock is free but who waits for it without an end."""


class Taken(Exception):
    """Another relay runs on this folder."""


class Lock:
    """Held until `release`, or the end of this process and of all that it forked."""

    def __init__(self, descriptor: int, used: bool) -> None:
        self._descriptor = descriptor
        self.used = used
        """A relay has run on this folder before."""

    def release(self) -> None:
        os.close(self._descriptor)


def enter(folder: Path) -> Lock | None:
    """Makes the folder, and takes its lock. None where that cannot be: what is said and done then is the keeper's.

    Raises Taken, and NewerVersion for a folder of a newer relay.
    """
    try:
        make_folder(folder)
        held = take(folder)
    except OSError:
        held = None
    with contextlib.suppress(sqlite3.Error, OSError):
        read_only(folder / database.FILE).close()
    return held


def take(folder: Path, patience: float = PATIENCE) -> Lock:
    """Raises Taken, and OSError where there can be no lock."""
    path = folder / FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        if not _locked(descriptor, patience):
            raise Taken(f"another relay{_holder(descriptor)} uses the state folder {folder}")
        used = os.fstat(descriptor).st_size > 0
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return Lock(descriptor, used)


def _locked(descriptor: int, patience: float) -> bool:
    end, pause = monotonic() + patience, Event()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if monotonic() >= end:
                return False
            pause.wait(LOOK)
        else:
            return True


def _holder(descriptor: int) -> str:
    digits = os.pread(descriptor, 20, 0).strip()
    return f" (process {digits.decode()})" if digits.isdigit() else ""
