"""The last minutes, in steps of some seconds: what the figures and curves of the page are made of.

Told what happened, and when (`now`, seconds of a clock that only goes forward). A step that is over is not touched any
more, and the sums of all whole steps are kept, so that reading costs the same however busy it was.
"""

from __future__ import annotations

from collections import deque
from operator import attrgetter
from typing import Final

from relay.page.facts import FAILURES, LATEST, SERVED, Call, Failure, History, Served
from relay.page.sums import Sums, percentile
from relay.page.telling import Telling

STEP: Final = 5.0
"""Seconds."""
STEPS: Final = 60
WINDOW: Final = STEP * STEPS
MINUTE: Final = 12
"""Steps of a rate."""
ALL: Final = ""
"""Where the sums of all calls stand, beside those of the upstreams by name."""

Step = dict[str, Sums]


class Window:
    """Lives as long as the process that shows it."""

    def __init__(self) -> None:
        self._number = 0
        """Of the present step."""
        self._began: int | None = None
        self._present: Step = {}
        self._over: deque[Step] = deque([{}] * STEPS, maxlen=STEPS)
        self._sums: Step = {}
        """Of the steps that are over."""
        self._history: History | None = None
        self._medians: deque[dict[str, float | None]] = deque([{}] * STEPS, maxlen=STEPS)
        """Of the steps that are over: sixty of each upstream at once would take long."""
        self.errors: dict[str, tuple[str, float]] = {}
        """By upstream: the `result` of its latest failure, and when it was told (Unix time)."""
        self.failures: deque[Failure] = deque(maxlen=FAILURES)
        self.refusals: deque[Failure] = deque(maxlen=FAILURES)
        self.served: deque[Served] = deque(maxlen=SERVED)
        self.latest: list[Call] = []
        """By their ends, which processes do not tell in order."""

    def add(self, told: Telling, now: float, wall: float) -> None:
        """This happened just now."""
        self.advance(now)
        if told.all.calls:
            self._sum(ALL, told.all)
        for name, sums in told.upstreams.items():
            self._sum(name, sums)
        for name, error in told.errors.items():
            self.errors[name] = error, wall
        self.failures.extend(told.failures)
        self.refusals.extend(told.refusals)
        self.served.extend(told.served)
        if told.latest:
            ended = sorted([*self.latest, *told.latest], key=attrgetter("at"))
            self.latest = ended[-LATEST:]

    def _sum(self, name: str, sums: Sums) -> None:
        self._present.setdefault(name, Sums()).add(sums)

    def keep(self, upstreams: list[str]) -> None:
        """What the configuration no longer names is forgotten."""
        known = {ALL, *upstreams}
        for step in (self._present, self._sums, *self._over):
            for name in [name for name in step if name not in known]:
                del step[name]
        for medians in self._medians:
            for name in [name for name in medians if name not in known]:
                del medians[name]
        self.errors = {name: error for name, error in self.errors.items() if name in known}
        self._history = None

    def advance(self, now: float) -> None:
        """Closes the steps that are over."""
        number = int(now // STEP)
        if self._began is None:
            self._began = self._number = number
        # After a long sleep all steps are empty, however many there were.
        for _ in range(min(number - self._number, STEPS + 1)):
            self._close()
        self._number = max(number, self._number)

    def _close(self) -> None:
        gone, closed = self._over[0], self._present
        self._over.append(closed)
        self._medians.append({name: _median(sums) for name, sums in closed.items() if name != ALL})
        self._present = {}
        for name, sums in closed.items():
            self._sums.setdefault(name, Sums()).add(sums)
        for name, sums in gone.items():
            self._sums[name].add(sums, -1)
        self._history = None

    # -- asked --

    def sums(self, name: str = ALL) -> Sums:
        """Of all of the window; a copy."""
        made = self._sums.get(name, Sums()).copy()
        present = self._present.get(name)
        if present is not None:
            made.add(present)
        return made

    def rates(self, name: str = ALL) -> tuple[float, float]:
        """Calls and output tokens per second, over the last minute, or as long as there is anything."""
        age = self._number - (self._number if self._began is None else self._began)
        steps = min(age, MINUTE)
        calls = tokens = 0
        for step in (self._present, *list(self._over)[STEPS - steps :]):
            sums = step.get(name)
            if sums is not None:
                calls += sums.calls
                tokens += sums.tokens
        # The present step counts for its calls and not for its time: half of it has passed, on average.
        seconds = (steps + 0.5) * STEP
        return calls / seconds, tokens / seconds

    def history(self, upstreams: list[str]) -> History:
        """Of the steps that are over: made once for each."""
        made = self._history
        if made is None:
            made = self._history = History(
                STEP,
                {n: [step.get(n) for step in self._medians] for n in upstreams},
                {
                    n: [s.failed if (s := step.get(n)) else 0 for step in self._over]
                    for n in upstreams
                },
                [s.calls if (s := step.get(ALL)) else 0 for step in self._over],
                [s.failed if (s := step.get(ALL)) else 0 for step in self._over],
            )
        return made


def _median(sums: Sums) -> float | None:
    found = percentile(sums.ttft, 0.5)
    return None if found is None else round(found, 4)
