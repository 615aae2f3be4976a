"""The machine of a budget: what one calendar period may use up. The rules of `windows` hold here, too."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from relay.admission.windows import Level, Machine

DAY: Final = 86_400
"""Seconds; unix time has no leap seconds, so UTC days start at its multiples."""


class Period(Machine):
    """A budget of one calendar period in UTC: what was spent and what running calls hold.

    `_ends` names the period. It only moves forward: a wall clock that is set back gets no fresh
    budget. A call belongs to the period that admitted it; when that one is over, its settlement has
    nowhere to go. What is used outlives the process where `keep` was told who wants to know of it.
    """

    __slots__ = (
        "_changed",
        "_due",
        "_end_after",
        "_ends",
        "_known",
        "_orphaned",
        "_reserved",
        "_spent",
        "account",
    )

    def __init__(self, limit: int, end_after: Callable[[float], int]) -> None:
        super().__init__(limit)
        self._end_after = end_after
        self._ends = 0
        self._due = 0
        """The end of the next period, if the time last told is in it: it begins with the first call admitted."""
        self._spent = 0
        self._reserved = 0
        self._orphaned = 0
        """Of what is reserved, the part of calls that an authority which is gone has admitted, and nobody tells of."""
        self._known = False
        """Whoever keeps it outside has this state: the next change is to be told."""
        self._changed: list[Period] | None = None
        self.account = ("", "", "")
        """Whose it is, for whoever keeps it: kind and id of the owner, name of the machine."""

    def lacks(self, amount: int, tick: int, wall: float) -> bool:
        if wall >= self._ends:
            self._due = self._end_after(wall)
            return amount > self.limit and amount > 0
        self._due = 0
        return self._spent + self._reserved + amount > self.limit and amount > 0

    def take(self, amount: int) -> int:
        if self._due:
            self._ends, self._due = self._due, 0
            self._spent = self._reserved = self._orphaned = 0
        self._reserved += amount
        self.touch()
        return self._ends

    def settle(self, stamp: int, amount: int, actual: int, tick: int = 0) -> None:
        if stamp == self._ends:
            self._reserved -= amount
            self._spent += actual
            self.touch()

    def wait(self, amount: int, tick: int = 0) -> float | None:
        return None

    def used(self, tick: int, wall: float) -> int:
        return 0 if wall >= self._ends else self._spent + self._reserved

    def relimit(self, limit: int, tick: int = 0) -> None:
        self.limit = limit

    def at_rest(self, tick: int, wall: float) -> bool:
        return wall >= self._ends or not (self._spent or self._reserved)

    def level(self) -> Level:
        return self._ends, self._spent

    def follow(self, level: Level) -> None:
        self._ends, self._spent = level

    def shift(self, amount: int, actual: int) -> None:
        self._spent += actual

    def adopt(self, level: Level) -> None:
        ends, spent = level
        if ends > self._ends:
            self._ends, self._spent, self._reserved, self._orphaned = ends, spent, 0, 0
        elif ends == self._ends and spent > self._spent:
            # What was spent since the last record was reserved in it.
            self.reclaim(spent - self._spent)
            self._spent = spent
        self.touch()

    # -- what outlives the process --

    @property
    def is_month(self) -> bool:
        return self._end_after is end_of_month

    def keep(self, account: tuple[str, str, str], changed: list[Period]) -> None:
        """From now on it adds itself to `changed` at the first change after each `record`."""
        self.account = account
        self._changed = changed
        self._known = True

    def touch(self) -> None:
        """It has changed."""
        changed = self._changed
        if self._known and changed is not None:
            self._known = False
            changed.append(self)

    def record(self) -> tuple[int, int, int]:
        """End of the period, spent, reserved: for whoever keeps it."""
        self._known = self._changed is not None
        return self._ends, self._spent, self._reserved

    def resume(self, ends: int, spent: int, reserved: int) -> None:
        """Goes on from a record. What was used here meanwhile is added."""
        if ends > self._ends:
            self._ends, self._spent, self._reserved, self._orphaned = ends, 0, 0, 0
        if ends == self._ends:
            self._spent += spent
            self._reserved += reserved
            self._orphaned += reserved
            self.touch()

    def reclaim(self, amount: int) -> None:
        """Somebody tells of so much of what was orphaned."""
        amount = min(amount, self._orphaned)
        self._orphaned -= amount
        self._reserved -= amount

    def charge(self) -> bool:
        """Nobody will tell of the rest: it counts as spent. Whether there was any."""
        orphaned, self._orphaned = self._orphaned, 0
        self._reserved -= orphaned
        self._spent += orphaned
        if orphaned:
            self.touch()
        return orphaned > 0


def end_of_day(wall: float) -> int:
    """Unix time at which the UTC day of `wall` ends."""
    return (int(wall // DAY) + 1) * DAY


def end_of_month(wall: float) -> int:
    """Unix time at which the UTC month of `wall` ends."""
    day = datetime.fromtimestamp(wall, UTC)
    year, month = (day.year + 1, 1) if day.month == 12 else (day.year, day.month + 1)
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp())
