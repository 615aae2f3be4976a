"""Which member is tried next for one call, and what the client is told when none is left.

Pure: it is told of failures and the time, and counts. Attempts that cannot have cost anything (class free) are
free; the others count against `retry.attempts` and, from the second on, against the pool's retry budget. A hedge, which
is an attempt because of silence, is paid from a budget of its own, and is never made where somebody is overloaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random

from relay.errors import (
    NoUpstream,
    Overloaded,
    RelayError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamTimeout,
)
from relay.upstream.account import Account
from relay.upstream.endpoint import Endpoint
from relay.upstream.failures import Effect, Failure, Retry
from relay.upstream.pool import Member, Pool

REST = (0.025, 0.25)
"""Seconds before the last member is tried again, drawn evenly: callers that failed together come back apart."""

_random = Random()
# Workers are forked: each draws for itself.
os.register_at_fork(after_in_child=_random.seed)


class Failover:
    """The way of one call through one pool; dies at the commit."""

    __slots__ = (
        "_closed",
        "_failure",
        "_left",
        "_overloaded",
        "_owes",
        "_pool",
        "_prefix",
        "_repeated",
        "_tried",
        "budget_empty",
        "expected",
        "impatient",
    )

    def __init__(
        self, pool: Pool, attempts: int, prefix: Callable[[], bytes] | None, now: float
    ) -> None:
        self._pool = pool
        self._left = attempts
        self._prefix = prefix
        self._tried: list[Member] = []
        self._failure: Failure | None = None
        self._closed = False
        self._repeated = False
        self._owes = False
        """A further attempt will be a retry that has not been paid for."""
        self._overloaded = False
        """A member said that it has too much to do."""
        self.budget_empty = False
        """A further try was wanted, and the retry budget did not allow it."""
        self.impatient = False
        """It has waited for a place as long as it may, or would have had to wait longer."""
        self.expected: float | None = None
        """Seconds until there might be a place, if it was refused one."""
        pool.budget.deposit(now)
        if pool.hedges is not None:
            pool.hedges.deposit(now)

    def next(self, now: float) -> Member | None:
        """The member to try now; each is tried once."""
        if self._closed:
            return None
        prefix = self._prefix() if self._prefix is not None else None
        member = self._pool.pick(now, self._tried, prefix, _random)
        if member is not None:
            self._tried.append(member)
        return member

    def hedge(self, now: float, under_way: int) -> Member | None:
        """The member for an attempt beside those under way, which are silent; paid for."""
        hedges = self._pool.hedges
        if hedges is None or self._closed or self._overloaded or self._left <= under_way:
            return None
        if hedges.level(now) < 1:
            return None
        prefix = self._prefix() if self._prefix is not None else None
        member = self._pool.pick_well(now, self._tried, prefix, _random)
        if member is None or not hedges.withdraw(now):
            return None
        self._tried.append(member)
        return member

    def successor(self, broken: Member, silent: bool, now: float) -> Member | None:
        """Who goes on with a stream that this member broke; paid for as a retry. Without another, it itself may.

        `silent`: it broke by silence, and would again.
        """
        pool, tried = self._pool, [broken]
        prefix = self._prefix() if self._prefix is not None else None
        member = pool.pick_well(now, tried, prefix, _random)
        if member is None and not silent and broken.usable(now):
            member = broken
        if member is not None and not pool.budget.withdraw(now):
            self.budget_empty = True
            return None
        return member

    def crowded(self, now: float) -> list[Endpoint]:
        """Where it is worth while to wait for a place: nobody is left but members that are full."""
        if self._closed or self.impatient:
            return []
        crowded = self._pool.crowded(now, self._tried)
        if crowded and self._owes and self._pool.budget.level(now) < 1:
            self._closed = self.budget_empty = True
            return []
        return crowded

    def waits(self, now: float) -> None:
        """It stands in line: what follows a failure is a retry, and paid for now."""
        if self._owes:
            self._owes = False
            self._pool.budget.withdraw(now)

    def short(self, now: float, picked: Member | None) -> list[Account]:
        """Accounts with a better member than the one just picked, kept from it by this process's share of permits.

        If there are any, nothing was picked.
        """
        if picked is not None and picked.tier == self._pool.first_tier:
            return []
        if picked is not None:
            self._tried.pop()
        short = [] if self._closed else self._pool.short(now, self._tried, picked)
        if picked is not None and not short:
            self._tried.append(picked)
        return short

    def repeat(self, now: float) -> float | None:
        """Seconds after which the last member should be tried once more, None when it should not.

        Only while it is trusted, and never where it said that it is overloaded: an outage is refused at the speed of
        the upstream's own answer.
        """
        failure = self._failure
        if self._closed or self._repeated or failure is None or not self._tried:
            return None
        if isinstance(failure.error, UpstreamTimeout):
            # It has had all the patience that the caller has.
            return None
        if not self._pool.may_repeat(self._tried[-1], failure, now):
            return None
        if self._owes:
            self._owes = False
            if not self._pool.budget.withdraw(now):
                self.budget_empty = True
                return None
        self._repeated = True
        self._tried.pop()
        return _random.uniform(*REST)

    def forgive(self, member: Member) -> None:
        """It was asked the wrong way, which is not its fault: it may be picked again."""
        self._tried.remove(member)

    def failed(self, failure: Failure, now: float, under_way: int = 0) -> None:
        """An attempt ended so, and others are under way or not: may there be another?"""
        self._failure = failure
        if failure.effect in (Effect.PAUSE, Effect.HOLD) or isinstance(
            failure.error, UpstreamOverloaded
        ):
            self._overloaded = True
        if failure.retry is Retry.NEVER:
            self._closed = True
        elif failure.retry is Retry.PAID:
            self._left -= 1
            self._owes = True
            if self._left <= 0:
                self._closed = True
        if self._owes and not under_way and not self._closed:
            self._pay(now)

    def _pay(self, now: float) -> None:
        """For the next attempt, if there is one that could begin now."""
        if self._pool.usable(now, self._tried):
            self._owes = False
            if not self._pool.budget.withdraw(now):
                self._closed = self.budget_empty = True

    @property
    def may_fall_back(self) -> bool:
        """The pool is at its end; a request that is itself at fault is not tried on another model."""
        return self._failure is None or self._failure.retry is not Retry.NEVER

    def error(self, now: float) -> RelayError:
        """What the client gets: the failure that came last decides; if nothing was tried, the pool's state."""
        if self._failure is None:
            refusal = self._pool.refusal(now)
            if isinstance(refusal, Overloaded) and self.expected is not None:
                refusal.wait = max(1.0, self.expected)
            return refusal
        error = self._failure.error
        if isinstance(error, UpstreamRateLimited):
            # The others may be free sooner than the one that was asked last.
            error.wait = self._pool.shortest_pause(now) or error.wait
        elif isinstance(error, NoUpstream):
            error.wait = self._pool.soonest(now)
        return error
