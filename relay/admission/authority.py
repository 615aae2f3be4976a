"""The quota authority of several processes: one gate for all of them, and who holds which of its leases.

A holder is one worker process, one incarnation. It asks by numbers of its own and settles by them. Rules that hold
inside: a settlement of a number that is not held does nothing, so that repetition is harmless; when a holder dies, its
permits are free at once, its budgets are charged what it had reserved, and its rates forget nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from relay.admission.budgets import Budgets
from relay.admission.configured import GroupLike
from relay.admission.gate import Gate, Lease, Need
from relay.admission.principals import Principal, Principals
from relay.admission.purse import Purse
from relay.admission.windows import Level
from relay.errors import BudgetSpent, RateLimited, RelayError, StoreUnavailable

Ask = tuple[int, str, str, int, int, int]
"""Number, key, model, and the amounts of a `Need`: tokens bound, tokens worst, cost worst."""
Held = Ask
"""An open lease as its holder tells it: what it asked for."""
Refusal = tuple[int, str, str, str, float | None]
"""Number, kind, the limit's name, message, wait."""

RATE: Final = "rate"
BUDGET: Final = "budget"
STORE: Final = "store"


class Holder:
    """The leases of one worker process. Dies with it."""

    __slots__ = ("keys", "leases")

    def __init__(self) -> None:
        self.leases: dict[int, Lease] = {}
        self.keys: dict[int, str] = {}
        """Whose they are."""


class Authority:
    """Answers for all holders."""

    __slots__ = ("_before", "_known", "_moved", "_principals", "gate")

    def __init__(
        self,
        principals: Principals,
        groups: Mapping[str, GroupLike],
        budgets: Budgets | None = None,
    ) -> None:
        self.gate = Gate(principals, groups, budgets)
        self._principals = principals
        self._known: dict[str, Principal] = {}
        """Those who have asked since the last reload,"""
        self._before: dict[str, Principal] = {}
        """and before it: calls that are under way may still ask for keys that are gone."""
        self._moved: set[str] = set()
        """Keys whose use has changed since somebody asked."""

    def reload(self, principals: Principals, groups: Mapping[str, GroupLike]) -> dict[str, Purse]:
        """As `Gate.reload`; `gate.catch_up` is to be called, too."""
        self._known, self._before = {}, {**self._before, **self._known}
        for id in [id for id in self._before if id in principals]:
            del self._before[id]
        self._principals = principals
        return self.gate.reload(principals, groups)

    def ask(self, holder: Holder, ask: Ask, now: float, wall: float) -> Refusal | None:
        """Takes a need from all limits of the key, or from none and says why."""
        number, key, model, bound, worst, cost = ask
        principal = self.principal(key)
        if principal is None:
            return number, STORE, "", "", None
        self._moved.add(key)
        try:
            holder.leases[number] = self.gate.reserve(
                principal, model, Need(bound, worst, cost), now, wall
            )
        except RateLimited as error:
            return number, RATE, error.reason or "", error.message, error.wait
        except BudgetSpent as error:
            return number, BUDGET, error.reason or "", error.message, None
        except StoreUnavailable:
            return number, STORE, "", "", None
        holder.keys[number] = key
        return None

    def settle(self, holder: Holder, number: int, tokens: int, cost: int, now: float) -> None:
        lease = holder.leases.pop(number, None)
        if lease is not None:
            self._moved.add(holder.keys.pop(number))
            lease.settle(now, tokens, cost)

    def died(self, holder: Holder, now: float) -> None:
        leases, holder.leases = holder.leases, {}
        self._moved.update(holder.keys.values())
        holder.keys = {}
        for lease in leases.values():
            lease.forfeit(now)

    def moved(self) -> dict[str, list[Level]]:
        """The levels of all keys whose use has changed, once."""
        moved, self._moved = self._moved, set()
        return {key: self.levels(key) for key in moved}

    def restore(self, holder: Holder, held: Sequence[Held], now: float, wall: float) -> None:
        """A holder that outlived another authority says what it holds."""
        for number, key, model, bound, worst, cost in held:
            principal = self.principal(key)
            if principal is not None and number not in holder.leases:
                need = Need(bound, worst, cost)
                holder.leases[number] = self.gate.restore(principal, model, need, now, wall)
                holder.keys[number] = key

    def adopt(self, levels: Mapping[str, Sequence[Level]]) -> None:
        """What a holder was last told of its keys, by key."""
        for key, told in levels.items():
            principal = self.principal(key)
            if principal is not None:
                self.gate.adopt(principal, told)

    def levels(self, key: str) -> list[Level]:
        principal = self.principal(key)
        return [] if principal is None else self.gate.levels(principal)

    def principal(self, key: str) -> Principal | None:
        known = self._known.get(key)
        if known is None:
            known = self._principals.of_id(key) or self._before.get(key)
            if known is not None:
                self._known[key] = known
        return known


def error_of(refusal: Refusal) -> RelayError:
    """The refusal as the holder's client gets it: the same error as in one process."""
    _, kind, limit, message, wait = refusal
    if kind == RATE:
        return RateLimited(limit, message, wait)
    if kind == BUDGET:
        return BudgetSpent(limit, message)
    return StoreUnavailable()
