"""The machines that count one limit each: a bucket, permits; a calendar period is in `period`.

Rules that hold inside: integers only; a machine is told the time and never reads it; rates are told
a monotonic `tick` in milliseconds, periods a unix time; `lacks` decides and `take` commits, so that
a need on several machines is granted on all or on none; what was taken is settled exactly once, by
the stamp `take` gave. One thread uses them: exactness comes from never awaiting between the two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

MINUTE: Final = 60_000
"""Milliseconds in which an empty bucket becomes full; also the parts a token is counted in, so that
a bucket gains exactly `limit` parts per millisecond and no fraction is ever rounded."""

MOST_LOWS: Final = 64
"""Low points a bucket remembers; in practice a handful."""

PERMIT_WAIT: Final = 1.0
"""Seconds promised to a call that found all permits taken: nobody knows when a stream ends."""


Level = tuple[int, int]
"""What a machine tells of its use; the first number says what the second is counted in."""


def tick_of(now: float) -> int:
    """Monotonic seconds as whole milliseconds; rounded, so that exact milliseconds stay exact."""
    return int(now * 1000.0 + 0.5)


class Machine(ABC):
    """What the gate asks of every limit. `amount` is in the limit's own unit, never negative."""

    __slots__ = ("limit", "shadow")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.shadow = False
        """It counts, but nobody is refused for it."""

    @abstractmethod
    def lacks(self, amount: int, tick: int, wall: float) -> bool:
        """Catch up with the time, then tell whether `amount` does not fit. Takes nothing."""

    @abstractmethod
    def take(self, amount: int) -> int:
        """Take what `lacks` just found to fit; the stamp goes back with `settle`."""

    @abstractmethod
    def settle(self, stamp: int, amount: int, actual: int, tick: int) -> None:
        """Replace the `amount` taken by the `actual` use. Called once per `take`."""

    @abstractmethod
    def wait(self, amount: int, tick: int) -> float | None:
        """Seconds until `amount` fits if nobody else takes anything; None: no wait helps."""

    @abstractmethod
    def used(self, tick: int, wall: float) -> int:
        """What is in use now, in the limit's unit, rounded up; above `limit` when in debt."""

    @abstractmethod
    def relimit(self, limit: int, tick: int) -> None:
        """A reload changed the limit: use is kept, what is left is at most the new limit."""

    @abstractmethod
    def at_rest(self, tick: int, wall: float) -> bool:
        """Whether forgetting this machine and starting a new one would give nobody anything."""

    @abstractmethod
    def level(self) -> Level:
        """What is used, for a copy in another process; the time is the host's, so it stays true there."""

    @abstractmethod
    def follow(self, level: Level) -> None:
        """Be the copy of a machine that told its `level`."""

    @abstractmethod
    def shift(self, amount: int, actual: int) -> None:
        """The original of this copy will soon tell that a call of `amount` used so much."""

    @abstractmethod
    def adopt(self, level: Level) -> None:
        """A copy that survived says how much was used: at least so much is."""


class TokenBucket(Machine):
    """A rate per minute: what was used of it lately.

    Capacity is the limit, refilled evenly over a minute, so a full burst passes at once. The state
    is the moment at which the bucket will be full again, times the limit (parts of 1/60,000). A
    call that used more than it reserved leaves a debt: the level goes below nothing, and time pays
    it back. What a call did not use stays used here (a request is a request).
    """

    __slots__ = ("_capacity", "_full_at", "_start")

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._capacity = limit * MINUTE
        self._full_at = 0
        self._start = 0
        """The time last told, in the unit of `_full_at`."""

    def lacks(self, amount: int, tick: int, wall: float = 0.0) -> bool:
        start = self._start = tick * self.limit
        if self._full_at < start:
            self._full_at = start
        return self._full_at - start + amount * MINUTE > self._capacity and amount > 0

    def take(self, amount: int) -> int:
        self._full_at += amount * MINUTE
        return 0

    def settle(self, stamp: int, amount: int, actual: int, tick: int) -> None:
        if actual > amount:
            self._full_at = max(self._full_at, tick * self.limit) + (actual - amount) * MINUTE

    def wait(self, amount: int, tick: int) -> float | None:
        if amount > self.limit:
            return None
        missing = max(0, self._full_at - tick * self.limit) + amount * MINUTE - self._capacity
        return -(-missing // self.limit) / 1000 if missing > 0 and amount else 0.0

    def used(self, tick: int, wall: float = 0.0) -> int:
        parts = self._full_at - tick * self.limit
        return -(-parts // MINUTE) if parts > 0 else 0

    def state(self, tick: int) -> tuple[int, int]:
        """Whole tokens left (not below 0), and milliseconds until the bucket is full."""
        limit = self.limit
        used = self._full_at - tick * limit
        if used <= 0 or not limit:
            return limit, 0
        left = (self._capacity - used) // MINUTE
        return left if left > 0 else 0, -(-used // limit)

    def relimit(self, limit: int, tick: int) -> None:
        self.lacks(0, tick)
        left = self._capacity - (self._full_at - tick * self.limit)
        self.limit = limit
        self._capacity = limit * MINUTE
        self._full_at = tick * limit + self._capacity - min(left, self._capacity)

    def at_rest(self, tick: int, wall: float = 0.0) -> bool:
        # Full, hence nothing refundable; a debt still to come from a running call is that call's.
        return self._full_at <= tick * self.limit

    def level(self) -> Level:
        return self.limit, self._full_at

    def follow(self, level: Level) -> None:
        if level[0] == self.limit:
            self._full_at = level[1]

    def adopt(self, level: Level) -> None:
        if level[0] == self.limit and level[1] > self._full_at:
            self._full_at = level[1]

    def shift(self, amount: int, actual: int) -> None:
        self._full_at += (actual - amount) * MINUTE


class RefundingBucket(TokenBucket):
    """A rate whose calls reserve more than they use: the difference comes back at settlement.

    What comes back is what the bucket would hold now if the call had taken only its actual use when
    it began: no more, or a window could be overspent; no less, or a key would be refused what it
    has. The two differ by what the refill would have spilled meanwhile, had the bucket been that
    much fuller. So a refund is bounded by the least that was in use at any moment since the call
    began. Between two calls the use only falls, hence its lowest points are just before each take:
    `_lows` keeps them, as far as they can still bound a running call (a queue of rising minima).
    """

    __slots__ = ("_lows", "_running", "_taken", "_void")

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._running = 0
        self._taken = 0
        """Takes so far; a call's stamp is its number."""
        self._void = 0
        """Calls up to this one get nothing back: their reservation was made under another limit."""
        self._lows: list[list[int]] = []
        """[number of the take that followed, parts in use before it], both rising."""

    def take(self, amount: int) -> int:
        self._taken = number = self._taken + 1
        if self._running:
            low = self._full_at - self._start
            lows = self._lows
            while lows and lows[-1][1] >= low:
                lows.pop()
            lows.append([number, low])
            if len(lows) > MOST_LOWS:
                # Two become one that is as low as the lower and as late as the later: on the safe side.
                lows[-2][1] = lows.pop(-3)[1]
        self._running += 1
        self._full_at += amount * MINUTE
        return number

    def settle(self, stamp: int, amount: int, actual: int, tick: int) -> None:
        self._running -= 1
        if actual > amount:
            super().settle(stamp, amount, actual, tick)
        elif actual < amount and stamp > self._void:
            self._refund(stamp, (amount - actual) * MINUTE, tick * self.limit)
        if not self._running:
            self._lows.clear()

    def _refund(self, stamp: int, parts: int, start: int) -> None:
        lows = self._lows
        first = 0
        while first < len(lows) and lows[first][0] <= stamp:
            first += 1
        least = self._full_at - start
        if first < len(lows):
            least = min(least, lows[first][1])
        parts = min(parts, least)
        if parts <= 0:
            return
        self._full_at -= parts
        for low in lows[first:]:
            low[1] -= parts
        while 0 < first < len(lows) and lows[first - 1][1] >= lows[first][1]:
            first -= 1
            del lows[first]

    def relimit(self, limit: int, tick: int) -> None:
        super().relimit(limit, tick)
        self._void = self._taken
        self._lows.clear()


class Permits(Machine):
    """Calls running at once. Remembers only their number."""

    __slots__ = ("_running",)

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._running = 0

    def lacks(self, amount: int, tick: int = 0, wall: float = 0.0) -> bool:
        return self._running + amount > self.limit

    def take(self, amount: int) -> int:
        self._running += amount
        return 0

    def settle(self, stamp: int, amount: int, actual: int, tick: int = 0) -> None:
        self._running -= amount

    def wait(self, amount: int, tick: int = 0) -> float | None:
        return PERMIT_WAIT if amount <= self.limit else None

    def used(self, tick: int = 0, wall: float = 0.0) -> int:
        return self._running

    def relimit(self, limit: int, tick: int = 0) -> None:
        self.limit = limit

    def at_rest(self, tick: int = 0, wall: float = 0.0) -> bool:
        return not self._running

    def level(self) -> Level:
        """Nothing: what is in use is known by whoever holds it."""
        return 0, 0

    def follow(self, level: Level) -> None:
        pass

    def shift(self, amount: int, actual: int) -> None:
        pass

    def adopt(self, level: Level) -> None:
        pass
