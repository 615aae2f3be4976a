"""What a process decides alone while the store of the quotas is away: its part of each limit, or nothing.

Every process that was last seen gets the same part, so that all together stay about the limit. Rules that hold inside:
a part is never more than the limit, and of a rate or of permits at least one; what was used before the store went away
counts; a limit that only counts refuses nobody. What is taken here is told to the store when it is back.
"""

from __future__ import annotations

from collections.abc import Iterable

from relay.admission.kinds import PERMITS, RATE, REFUNDED
from relay.admission.memory import BUDGETS, limit_of
from relay.admission.period import Period, end_of_day, end_of_month
from relay.admission.refusals import Named, refuse
from relay.admission.stakes import Stake
from relay.admission.windows import Machine, Permits, RefundingBucket, TokenBucket
from relay.errors import StoreUnavailable

Taken = list[tuple[Machine, int, int]]
"""The parts that a call took from, their stamps and units."""


class Parts:
    """This process's parts, made when they are first asked for. Lives as long as the store is away."""

    __slots__ = ("_budgets_open", "_machines", "_processes", "_rates_open")

    def __init__(self, rates_open: bool, budgets_open: bool, processes: int) -> None:
        """`processes`: that share the limits."""
        self._rates_open = rates_open
        self._budgets_open = budgets_open
        self._processes = max(1, processes)
        self._machines: dict[Stake, Machine] = {}

    def take(
        self,
        stakes: Iterable[tuple[Stake, int]],
        named: Iterable[Named],
        model: str,
        amounts: tuple[int, int, int, int],
        tick: int,
        wall: float,
    ) -> Taken:
        """Takes the need from all parts, or raises the refusal: of a limit's part, or for want of the store."""
        now = tick / 1000
        found: list[Named] = []
        lacking = False
        for (stake, unit), (owner, name, machine, _) in zip(stakes, named, strict=True):
            stake.roll(wall, now)
            stake.catch_up(tick)
            if machine.shadow:
                continue
            is_open = self._budgets_open if limit_of(name) in BUDGETS else self._rates_open
            if not is_open:
                raise StoreUnavailable
            part = self._machines.get(stake)
            if part is None:
                part = self._machines[stake] = self._part(stake, tick, wall)
            if stake.kind == PERMITS:
                part.take(stake.reserved - part.used(tick, wall))
            lacking = part.lacks(amounts[unit], tick, wall) or lacking
            found.append((owner, name, part, unit))
        if lacking:
            refuse(found, model, amounts, tick, wall)
        return [(part, part.take(amounts[unit]), unit) for _, _, part, unit in found]

    def rates(self, tick: int) -> Iterable[tuple[Stake, int]]:
        """What is still in use of every rate's part, in its unit."""
        for stake, part in self._machines.items():
            if stake.kind in (RATE, REFUNDED):
                yield stake, part.used(tick, 0.0)

    def _part(self, stake: Stake, tick: int, wall: float) -> Machine:
        machine = stake.machine
        limit, share = machine.limit, self._processes
        if stake.kind in (RATE, REFUNDED):
            part = min(limit, max(1, limit // share))
            bucket = TokenBucket(part) if stake.kind == RATE else RefundingBucket(part)
            bucket.follow((part, tick * part + max(0, machine.level()[1] - tick * limit) // share))
            return bucket
        if stake.kind == PERMITS:
            return Permits(min(limit, max(1, limit // share)))
        ends = end_of_day if stake.name.partition(" ")[0].endswith("day") else end_of_month
        return Period(max(0, limit - machine.used(tick, wall)) // share, ends)
