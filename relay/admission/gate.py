"""Admission: a call takes its worst case from all limits of its key and group at once, or nothing.

Rules that hold inside: nothing awaits, so one process can never overspend; all limits are asked
before the first is charged; a lease settles once, whoever calls first; a request stays counted
whatever becomes of the call; a refusal names the limit that keeps the call out longest and promises
no earlier moment than is true. This gate answers at once. One whose authority is another process
(`remote`) takes the same arguments, gives a lease that is not open yet, and tells the applicant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, Protocol

from relay.admission.budgets import GROUP, KEY, Budgets
from relay.admission.configured import GroupLike, Holder
from relay.admission.memory import Accounts, limit_of
from relay.admission.period import Period
from relay.admission.principals import Principal, Principals
from relay.admission.purse import Purse
from relay.admission.refusals import refuse
from relay.admission.windows import Level, Machine, TokenBucket, tick_of
from relay.errors import RelayError, StoreUnavailable

RATIOS_OF: Final = 1000
"""Keys whose use is told: as many as have a label of their own."""

NOT_TAKEN: Final = -1
"""The stamp of a rate that only counts, and would have refused the call."""


class Need:
    """What a call may use at the most. Lives as long as its lease."""

    __slots__ = ("amounts",)

    def __init__(self, tokens_bound: int, tokens_worst: int, cost_worst: int) -> None:
        """Tokens for `tpm`, tokens for the token budgets, nano-dollars for the money budgets."""
        if tokens_bound < 0 or tokens_worst < 0 or cost_worst < 0:
            raise ValueError("a need is never negative")
        self.amounts = (1, tokens_bound, tokens_worst, cost_worst)
        """One per unit of `memory.LIMITS`."""

    @property
    def tokens_bound(self) -> int:
        return self.amounts[1]

    @property
    def tokens_worst(self) -> int:
        return self.amounts[2]

    @property
    def cost_worst(self) -> int:
        return self.amounts[3]


class Applicant(Protocol):
    """A call that waits for an authority's answer: exactly one of the two is called, once, unless it settles before."""

    def admitted(self) -> None:
        """The lease it was given is open."""

    def refused(self, error: RelayError) -> None:
        """Nothing was taken, and the lease is closed."""


class Lease:
    """Permission to run. Holds what was taken until `settle` or `cancel`, whichever comes first."""

    __slots__ = ("_amounts", "_entries", "_gate", "_stamps", "open")

    def __init__(
        self,
        gate: Gate,
        entries: tuple[tuple[Machine, int], ...],
        amounts: tuple[int, int, int, int],
        stamps: list[int],
    ) -> None:
        self._gate = gate
        self._entries = entries
        self._amounts = amounts
        self._stamps = stamps
        self.open = True
        """Granted, and not settled yet."""

    def settle(self, now: float, tokens: int, cost: int) -> None:
        """Charge what the call really used, give the rest back. A second call does nothing."""
        if not self.open:
            return
        self.open = False
        gate = self._gate
        gate.inflight -= 1
        if tokens < 0:
            tokens = 0
        if cost < 0:
            cost = 0
        tick = int(now * 1000.0 + 0.5)
        if tick > gate._tick:
            gate._tick = tick
        else:
            tick = gate._tick
        actual = (1, tokens, tokens, cost)
        amounts = self._amounts
        for (machine, unit), stamp in zip(self._entries, self._stamps, strict=True):
            if stamp != NOT_TAKEN:
                machine.settle(stamp, amounts[unit], actual[unit], tick)

    def cancel(self, now: float) -> None:
        """The call used nothing; its request stays counted."""
        self.settle(now, 0, 0)

    def forfeit(self, now: float) -> None:
        """Nobody will ever tell what the call used: all that it reserved counts, and its permits are free."""
        if not self.open:
            return
        self.open = False
        gate = self._gate
        gate.inflight -= 1
        tick = gate._tick = max(gate._tick, tick_of(now))
        amounts = self._amounts
        for (machine, unit), stamp in zip(self._entries, self._stamps, strict=True):
            if stamp != NOT_TAKEN:
                machine.settle(stamp, amounts[unit], amounts[unit], tick)


class Gate:
    """Admits calls. Remembers every account of this process as long as the process lives."""

    __slots__ = (
        "_groups",
        "_keys",
        "_limits",
        "_principals",
        "_purses",
        "_tick",
        "_wall",
        "budgets",
        "inflight",
        "shadowed",
    )

    def __init__(
        self,
        principals: Principals,
        groups: Mapping[str, GroupLike],
        budgets: Budgets | None = None,
    ) -> None:
        """`budgets`: where somebody keeps them outside this process."""
        self._principals = principals
        self._limits = groups
        self.budgets = budgets = Budgets() if budgets is None else budgets
        self._keys = Accounts(KEY, budgets)
        self._groups = Accounts(GROUP, budgets)
        self._purses: dict[str, Purse] = {}
        self._tick = 0
        """The latest time told. Nothing is older: a call whose body took long must not be judged by
        the levels of its first byte, and a reload takes it for now; `_wall` likewise."""
        self._wall = 0.0
        self.inflight = 0
        """Leases not settled yet."""
        self.shadowed: dict[tuple[str, str], int] = {}
        """(key, limit) -> calls that a limit which only counts would have refused."""

    def reserve(
        self,
        principal: Principal,
        model: str,
        need: Need,
        now: float,
        wall: float,
        applicant: Applicant | None = None,
    ) -> Lease:
        """Take the need from all limits, or raise RateLimited, BudgetSpent or StoreUnavailable and take nothing.

        `applicant` is told by authorities that answer later, whose lease is not `open` yet; never by this one.
        """
        purse = (self._purses.get(principal.id) or self._open(principal)).of(model)
        if self.budgets.away & purse.periods:
            raise StoreUnavailable()
        tick = int(now * 1000.0 + 0.5)
        if tick > self._tick:
            self._tick = tick
        else:
            tick = self._tick
        self._wall = wall
        amounts = need.amounts
        entries = purse.entries
        shadowed = False
        for machine, unit in entries:
            if machine.lacks(amounts[unit], tick, wall):
                if not machine.shadow:
                    refuse(purse.named(), model, amounts, tick, wall)
                shadowed = True
        self.inflight += 1
        if shadowed:
            stamps = self._take_shadowed(principal.id, purse, amounts, tick, wall)
        else:
            stamps = [machine.take(amounts[unit]) for machine, unit in entries]
        return Lease(self, entries, amounts, stamps)

    def _take_shadowed(
        self, id: str, purse: Purse, amounts: tuple[int, int, int, int], tick: int, wall: float
    ) -> list[int]:
        """Takes a need that limits which only count would have refused.

        A rate is as it would be had it refused, or its debt would grow without end; permits and budgets count all.
        """
        stamps = []
        for _, name, machine, unit in purse.named():
            amount = amounts[unit]
            taken = True
            if machine.shadow and machine.lacks(amount, tick, wall):
                self._count_shadowed(id, limit_of(name))
                taken = not isinstance(machine, TokenBucket)
            stamps.append(machine.take(amount) if taken else NOT_TAKEN)
        return stamps

    def _count_shadowed(self, id: str, limit: str) -> None:
        seen = self.shadowed
        which = id, limit
        if which not in seen and len(seen) >= RATIOS_OF:
            which = "other", limit
        seen[which] = seen.get(which, 0) + 1

    def restore(
        self, principal: Principal, model: str, need: Need, now: float, wall: float
    ) -> Lease:
        """The lease of a call that runs already, granted by an authority that is gone.

        Permits and budgets are held again; what it took of a rate is in the levels that `adopt` is told.
        """
        purse = self.purse(principal).of(model)
        tick = self._tick = max(self._tick, tick_of(now))
        self._wall = wall
        amounts = need.amounts
        entries = tuple(entry for entry in purse.entries if not isinstance(entry[0], TokenBucket))
        for machine, unit in entries:
            machine.lacks(amounts[unit], tick, wall)
        self.inflight += 1
        stamps = []
        for machine, unit in entries:
            stamps.append(machine.take(amounts[unit]))
            if isinstance(machine, Period):
                machine.reclaim(amounts[unit])
        return Lease(self, entries, amounts, stamps)

    def levels(self, principal: Principal) -> list[Level]:
        """What is used of the principal's limits, in the order of its purse."""
        return [machine.level() for _, _, machine, _ in self.purse(principal).machines]

    def adopt(self, principal: Principal, levels: Sequence[Level]) -> None:
        """At least so much is used, says a copy of `levels` that outlived the authority which told them."""
        for (_, _, machine, _), level in zip(self.purse(principal).machines, levels, strict=False):
            machine.adopt(level)

    def purse(self, principal: Principal) -> Purse:
        """What the principal draws on."""
        return self._purses.get(principal.id) or self._open(principal)

    def headers(self, principal: Principal, now: float, model: str | None = None) -> bytes:
        """The `x-ratelimit-*` lines for calls to a model, of the tighter of key and group; empty without rates."""
        purse = self._purses.get(principal.id) or self._open(principal)
        if model is not None:
            purse = purse.of(model)
        return purse.headers(int(now * 1000.0 + 0.5))

    def reload(self, principals: Principals, groups: Mapping[str, GroupLike]) -> dict[str, Purse]:
        """Follow a new configuration: use is kept, what is left is at most the new limit.

        Returns the purses that are over, for the caller to let them go: there may be very many. `catch_up` is to be
        called as long as it is true.
        """
        self._principals = principals
        self._limits = groups
        over, self._purses = self._purses, {}
        self._keys.reload(principals, self._tick, self._wall)
        self._groups.reload(groups, self._tick, self._wall)
        return over

    def catch_up(self) -> bool:
        """Some more of the accounts follow the last reload. Whether there are still others."""
        keys = self._keys.catch_up(self._tick, self._wall)
        return self._groups.catch_up(self._tick, self._wall) or keys

    def tell_all(self) -> None:
        """Whoever keeps the budgets has lost them: all of them are told again."""
        self.budgets.tell_rows()
        self._keys.tell()
        self._groups.tell()

    def iter_ratios(
        self, now: float, wall: float | None = None
    ) -> Iterator[tuple[str, str, float]]:
        """(key, limit, used ÷ limit), the tightest of key, group and models, of the keys that called first.

        Without `wall`, budgets are told as of the latest call.
        """
        tick = tick_of(now)
        at = self._wall if wall is None else wall
        # Whoever reads them may let others call meanwhile.
        for id in list(islice(self._keys, RATIOS_OF)):
            principal = self._principals.get(id)
            if principal is None:
                continue
            purse = self._purses.get(id) or self._open(principal)
            ratios: dict[str, float] = {}
            for _, name, machine, _ in purse.machines:
                most, name = machine.limit, limit_of(name)
                ratio = machine.used(tick, at) / most if most else 1.0
                ratios[name] = max(ratio, ratios.get(name, 0.0))
            for name, ratio in ratios.items():
                yield id, name, ratio

    def _open(self, principal: Holder) -> Purse:
        """Compile a purse at a key's first call.

        The limits are those of the present configuration, also for a call that began under an
        older one; a key that is gone keeps what it had.
        """
        id = principal.id
        current = self._principals.get(id) or principal
        key = self._keys.open(id, current.limits, self._tick)
        group = None
        name = current.group
        if name is not None and name in self._limits:
            group = self._groups.open(name, self._limits[name].limits, self._tick)
        purse = self._purses[id] = Purse(key, group)
        return purse
