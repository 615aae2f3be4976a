"""The accounts of one process, in its memory: what every key and group has used of its limits.

Rules that hold inside: an account is opened by its first call, so 100,000 idle keys cost nothing;
it survives reloads, because it belongs to a key's id and not to a configuration; a machine is
changed in place, because running calls hold it and will settle into it. Policy (who draws on which
account, what a refusal says) is in `gate.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Final, Protocol

from relay.admission.budgets import Budgets
from relay.admission.configured import LimitsLike, ModelLimitsLike
from relay.admission.period import Period, end_of_day, end_of_month
from relay.admission.principals import nano_dollars
from relay.admission.windows import Machine, Permits, RefundingBucket, TokenBucket

REQUESTS: Final = 0
"""Units: the places of a call's amounts. Every call is one request, whatever becomes of it."""
TOKENS_BOUND: Final = 1
"""Tokens as the rate reserves them: an estimate, the difference is settled as debt."""
TOKENS_WORST: Final = 2
"""Tokens as the budgets reserve them: an upper bound."""
COST: Final = 3
"""Nano-dollars, an upper bound."""


def _day(limit: int) -> Period:
    return Period(limit, end_of_day)


def _month(limit: int) -> Period:
    return Period(limit, end_of_month)


LIMITS: Final[dict[str, tuple[int, Callable[[int], Machine]]]] = {
    "concurrent": (REQUESTS, Permits),
    "rpm": (REQUESTS, TokenBucket),
    "tpm": (TOKENS_BOUND, RefundingBucket),
    "requests_per_day": (REQUESTS, _day),
    "tokens_per_day": (TOKENS_WORST, _day),
    "tokens_per_month": (TOKENS_WORST, _month),
    "usd_per_day": (COST, _day),
    "usd_per_month": (COST, _month),
}
"""Every limit there is: its unit and its machine. A new one is a row here, one in `_set` and a
field of the config."""

_terms_of: Callable[[LimitsLike], tuple[object, ...]] = attrgetter(*LIMITS, "shadow", "models")

BUDGETS: Final = frozenset(name for name, (_, make) in LIMITS.items() if make in (_day, _month))


def limit_of(machine: str) -> str:
    """The limit that a machine counts: its name, without the model whose own limit it is."""
    return machine.partition(" ")[0]


def model_of(machine: str) -> str | None:
    """The model whose own limit a machine counts; None for a limit of all calls."""
    return machine.partition(" ")[2] or None


STEP: Final = 500
"""Accounts that follow a reload at once: about a quarter of a millisecond."""


class _Limited(Protocol):
    @property
    def limits(self) -> LimitsLike: ...


class _Owners(Protocol):
    def get(self, name: str, /) -> _Limited | None: ...


class Account:
    """What one key or one group has used.

    Lives until a reload that no longer names it finds it at rest.
    """

    __slots__ = ("_budgets", "_id", "_kind", "_put_away", "_terms", "machines")

    def __init__(self, kind: str, id: str, limits: LimitsLike, budgets: Budgets) -> None:
        self._kind = kind
        self._id = id
        self._budgets = budgets
        self.machines: dict[str, Machine] = {}
        """By name: `rpm`, or `rpm deepseek-chat` where that model has one of its own."""
        self._put_away: dict[str, Period] = {}
        """Budgets that are no longer configured: one that comes back goes on from where it was."""
        for name, (limit, shadow) in limits_of(limits).items():
            machine = self.machines[name] = self._make(name, limit)
            machine.shadow = shadow
        self._terms = _terms_of(limits)
        """The limits as configured: a reload that brings the same ones is done in one comparison."""

    def _make(self, name: str, limit: int) -> Machine:
        machine = LIMITS[limit_of(name)][1](limit)
        if isinstance(machine, Period):
            self._budgets.open(self._kind, self._id, name, machine)
        return machine

    def relimit(self, limits: LimitsLike, tick: int) -> None:
        """Follow the configured limits: levels and counts of limits that remain are kept."""
        terms = _terms_of(limits)
        if terms == self._terms:
            return
        self._terms = terms
        kept: dict[str, Machine] = {**self._put_away, **self.machines}
        self.machines = {}
        for name, (limit, shadow) in limits_of(limits).items():
            machine = kept.pop(name, None)
            if machine is None:
                machine = self._make(name, limit)
            elif machine.limit != limit:
                machine.relimit(limit, tick)
            machine.shadow = shadow
            self.machines[name] = machine
        self._put_away = {
            name: machine for name, machine in kept.items() if isinstance(machine, Period)
        }

    def _all(self) -> list[Machine]:
        return [*self.machines.values(), *self._put_away.values()]

    def at_rest(self, tick: int, wall: float) -> bool:
        return all(machine.at_rest(tick, wall) for machine in self._all())

    def tell(self) -> None:
        """Whoever keeps budgets has lost them."""
        for machine in self._all():
            if isinstance(machine, Period):
                machine.touch()


class Accounts:
    """All accounts of one kind (keys, or groups) by id. Lives as long as the process."""

    __slots__ = ("_behind", "_budgets", "_by_id", "_kind", "_owners")

    def __init__(self, kind: str, budgets: Budgets) -> None:
        self._kind = kind
        self._budgets = budgets
        self._by_id: dict[str, Account] = {}
        self._behind: list[str] = []
        """Those that have not followed the last reload yet."""
        self._owners: _Owners | None = None

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._by_id))

    def open(self, name: str, limits: LimitsLike, tick: int) -> Account:
        """The account of `name`, with these limits from now on."""
        account = self._by_id.get(name)
        if account is None:
            account = self._by_id[name] = Account(self._kind, name, limits, self._budgets)
        else:
            account.relimit(limits, tick)
        return account

    def tell(self) -> None:
        """Whoever keeps budgets has lost them."""
        for account in self._by_id.values():
            account.tell()

    def reload(self, owners: _Owners, tick: int, wall: float) -> None:
        """New limits are in force. An account whose owner is gone keeps its use while there is any,
        so that calls of the old configuration, or a key that comes back, go on from where it was.

        The first accounts follow at once, the others at their next call or by `catch_up`.
        """
        self._owners = owners
        self._behind = list(self._by_id)
        self._behind.reverse()
        self.catch_up(tick, wall)

    def catch_up(self, tick: int, wall: float) -> bool:
        """Some more accounts follow the last reload. Whether there are still others."""
        owners, behind = self._owners, self._behind
        if owners is None:
            return False
        for _ in range(min(STEP, len(behind))):
            name = behind.pop()
            account, owner = self._by_id[name], owners.get(name)
            if owner is not None:
                account.relimit(owner.limits, tick)
            elif account.at_rest(tick, wall):
                del self._by_id[name]
        return bool(behind)


def limits_of(limits: LimitsLike) -> dict[str, tuple[int, bool]]:
    """The limits that are set, in whole units, and whether they only count; by the names of their machines, in the
    order of `LIMITS`, those of single models last.
    """
    found = {name: (limit, limits.shadow) for name, limit in _set(limits).items()}
    for model, own in limits.models.items():
        shadow = limits.shadow or own.shadow
        for name, limit in _set(own).items():
            found[f"{name} {model}"] = limit, shadow
    return found


def _set(limits: ModelLimitsLike) -> dict[str, int]:
    found: dict[str, int | None] = {
        "concurrent": limits.concurrent,
        "rpm": limits.rpm,
        "tpm": limits.tpm,
        "requests_per_day": limits.requests_per_day,
        "tokens_per_day": limits.tokens_per_day,
        "tokens_per_month": limits.tokens_per_month,
        "usd_per_day": nano_dollars(limits.usd_per_day),
        "usd_per_month": nano_dollars(limits.usd_per_month),
    }
    return {name: limit for name, limit in found.items() if limit is not None}
