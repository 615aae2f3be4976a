"""What the processes of one relay know of each other without asking: a few numbers in memory they share.

Made before the first fork. Each number has one writer and is eight bytes, so that a reader sees it whole. The accepted
configuration lies here too: who is started later begins with it, whatever stands in the file by then. So do the
counters of dead workers, which outlive the hub.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

RUNNING: Final = 0
DRAINING: Final = 1

_PHASE, _RESTARTS, _ANNOUNCED, _ACCEPTED, _COUNTED, _FIRST_PID = range(6)


class Board:
    """Lives as long as the parent; the children inherit it."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._numbers = memoryview(mmap.mmap(-1, 8 * (_FIRST_PID + workers))).cast("q")
        self._configs = _Kept(self._numbers, _ACCEPTED)
        self._counters = _Kept(self._numbers, _COUNTED)

    # -- the parent's --

    def is_draining(self) -> bool:
        return self._numbers[_PHASE] == DRAINING

    def drain(self) -> None:
        self._numbers[_PHASE] = DRAINING

    @property
    def restarts(self) -> int:
        """Processes that died and were started again."""
        return self._numbers[_RESTARTS]

    def restarted(self) -> None:
        self._numbers[_RESTARTS] += 1

    def pids(self) -> list[int]:
        """The workers' by their index; 0 for one that does not run."""
        return list(self._numbers[_FIRST_PID:])

    def runs(self, worker: int, pid: int) -> None:
        self._numbers[_FIRST_PID + worker] = pid

    # -- the hub's --

    @property
    def announced(self) -> bool:
        """The relay has said that it is ready."""
        return bool(self._numbers[_ANNOUNCED])

    def announce(self) -> None:
        self._numbers[_ANNOUNCED] = 1

    def accept(self, source: bytes) -> None:
        """This is the configuration from now on."""
        self._configs.put(source)

    def accepted(self) -> bytes | None:
        """The file's content as it was accepted by the latest reload; None before there was one."""
        return self._configs.get()

    def count(self, counters: bytes) -> None:
        """What dead workers have counted, for the next hub."""
        self._counters.put(counters)

    def counted(self) -> bytes | None:
        return self._counters.get()


class _Kept:
    """Bytes that outlive their writer. Written beside those in force, which count until all is there."""

    def __init__(self, numbers: memoryview, place: int) -> None:
        self._numbers = numbers
        self._place = place
        """Of the number that tells which of the two files is in force; 0 before the first."""
        self._files = [os.memfd_create("relay") for _ in range(2)]

    def put(self, data: bytes) -> None:
        number = self._numbers[self._place] + 1
        file = self._files[number % 2]
        os.ftruncate(file, 0)
        done = 0
        while done < len(data):
            done += os.pwrite(file, memoryview(data)[done:], done)
        self._numbers[self._place] = number

    def get(self) -> bytes | None:
        number = self._numbers[self._place]
        if not number:
            return None
        file = self._files[number % 2]
        return os.pread(file, os.fstat(file).st_size, 0)
