"""What one process has of a limit that several relays share: its lease of it, and what it has yet to tell.

A stake is this process's part of one limit of one key or group. Rules that hold inside:
- the authority's word on the lease (`row`) is final: what is free is computed from it with every answer, so that a
  grant whose answer was lost is found again;
- what happened here gathers in a delta, is told once, and told again under the same number until it is heard;
- a budget's numbers belong to its period; when that is over they have nowhere to go;
- the machine is a copy that follows the authority, for refusals, `x-ratelimit-*` lines and metrics.
"""

from __future__ import annotations

from math import inf
from typing import Final

from relay.admission.kinds import DAY, LARGEST, PERMITS, REFUNDED, Delta, Told, kind_of
from relay.admission.period import end_of_day, end_of_month
from relay.admission.windows import MINUTE, Machine

HORIZON: Final = 10.0
"""Seconds of its use that a process wants to have in hand."""
_WEIGHT: Final = 0.3
"""Of the last second in the pace of use."""
SELDOM: Final = 1.0
"""Calls per second below which each one asks."""
IDLE: Final = 3
"""Seconds without use after which nothing is kept,"""
FORGOTTEN: Final = 13
"""and after which its level is not asked for any more: what others kept has come back by then."""
SETTLED: Final = 1800
"""Seconds of the same where most of a limit was in use: others' calls may take so long to give back what they hold."""


class Lists:
    """Which stakes somebody has to look at."""

    __slots__ = ("dirty", "used")

    def __init__(self) -> None:
        self.dirty: list[Stake] = []
        """There is something to tell at once."""
        self.used: list[Stake] = []
        """They were used lately."""


class Batch:
    """Takes of a rate that are told together, and bear one number when they are heard."""

    __slots__ = ("pending", "sent", "stamp")

    def __init__(self) -> None:
        self.sent = False
        self.stamp = 0
        self.pending = 0
        """Comes back when the number is known."""


class Stake:
    """Lives as long as its machine is configured, and has a lease or something to tell."""

    __slots__ = (
        "batch",
        "dirty",
        "drift",
        "ends",
        "floor",
        "forced",
        "free",
        "hits",
        "idle",
        "keeps",
        "kind",
        "lists",
        "machine",
        "name",
        "often",
        "owner",
        "pace",
        "recent",
        "refunds",
        "reserved",
        "returned",
        "seen",
        "settled",
        "spent",
        "unheard",
        "until",
        "used",
    )

    def __init__(self, owner: str, name: str, machine: Machine, lists: Lists) -> None:
        self.lists = lists
        self.owner = owner
        self.name = name
        self.machine = machine
        self.kind = kind_of(machine, name)
        self.free = 0
        """Leased, and nobody's."""
        self.floor = 0
        """Below this more is asked for, before calls have to wait."""
        self.reserved = 0
        """Leased, and held by calls that run; not of rates, whose takes are final."""
        self.ends = 0
        """The period that all this belongs to, Unix time of its end."""
        self.until = 0.0 if self.kind >= DAY else inf
        """When that ends by this process's own clock, seconds: from then on nothing is free."""
        self.settled = 0
        self.returned = 0
        self.forced = 0
        self.refunds: list[int] = []
        self.batch = Batch()
        self.dirty = False
        """It is on that list,"""
        self.used = False
        """or on that one."""
        self.keeps = False
        """What becomes free stays here: the authority gives more than is needed at once."""
        self.seen = 0
        """The recall that was answered."""
        self.spent = 0
        """Of a budget, as last told."""
        self.unheard = 0
        """Used since, for an authority that has lost its past."""
        self.drift = 0
        """Used since, and not in the copy yet."""
        self.recent = 0
        """Used in this second,"""
        self.pace = 0.0
        """and per second lately."""
        self.hits = 0
        """Calls in this second,"""
        self.often = 0.0
        """and per second lately."""
        self.idle = 0
        """Seconds without any."""

    def mark(self) -> None:
        """There is something to tell at once."""
        if not self.dirty:
            self.dirty = True
            self.lists.dirty.append(self)

    def _use(self, amount: int) -> None:
        self.recent += amount
        self.hits += 1
        if not self.used:
            self._watch()

    def _watch(self) -> None:
        self.used = True
        self.idle = 0
        self.lists.used.append(self)

    # -- calls --

    def take(self, amount: int) -> int:
        """Takes of what is free, and of this period; the stamp goes back with `settle`, with the batch of the time."""
        self.free -= amount
        self.recent += amount
        self.drift += amount
        self.hits += 1
        if not self.used:
            self._watch()
        if self.kind <= REFUNDED:
            self.settled += amount
            self.returned += amount
            self.unheard += amount
            return 0
        self.reserved += amount
        return self.ends

    def granted(self, amount: int) -> None:
        """The authority has taken it for a call; `told` follows."""
        self._use(amount)
        if self.kind > REFUNDED:
            self.reserved += amount

    def force(self, amount: int, wall: float) -> int:
        """Takes what nobody has granted: the authority will have to live with it."""
        self._use(amount)
        self.drift += amount
        self.forced += amount
        self.mark()
        if self.kind <= REFUNDED:
            self.unheard += amount
            return 0
        self.reserved += amount
        return self.ends

    def settle(self, stamp: int, amount: int, actual: int) -> None:
        """A call of this stamp has used so much; of a rate only what is more than it took."""
        if self.kind <= REFUNDED:
            if actual > amount and self.kind == REFUNDED:
                self.forced += actual - amount
                self.unheard += actual - amount
                self.drift += actual - amount
                if not self.keeps:
                    self.mark()
            return
        if self.kind >= DAY and stamp != self.ends:
            return
        if self.kind == PERMITS:
            actual = 0
        self.reserved -= amount
        self.drift += actual - amount
        self.settled += actual
        self.unheard += actual
        back = amount
        if self.keeps and actual < amount:
            back = actual
            self.free += amount - actual
        self.returned += back
        if not self.keeps:
            self.mark()

    def refund(self, number: int, batch: Batch | None, amount: int) -> None:
        """A call has used less than it took of the rate: by the number of its take, or the batch it was told in."""
        if batch is None:
            if number > 0:
                self._give_back(number, amount)
        elif not batch.sent:
            self.settled -= amount
            self.returned -= amount
            self.unheard -= amount
            self.free += amount
            self.drift -= amount
            if not self.keeps:
                self.give_up()
        elif batch.stamp:
            self._give_back(batch.stamp, amount)
        else:
            batch.pending += amount

    def _give_back(self, number: int, amount: int) -> None:
        self.refunds.append(number)
        self.refunds.append(amount)
        self.drift -= amount
        if not self.keeps:
            self.mark()

    def give_up(self) -> None:
        """What is free goes back."""
        if self.free > 0:
            self.returned += self.free
            self.free = 0
            self.mark()

    # -- frames --

    def delta(self) -> Delta | None:
        """What is to be told, once; None where nothing happened."""
        if not (self.settled or self.returned or self.forced or self.refunds):
            return None
        told = (self.ends, self.settled, self.returned, self.forced, self.refunds)
        self.settled = self.returned = self.forced = 0
        self.refunds = []
        return told

    def close_batch(self) -> Batch | None:
        """The takes that the delta tells of; None where none of them can come back."""
        if self.kind != REFUNDED or not self.settled:
            return None
        batch, self.batch = self.batch, Batch()
        batch.sent = True
        return batch

    def heard(self, delta: Delta | None, batch: Batch | None, level: Told, sent: float) -> None:
        """The authority has got it, and says which period it is: before what it granted in that is looked at."""
        stamp = level[3]
        if self.kind >= DAY:
            if stamp != self.ends:
                self._begin(stamp)
            self.until = sent + level[4] / 1000
        if delta is not None:
            rate = self.kind <= REFUNDED
            self.unheard = max(0, self.unheard - delta[1] - (delta[3] if rate else 0))
        if batch is not None:
            batch.stamp = stamp
            if batch.pending:
                amount, batch.pending = batch.pending, 0
                self.refund(stamp, None, amount)

    def told(self, level: Told, tick: int) -> None:
        """The authority's word on what is used and leased, `tick` being now."""
        used, leased, row, ends, _, recall, more = level
        kind, machine = self.kind, self.machine
        if kind >= DAY:
            self.spent = used
        self.free = row - self.returned
        if kind > REFUNDED:
            self.free += self.forced - self.reserved
        if self.free < 0:
            self.free = 0
        self.drift = 0
        others = leased - self.free - self.returned + self.settled + self.forced
        if kind <= REFUNDED:
            if self.limit == machine.limit:
                parts = used + others * MINUTE
                machine.follow((machine.limit, tick * machine.limit + parts))
        elif kind == PERMITS:
            machine.take(others - machine.used(tick, 0.0))
        else:
            machine.follow((ends, used + others))
        self.keeps = bool(more) and not recall
        self.seen = recall
        if not self.keeps:
            self.give_up()
        if not self.used and (self.free or self._is_high()):
            # Of a grant whose answer was lost; or others hold it, and will give it back.
            self._watch()
        self.floor = min(self._target() // 4, self.free // 2)

    def moderate(self, used: int) -> None:
        """Of what was taken of a rate without a lease only so much is still in use."""
        gone = max(0, self.forced - used)
        self.forced -= gone
        self.unheard = max(0, self.unheard - gone)

    def roll(self, wall: float, now: float) -> None:
        """The period is over by this process's own clock, and there is nobody to say so."""
        if self.kind >= DAY and now >= self.until:
            ends = end_of_day(wall) if self.kind == DAY else end_of_month(wall)
            if ends > self.ends:
                self._begin(ends)
                self.spent = 0
                self.until = now + (ends - wall)
                self.machine.follow((ends, 0))
                self.drift = 0

    def _begin(self, ends: int) -> None:
        self.ends = ends
        self.free = self.reserved = 0
        self.settled = self.returned = self.forced = self.unheard = 0

    @property
    def limit(self) -> int:
        """As the script is told it."""
        most = LARGEST // MINUTE if self.kind <= REFUNDED else LARGEST
        return min(self.machine.limit, most)

    def known(self, tick: int) -> list[int]:
        """What an authority that has lost its past must know of it."""
        self.catch_up(tick)
        machine = self.machine
        if self.kind <= REFUNDED:
            limit, full_at = machine.level()
            used = max(0, full_at - tick * limit - self.unheard * MINUTE)
            return [used, self.unheard] if limit == machine.limit else []
        if self.kind == PERMITS or not self.ends:
            return []
        return [self.ends, self.spent, self.unheard]

    # -- how much of it is wanted --

    def beat(self, second: float) -> bool:
        """A second is over. Whether it was used lately."""
        self.pace += (self.recent / second - self.pace) * _WEIGHT
        self.often += (self.hits / second - self.often) * _WEIGHT
        self.idle = 0 if self.hits else self.idle + 1
        self.recent = self.hits = 0
        if self.idle == IDLE:
            self.pace = self.often = 0.0
            self.keeps = False
            self.give_up()
            self.mark()
        self.used = self.idle < (SETTLED if self._is_high() else FORGOTTEN)
        return self.used

    def _is_high(self) -> bool:
        """More than half of a limit is in use that does not come back with time alone."""
        machine = self.machine
        return self.kind > REFUNDED and 2 * machine.used(0, 0.0) > machine.limit

    def want(self) -> int:
        """How much more than it has, to be served from here for a while."""
        return max(0, self._target() - self.free)

    def _target(self) -> int:
        if self.often < SELDOM:
            return 0
        return self.reserved // 2 if self.kind == PERMITS else int(self.pace * HORIZON)

    def catch_up(self, tick: int) -> None:
        """The copy counts what the authority will soon know."""
        amount, self.drift = self.drift, 0
        machine = self.machine
        if self.kind <= REFUNDED:
            machine.lacks(0, tick, 0.0)
            machine.shift(0, amount)
        elif self.kind == PERMITS:
            machine.take(amount)
        else:
            ends, used = machine.level()
            machine.follow((ends, used + amount))
