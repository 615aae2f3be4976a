"""Accounts: what a provider bills and throttles as one, however many keys it has handed out for it.

Pauses (429) rest one model of an account; parks (402) rest all of it. A credential can be parked alone (401, 403): the
endpoint then holds a `Park` of its own. Attempts are numbered per account; the number is their ticket.
"""

from __future__ import annotations

import sys
from typing import Final

FIRST_PARK: Final = 300.0
LONGEST_PARK: Final = 3600.0
"""Seconds; doubled from the first to the longest while nothing succeeds in between."""

UNSHARED = sys.maxsize


class Park:
    """How long something may not be used, doubling each time. Dies with what it parks."""

    __slots__ = ("_next", "_ticket", "until")

    def __init__(self) -> None:
        self._next = FIRST_PARK
        self._ticket = 0
        self.until = 0.0
        """0 if it was never parked, or was proved good since; a time gone by keeps the escalation."""

    def begin(self, now: float, latest: int) -> bool:
        """Parks. False if it is parked already: many attempts under way see the same fault."""
        if now < self.until:
            return False
        self.until = now + self._next
        self._next = min(self._next * 2, LONGEST_PARK)
        self._ticket = latest
        return True

    def proved(self, ticket: int) -> bool:
        """An attempt succeeded. True if that ended a park: it must have begun after it."""
        if not self.until or ticket <= self._ticket:
            return False
        self.free()
        return True

    def free(self) -> None:
        self._next = FIRST_PARK
        self.until = 0.0


class Line:
    """Who waits for a place at an account; `queue.Queue` is one."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting = 0
        """Calls."""

    def freed(self, now: float) -> None:
        """A place has fallen free while calls wait."""
        raise NotImplementedError

    def pass_on(self) -> None:
        """There may be more places than before."""
        raise NotImplementedError


class Account:
    """Load, pauses and park of one account. Lives while the configuration has an endpoint of it."""

    __slots__ = (
        "begun",
        "clear_from",
        "inflight",
        "name",
        "park",
        "paused",
        "queue",
        "share",
        "whole",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.begun = 0
        """Attempts begun so far: the newest ticket."""
        self.inflight = 0
        """Attempts under way, and places held for calls whose turn it is."""
        self.queue: Line | None = None
        """Where calls wait if it has a limit."""
        self.park = Park()
        self.paused: dict[str, float] = {}
        """Model (as the upstream calls it) to the end of its pause."""
        self.clear_from = 0.0
        """From when on neither the park nor any pause stands in the way."""
        self.share = UNSHARED
        """Of its permits, those that are this process's to use."""
        self.whole = 1
        """All of its permits, if they are shared out."""

    def ceiling(self, most: int | None) -> int:
        """How many attempts may be in flight here where `most` are allowed altogether."""
        if most is None:
            return UNSHARED
        return min(most, self.share, most * self.share // self.whole)

    def passes(self, model: str, now: float) -> bool:
        return self.park.until <= now and self.paused.get(model, 0.0) <= now

    def pause(self, model: str, now: float, wait: float) -> bool:
        """The provider throttles this model. False if it rests already; a longer pause wins."""
        before = self.paused.get(model, 0.0)
        self.paused = {name: until for name, until in self.paused.items() if until > now}
        self.paused[model] = max(before, now + wait)
        self.survey()
        return before <= now

    def survey(self) -> None:
        """Finds out anew from when on all is clear."""
        self.clear_from = max(self.park.until, *self.paused.values(), 0.0)
