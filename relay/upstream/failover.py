"""Which member is tried next for one call, and what the client is told when none is left.

Pure: it is told of failures and the time, and counts. Attempts that cannot have cost anything (class free) are
free; the others count against `retry.attempts` and, from the second on, against the pool's retry budget.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random

from relay.errors import NoUpstream, RelayError, UpstreamRateLimited, UpstreamTimeout
from relay.upstream.account import Account
from relay.upstream.failures import Failure, Retry
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
        "_pool",
        "_prefix",
        "_repeated",
        "_tried",
        "budget_empty",
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
        self.budget_empty = False
        """A further try was wanted, and the retry budget did not allow it."""
        pool.budget.deposit(now)

    def next(self, now: float) -> Member | None:
        """The member to try now; each is tried once."""
        if self._closed:
            return None
        prefix = self._prefix() if self._prefix is not None else None
        member = self._pool.pick(now, self._tried, prefix, _random)
        if member is not None:
            self._tried.append(member)
        return member

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
        if failure.retry is Retry.PAID and not self._pool.budget.withdraw(now):
            self.budget_empty = True
            return None
        self._repeated = True
        self._tried.pop()
        return _random.uniform(*REST)

    def failed(self, failure: Failure, now: float) -> None:
        """An attempt ended so: may there be another?"""
        self._failure = failure
        if failure.retry is Retry.NEVER:
            self._closed = True
        elif failure.retry is Retry.PAID:
            self._left -= 1
            if self._left <= 0:
                self._closed = True
            elif self._pool.usable(now, self._tried) and not self._pool.budget.withdraw(now):
                self._closed = self.budget_empty = True

    @property
    def may_fall_back(self) -> bool:
        """The pool is at its end; a request that is itself at fault is not tried on another model."""
        return self._failure is None or self._failure.retry is not Retry.NEVER

    def error(self, now: float) -> RelayError:
        """What the client gets: the failure that came last decides; if nothing was tried, the pool's state."""
        if self._failure is None:
            return self._pool.refusal(now)
        error = self._failure.error
        if isinstance(error, UpstreamRateLimited):
            # The others may be free sooner than the one that was asked last.
            error.wait = self._pool.shortest_pause(now) or error.wait
        elif isinstance(error, NoUpstream):
            error.wait = self._pool.soonest(now)
        return error
