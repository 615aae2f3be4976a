"""The budgets of a pool: how many extra attempts, retries or hedges, recent traffic has paid for.

A bucket that starts with a floor of three. Every call puts in a share of an attempt; where that comes to less than
the floor in ten seconds, time makes up the difference. It holds at most what the last ten seconds of calls put in, and
never less than the floor. So in an outage retries stay a fixed share of the traffic, and a quiet pool still has a few.
Hedges have a bucket without a floor: one that starts empty and can hold one at least, so that hedges are never more
than their share of all calls.
"""

from __future__ import annotations

from typing import Final

FLOOR: Final = 3
"""Attempts, both in ten seconds and at the start (Envoy's floor of retries under way)."""
WINDOW: Final = 10.0
"""Seconds of traffic that the bucket can hold (Finagle's time to live of a deposit)."""

_SLOTS: Final = 10
_SLOT = WINDOW / _SLOTS
_ONE: Final = 1_000_000
"""An attempt: whole numbers, so that ten deposits of 20 % are two attempts and not nearly two."""


class RetryBudget:
    """What one pool of one process may still spend; lives as long as its snapshot."""

    __slots__ = (
        "_calls",
        "_capacity",
        "_deposit",
        "_earned",
        "_floor",
        "_level",
        "_slot",
        "_slot_end",
        "_slots",
    )

    def __init__(self, ratio: float, floor: int = FLOOR) -> None:
        """`ratio` is the share of calls that may be tried again (0.2: one in five)."""
        self._deposit = round(ratio * _ONE)
        self._floor = floor * _ONE
        self._capacity = max(floor, 1) * _ONE
        """What it can hold at least."""
        self._level = self._floor
        self._slots = [0] * _SLOTS
        """What each of the last ten seconds put in."""
        self._slot = 0
        self._slot_end = 0.0
        self._calls = 0
        """Those of the running second that are not put in yet: a call costs one addition."""
        self._earned = 0
        """The sum of the slots."""

    def level(self, now: float) -> float:
        """Attempts that may be spent now."""
        self._settle(now)
        return self._level / _ONE

    def deposit(self, now: float) -> None:
        """A call came."""
        if now >= self._slot_end:
            self._settle(now)
        self._calls += 1

    def withdraw(self, now: float) -> bool:
        """Pays for one further attempt that may cost money; False when it may not be made."""
        self._settle(now)
        if self._level < _ONE:
            return False
        self._level -= _ONE
        return True

    def _settle(self, now: float) -> None:
        """Puts the calls in; closes the seconds that are over: tops each up to its part of the floor, forgets the
        eleventh."""
        if self._calls:
            amount = self._calls * self._deposit
            self._calls = 0
            self._slots[self._slot] += amount
            self._earned += amount
            self._level = min(self._level + amount, max(self._capacity, self._earned))
        if not self._slot_end:
            self._slot_end = now + _SLOT
            return
        if now < self._slot_end:
            return
        steps = int((now - self._slot_end) // _SLOT) + 1
        part = self._floor // _SLOTS
        self._level += max(0, part - self._slots[self._slot]) + part * (steps - 1)
        for _ in range(min(steps, _SLOTS)):
            self._slot = (self._slot + 1) % _SLOTS
            self._earned -= self._slots[self._slot]
            self._slots[self._slot] = 0
        self._slot_end += steps * _SLOT
        self._level = min(self._level, max(self._capacity, self._earned))
