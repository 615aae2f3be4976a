"""The budgets of an authority as they are kept outside its process, by whoever reads and writes `Row`s.

Rules that hold inside: a budget goes on from its row when its account opens, so 100,000 rows of idle keys cost only
their memory; each change is told, once until it was taken, with the state of the moment it is taken; what a row says
is reserved was held by calls of a process that is gone: it counts as spent, but for what somebody still tells of.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from relay.admission.period import Period

Row = tuple[str, str, str, int, int, int]
"""Kind of the owner, its id, the machine's name; end of the period (Unix time), spent, reserved (in the limit's unit).
"""

KEY: Final = "key"
GROUP: Final = "group"

DAYS: Final = 1
MONTHS: Final = 2
"""Bits: the budgets of which periods."""

LARGEST: Final = 2**63 - 1
"""What fits into a column; nine billion dollars."""


class Budgets:
    """Lives as long as the authority. One that nobody keeps (`kept` is false) does nothing."""

    __slots__ = (
        "_changed",
        "_early",
        "_held",
        "_loose",
        "_orphans",
        "_patient",
        "_rows",
        "away",
        "kept",
    )

    def __init__(self, kept: bool = False, patient: bool = False) -> None:
        """`patient`: others may still tell of what the rows say is reserved, until `charge` is called."""
        self.kept = kept
        self.away = 0
        """Budgets of these periods (bits) refuse every call: what is spent of them is not known, or not written."""
        self._patient = patient
        self._changed: list[Period] = []
        self._rows: dict[str, dict[str, list[Row]]] = {KEY: {}, GROUP: {}}
        """Of accounts that are not open, by owner."""
        self._early: list[Period] | None = []
        """Opened before the rows were known."""
        self._orphans: list[Period] = []
        """Open, and something of them was reserved when they were read;"""
        self._held: list[tuple[str, str]] = []
        """owners of rows of which that is true."""
        self._loose: list[Row] = []
        """Charged without being open, and to be written."""

    def open(self, kind: str, owner: str, machine: str, period: Period) -> None:
        """A machine was made: it goes on from its row."""
        if not self.kept:
            return
        period.keep((kind, owner, machine), self._changed)
        if self._early is not None:
            self._early.append(period)
        rows = self._rows[kind].get(owner, [])
        for row in rows:
            if row[2] == machine:
                rows.remove(row)
                if not rows:
                    del self._rows[kind][owner]
                self._resume(period, row)
                return

    def learn(self, rows: Iterable[Row]) -> int:
        """What the store knows, once. Returns what `charge` does, 0 where that is still to come."""
        early, self._early = self._early or [], None
        opened = {period.account: period for period in early}
        for row in rows:
            kind, owner, machine, _, _, reserved = row
            period = opened.get((kind, owner, machine))
            if period is not None:
                self._resume(period, row)
            elif kind in self._rows:
                self._rows[kind].setdefault(owner, []).append(row)
                if reserved:
                    self._held.append((kind, owner))
        return 0 if self._patient else self.charge()

    def _resume(self, period: Period, row: Row) -> None:
        _, _, _, ends, spent, reserved = row
        period.resume(ends, spent, reserved)
        if reserved:
            self._orphans.append(period)

    def charge(self) -> int:
        """Everybody was heard: what is still orphaned counts as spent. Returns of how many budgets that is so."""
        self._patient = False
        orphans, self._orphans = self._orphans, []
        count = sum(period.charge() for period in orphans)
        held, self._held = self._held, []
        for kind, owner in held:
            rows = self._rows[kind].get(owner, [])
            for place, (_, _, machine, ends, spent, reserved) in enumerate(rows):
                if reserved:
                    rows[place] = kind, owner, machine, ends, spent + reserved, 0
                    self._loose.append(rows[place])
                    count += 1
        return count

    def tell_rows(self) -> None:
        """Whoever keeps them has lost all: rows of accounts that are not open are told again."""
        for by_owner in self._rows.values():
            for rows in by_owner.values():
                self._loose.extend(rows)

    @property
    def has_changed(self) -> bool:
        return bool(self._changed or self._loose)

    def take(self, most: int) -> list[Row]:
        """Changes that are to be written, each once."""
        if self._loose:
            # All of them first: one may be older than the state of an account that has opened since.
            rows, self._loose = self._loose[:most], self._loose[most:]
            return rows
        rows = []
        changed = self._changed
        taken, rest = changed[:most], changed[most:]
        # In place: the machines hold the list.
        changed[:] = rest
        for period in taken:
            ends, spent, reserved = period.record()
            if ends:
                rows.append((*period.account, ends, min(spent, LARGEST), min(reserved, LARGEST)))
        return rows
