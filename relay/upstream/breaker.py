"""The circuit breaker of one endpoint: it learns from verdicts alone, and is told the time.

    closed     --a run of failures, or too many within the window-->  open for 5 s, longer each time
    open       --its time is over and an attempt begins-->            half-open: that attempt is the probe
    half-open  --the probe succeeds-->                                closed
    half-open  --the probe fails, or is throttled-->                  open, for longer
    half-open  --the probe's client left-->                           open, but due: the next attempt probes

Where `probes` asks in the callers' place (`watched`), no attempt is a probe: its question is.

Attempts are known by their ticket, the number of their beginning. One that began before the last change of state is a
straggler and proves nothing, except that a success of an attempt begun while open (the last member of a pool is used
all the same) closes the breaker: it is what a probe would have shown.
"""

from __future__ import annotations

import enum
from random import Random
from typing import Final

RUN: Final = 5
"""Failures in a row (Envoy, Finagle)."""
WINDOW: Final = 30.0
"""Seconds over which the share of successes is taken."""
SAMPLES: Final = 10
"""Verdicts within the window below which a share says nothing."""
SHARE: Final = 0.8
"""Of the verdicts within the window; fewer successes open (Finagle)."""
FIRST_EJECTION: Final = 5.0
LONGEST_EJECTION: Final = 60.0
"""Seconds; doubled from the first to the longest, each with equal jitter: half of it fixed, half drawn."""
RAMP: Final = 10.0
"""Seconds in which who was left alone comes back to its whole share: its caches are cold, its load is none."""
FIRST_PART: Final = 0.1
"""Of its share, at the beginning of that (Envoy's slow start)."""

_SLOTS: Final = 10
_SLOT = WINDOW / _SLOTS


class State(enum.Enum):
    """Closed passes, open rejects, half-open waits for its one probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


_CLOSED, _OPEN, _HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN


class Breaker:
    """Remembers the verdicts of the last 30 seconds and how often it opened; lives as long as its endpoint."""

    __slots__ = (
        "_ejections",
        "_failures",
        "_probe",
        "_rng",
        "_run",
        "_since",
        "_slot",
        "_slot_end",
        "_successes",
        "closed_at",
        "outrun_row",
        "reason",
        "state",
        "tripped_at",
        "until",
        "watched",
    )

    def __init__(self, rng: Random) -> None:
        self.state = _CLOSED
        self.until = 0.0
        """When a probe is due, if open."""
        self.tripped_at = 0.0
        """When it last left `closed`; a failed probe does not change it."""
        self.closed_at = float("-inf")
        """When it last came back to `closed`."""
        self.reason = ""
        """Why it last changed."""
        self.outrun_row = 0
        """Attempts in a row that a hedge has outrun; whoever brings a token sets it back."""
        self.watched = False
        """Somebody asks the endpoint itself: no attempt is needed as a probe."""
        self._rng = rng
        self._run = 0
        self._ejections = 0
        self._since = 0
        self._probe = 0
        self._successes = [0] * _SLOTS
        self._failures = [0] * _SLOTS
        self._slot = 0
        self._slot_end = 0.0

    def admits(self, now: float) -> bool:
        """Whether an attempt may begin; if the breaker is open, that attempt will be its probe."""
        return self.state is _CLOSED or (
            self.state is _OPEN and now >= self.until and not self.watched
        )

    def begin(self, now: float, ticket: int) -> bool:
        """An attempt begins while the breaker is not closed. True if the state changed."""
        if self.state is not _OPEN or now < self.until or self.watched:
            return False
        self.ask(ticket)
        return True

    def ask(self, ticket: int, reason: str = "one attempt probes") -> None:
        """The probe with this ticket begins, be it an attempt or a question."""
        self.state = _HALF_OPEN
        self.reason = reason
        self._probe = ticket

    def answered(self, now: float, ticket: int, latest: int, fault: str) -> bool:
        """A question has its answer, "" for a good one. True if the state changed: attempts may have been quicker."""
        if self.state is not _HALF_OPEN or ticket != self._probe:
            return False
        if fault:
            return self._probe_failed(now, ticket, latest, f"the probe failed: {fault}")
        self._close(now, latest, "the probe succeeded")
        return True

    def succeeded(self, now: float, ticket: int, latest: int) -> bool:
        """A success; `latest` is the newest ticket given out. True if the state changed."""
        if ticket <= self._since:
            return False
        if self.state is _CLOSED:
            self._run = 0
            if now >= self._slot_end:
                self._advance(now)
            self._successes[self._slot] += 1
            return False
        self._close(now, latest, "an attempt succeeded")
        return True

    def failed(self, now: float, ticket: int, latest: int) -> bool:
        """A strike. True if the state changed."""
        if self.state is _CLOSED:
            return ticket > self._since and self._strike(now, latest)
        return self._probe_failed(now, ticket, latest)

    def throttled(self, now: float, ticket: int, latest: int) -> bool:
        """No strike, yet a throttled probe has failed: traffic would be throttled as well. True if changed."""
        return self.state is not _CLOSED and self._probe_failed(now, ticket, latest)

    def outrun(self, now: float, ticket: int, latest: int) -> bool:
        """An attempt was silent until a later one elsewhere had won. True if the state changed.

        No strike: the share of such ends depends on how soon one hedges. Without this row an upstream that hangs would
        never be ejected, for nobody waits for it any more.
        """
        if self.state is not _CLOSED:
            return self._probe_failed(now, ticket, latest)
        if ticket <= self._since:
            return False
        self.outrun_row += 1
        if self.outrun_row < RUN:
            return False
        self.reason = f"{RUN} attempts in a row were silent, and outrun"
        self._trip(now, latest)
        return True

    def given_back(
        self, now: float, ticket: int, reason: str = "the probe ended without a verdict"
    ) -> bool:
        """The attempt ended without a verdict. True if it was the probe, so that the next one may be it."""
        if self.state is not _HALF_OPEN or ticket != self._probe:
            return False
        self.state = _OPEN
        self.reason = reason
        self.until = now
        return True

    def _strike(self, now: float, latest: int) -> bool:
        if now >= self._slot_end:
            self._advance(now)
        self._failures[self._slot] += 1
        self._run += 1
        if self._run >= RUN:
            self.reason = f"{self._run} failures in a row"
        else:
            failures = sum(self._failures)
            total = failures + sum(self._successes)
            if total < SAMPLES or total - failures >= SHARE * total:
                return False
            self.reason = f"{failures} of {total} attempts failed within {WINDOW:.0f} s"
        self._trip(now, latest)
        return True

    def _trip(self, now: float, latest: int) -> None:
        if now - self.closed_at > WINDOW:
            self._ejections = 0
        self.tripped_at = now
        self._eject(now, latest)

    def _close(self, now: float, latest: int, reason: str) -> None:
        self.state = _CLOSED
        self.reason = reason
        self._since = latest
        self.closed_at = now
        self._run = self.outrun_row = 0
        self._successes = [0] * _SLOTS
        self._failures = [0] * _SLOTS

    def _probe_failed(
        self, now: float, ticket: int, latest: int, reason: str = "the probe failed"
    ) -> bool:
        if self.state is not _HALF_OPEN or ticket != self._probe:
            return False
        self.reason = reason
        self._eject(now, latest)
        return True

    def _eject(self, now: float, latest: int) -> None:
        longest = min(FIRST_EJECTION * 2.0**self._ejections, LONGEST_EJECTION)
        if longest < LONGEST_EJECTION:
            self._ejections += 1
        self.state = _OPEN
        self.until = now + longest / 2 + self._rng.random() * longest / 2
        self._since = latest

    def _advance(self, now: float) -> None:
        """Moves the window so that `now` is in its newest slot."""
        steps = int((now - self._slot_end) // _SLOT) + 1
        if steps >= _SLOTS:
            self._successes = [0] * _SLOTS
            self._failures = [0] * _SLOTS
            self._slot_end = now + _SLOT
            return
        for _ in range(steps):
            self._slot = (self._slot + 1) % _SLOTS
            self._successes[self._slot] = 0
            self._failures[self._slot] = 0
        self._slot_end += steps * _SLOT
