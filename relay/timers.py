"""Deadlines of very many objects with one timer of the loop: a wheel of slots, `TICK` seconds each.

A handle of the loop per deadline costs about a microsecond to make and another to cancel, and most deadlines
never fire. Here an object is put into the set of the slot in which it is due, and taken out again when it ends.
A deadline that only ever moves later (silence since the last event) is not moved in the wheel at all: when its
old slot comes up, `expired` looks at its own clock and adds the object again.

The wheel is the one place that reads how late the loop is, since its ticks are due at known times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

TICK: Final = 0.02
"""Seconds: the precision of every deadline. Timeouts are hundreds of milliseconds at the least."""

ROUNDING: Final = 0.001
"""Seconds by which a timer of the loop may come early."""

STALLED: Final = 0.1
"""Seconds late from which on a tick lets the loop read its sockets first."""

NEVER: Final = -1
"""The slot of an object that is in no wheel."""


class Timed(Protocol):
    """Something with one deadline. `slot` belongs to the wheel; start it as `NEVER`."""

    slot: int

    def expired(self, now: float) -> None:
        """The deadline may be over: act, or add yourself again. Called outside any slot."""


class Wheel:
    """Lives as long as its loop; sleeps when nothing is due."""

    __slots__ = ("_handle", "_loop", "_next", "_slots", "_yielded", "on_lag")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, set[Timed]] = {}
        self._next = 0
        self._yielded = False
        self._handle: asyncio.TimerHandle | None = None
        self.on_lag: Callable[[float], None] | None = None
        """Told at every tick how many seconds late the loop ran it."""

    def add(self, item: Timed, deadline: float) -> None:
        """`item.expired` is called at `deadline` (seconds of the loop's clock) or up to two ticks later."""
        slot = int(deadline / TICK) + 1
        item.slot = slot
        due = self._slots.get(slot)
        if due is None:
            self._slots[slot] = {item}
            if self._handle is None:
                self._schedule()
        else:
            due.add(item)

    def drop(self, item: Timed) -> None:
        """Forgets the item; harmless when it is in no slot."""
        slot = item.slot
        if slot != NEVER:
            item.slot = NEVER
            due = self._slots.get(slot)
            if due is not None:
                due.discard(item)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._slots.clear()

    def _schedule(self) -> None:
        # The tick is taken from the clock, not counted. uvloop rounds to whole milliseconds: a timer that came half a
        # millisecond early would find nothing due and be set for no time at all, again and again, until it is.
        now = self._loop.time()
        self._next = int(now / TICK) + 1
        self._handle = self._loop.call_later(self._next * TICK - now + ROUNDING, self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        late = max(0.0, now - self._next * TICK)
        if late > STALLED and not self._yielded:
            # The silence was ours: what has come meanwhile waits unread, and timers run before sockets.
            self._yielded = True
            self._handle = self._loop.call_later(ROUNDING, self._tick)
            return
        self._yielded = False
        try:
            self._turn(now)
            if self.on_lag is not None:
                self.on_lag(late)
        finally:
            if self._slots:
                self._schedule()
            else:
                self._handle = None

    def _turn(self, now: float) -> None:
        last = int(now / TICK)
        slots = self._slots
        # After a long stall there are fewer slots in use than ticks gone by.
        if last - self._next > len(slots):
            due = sorted(slot for slot in slots if slot <= last)
        else:
            due = [slot for slot in range(self._next, last + 1) if slot in slots]
        for slot in due:
            for item in slots.pop(slot):
                if item.slot == slot:
                    item.slot = NEVER
                    try:
                        item.expired(now)
                    except Exception as error:
                        # A bug at one deadline must not take all others of the process with it.
                        context = {"message": "a deadline failed", "exception": error}
                        self._loop.call_exception_handler(context)
        # What an expiry added for a slot already gone by is due at the next tick.
        for slot in (
            [slot for slot in slots if slot <= last] if slots and min(slots) <= last else ()
        ):
            for item in slots.pop(slot):
                self.add(item, (last + 1) * TICK)
