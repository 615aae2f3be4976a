"""The pool of one model: its members, who of them can be used now, and the one that is.

Two kinds of obstacle. A park, a pause and a full account *forbid*: they hold for the last member, too. An open
breaker, a 503's Retry-After and a missing model *advise against*: they are passed over when they would leave nobody,
so that the last of a pool is never ejected and a pool of one knows no ejection.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from math import inf
from random import Random
from typing import Final

from relay.errors import (
    NoUpstream,
    Overloaded,
    RelayError,
    UpstreamOverloaded,
    UpstreamRateLimited,
)
from relay.pricing import Price
from relay.upstream.account import Account
from relay.upstream.balance import STRATEGIES, Tier
from relay.upstream.breaker import State
from relay.upstream.budget import RetryBudget
from relay.upstream.endpoint import Endpoint
from relay.upstream.verdicts import Effect, Failure, Retry, Verdict

MODEL_ABSENT: Final = 60.0
"""Seconds for which a member that does not know the model is passed over; trying again costs one free attempt."""
RETRIES: Final = 0.2
"""The default share of calls that may be tried again."""


class Member:
    """An endpoint in a pool. Remembers only whether the model is missing there; lives as long as its snapshot."""

    __slots__ = ("absent_until", "begin", "endpoint", "model", "price", "tier", "weight")

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        tier: int = 0,
        weight: int = 1,
        price: Price | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.model = model
        """As the upstream calls it."""
        self.tier = tier
        self.weight = weight
        """Its share; 0: nothing new."""
        self.price = price
        """What the model costs there; None where nobody has said so, or nothing."""
        self.absent_until = 0.0
        self.begin: Callable[[float], int] = endpoint.begin

    def __repr__(self) -> str:
        return f"<Member {self.endpoint.label} {self.model} tier={self.tier} weight={self.weight}>"

    def usable(self, now: float) -> bool:
        """Nothing forbids, nothing advises against."""
        endpoint = self.endpoint
        account = endpoint.account
        if endpoint.clear_from > now or account.clear_from > now or self.absent_until > now:
            return self._looked_at(now)
        return account.inflight < endpoint.ceiling

    def steady(self, now: float) -> bool:
        """Usable at first sight: no obstacle that has to be looked at, and not just coming back."""
        endpoint = self.endpoint
        account = endpoint.account
        if endpoint.clear_from > now or account.clear_from > now or self.absent_until > now:
            return False
        return account.inflight < endpoint.ceiling

    def _looked_at(self, now: float) -> bool:
        return self.absent_until <= now and self.endpoint.well(now) and self.allowed(now)

    def allowed(self, now: float) -> bool:
        """Nothing forbids it: what the last member of a pool must meet."""
        endpoint = self.endpoint
        return not self.full and endpoint.passes(self.model, now)

    def expected(self, now: float) -> bool:
        """Nothing forbids or advises against it but want of room. An ejection lasts until an attempt has ended it."""
        endpoint = self.endpoint
        return (
            endpoint.breaker.state is State.CLOSED
            and endpoint.held_until <= now
            and self.absent_until <= now
            and endpoint.passes(self.model, now)
        )

    @property
    def full(self) -> bool:
        endpoint = self.endpoint
        return endpoint.account.inflight >= endpoint.ceiling

    def end(
        self,
        now: float,
        verdict: Verdict,
        failure: Failure | None = None,
        ticket: int | None = None,
    ) -> None:
        """An attempt ended: the endpoint's part and the model's."""
        self.endpoint.end(now, verdict, failure, ticket)
        if failure is not None:
            self.apply(failure, now)

    def apply(self, failure: Failure, now: float) -> None:
        """The part of a failure that concerns this model; the rest is `Endpoint.end`'s."""
        if failure.effect is Effect.PAUSE and failure.wait is not None:
            self.endpoint.pause(self.model, now, failure.wait)
        elif failure.effect is Effect.MODEL_ABSENT:
            self.absent_until = now + MODEL_ABSENT


class Pool:
    """The members of one model by tier, and their retry budget. Lives as long as its snapshot."""

    __slots__ = (
        "_choose",
        "_only",
        "_serving",
        "_tiers",
        "budget",
        "first_tier",
        "hedges",
        "members",
    )

    def __init__(
        self,
        members: Iterable[Member],
        strategy: str = "least_inflight",
        budget: float = RETRIES,
        hedges: float | None = None,
    ) -> None:
        """`budget` is the share of calls that may be tried again at a price, `hedges` that of those that may be hedged.

        Demo members serve only alone.
        """
        given = tuple(members)
        self.members = tuple(m for m in given if not m.endpoint.demo) or given
        self.budget = RetryBudget(budget)
        self.hedges = None if hedges is None else RetryBudget(hedges, floor=0)
        self._choose = STRATEGIES[strategy]
        self._serving = tuple(member for member in self.members if member.weight > 0)
        self._only = self._serving[0] if len(self._serving) == 1 else None
        self._tiers = [
            Tier([member for member in self._serving if member.tier == tier])
            for tier in sorted({member.tier for member in self._serving})
        ]
        self.first_tier = self._tiers[0].members[0].tier if self._tiers else 0

    @property
    def demo(self) -> bool:
        """Whether nothing but the built-in demo serves this model."""
        return bool(self.members) and all(member.endpoint.demo for member in self.members)

    def pick(
        self, now: float, tried: Collection[Member], prefix: bytes | None, rng: Random
    ) -> Member | None:
        """The member for the next attempt of a call: of the lowest tier that has one, the strategy's choice.

        `begin` must follow before anything else is picked: an open breaker's probe is the attempt that begins.
        """
        only = self._only
        if only is not None:
            return only if not tried and only.allowed(now) else None
        member = self.pick_well(now, tried, prefix, rng)
        if member is not None:
            return member
        last = self._last(now)
        return None if last is None or last in tried else last

    def pick_well(
        self, now: float, tried: Collection[Member], prefix: bytes | None, rng: Random
    ) -> Member | None:
        """As `pick`, but only somebody against whom nothing speaks."""
        choose = self._choose
        for tier in self._tiers:
            member = choose(tier, now, tried, prefix, rng)
            if member is not None:
                return member
        return None

    def crowded(self, now: float, tried: Collection[Member]) -> list[Endpoint]:
        """Those who could be tried if they were not full, and where calls may wait for that."""
        return [
            member.endpoint
            for member in self._serving
            if member.full
            and member.endpoint.account.queue is not None
            and member not in tried
            and member.absent_until <= now
            and member.endpoint.passes(member.model, now)
        ]

    def usable(self, now: float, tried: Collection[Member] = ()) -> bool:
        """Whether `pick` would find somebody."""
        if self._only is not None:
            return not tried and self._only.allowed(now)
        if any(member.usable(now) for member in self._serving if member not in tried):
            return True
        last = self._last(now)
        return last is not None and last not in tried

    def staffed(self, now: float) -> bool:
        """Whether somebody is there who is expected to answer: not parked, paused or ejected, and with the model. Who
        is full counts: its place becomes free."""
        return any(member.expected(now) for member in self._serving)

    def short(self, now: float, tried: Collection[Member], picked: Member | None) -> list[Account]:
        """The accounts that had a better member than the picked one, or one at all, had this process more permits."""
        short: dict[str, Account] = {}
        for member in self._serving:
            endpoint = member.endpoint
            account = endpoint.account
            if picked is not None and member.tier >= picked.tier:
                continue
            if account.inflight < endpoint.ceiling or endpoint.max_concurrent is None:
                continue
            if endpoint.ceiling >= endpoint.max_concurrent or member in tried:
                continue
            if endpoint.passes(member.model, now):
                short[account.name] = account
        return list(short.values())

    def may_repeat(self, member: Member, failure: Failure, now: float) -> bool:
        """Whether a call that has nobody left to try may try this one, its last, once more after a short rest.

        Only what another try can mend, of a member that is still trusted and did not say that it is overloaded.
        """
        if failure.effect not in (Effect.STRIKE, Effect.NONE) or failure.retry is Retry.NEVER:
            return False
        if isinstance(failure.error, UpstreamOverloaded):
            return False
        return member.endpoint.breaker.state is State.CLOSED and member.allowed(now)

    def soonest(self, now: float) -> float | None:
        """Seconds until the first pause or ejection ends; None when there is none, or all that is left is parked."""
        waits = [m.endpoint.free_at(m.model, now) - now for m in self._serving]
        return min((wait for wait in waits if 0 < wait < inf), default=None)

    def shortest_pause(self, now: float) -> float | None:
        """Seconds until the first pause ends (429): None when nobody is paused."""
        ends = [m.endpoint.account.paused.get(m.model, 0.0) for m in self._serving]
        return min((end - now for end in ends if end > now), default=None)

    def refusal(self, now: float) -> RelayError:
        """What the client gets when nobody could even be tried."""
        serving = self._serving
        if any(member.full and member.endpoint.passes(member.model, now) for member in serving):
            return Overloaded("queue")
        if serving and all(_throttled(member, now) for member in serving):
            return UpstreamRateLimited(wait=self.shortest_pause(now))
        return NoUpstream(wait=self.soonest(now))

    def _last(self, now: float) -> Member | None:
        """Who is used though everything advises against it: of those left the one that went last.

        None while somebody is well, even if that one is full or was tried by this call: then nobody is the last.
        """
        left = [m for m in self._serving if m.endpoint.passes(m.model, now)]
        if not left or any(m.absent_until <= now and m.endpoint.well(now) for m in left):
            return None
        last = max(left, key=lambda m: _trust(m, now))
        return None if last.full else last


def _trust(member: Member, now: float) -> tuple[bool, bool, float]:
    """Orders those that are advised against: a missing model cannot be had, an open breaker may be wrong."""
    endpoint = member.endpoint
    return (
        member.absent_until <= now,
        endpoint.held_until <= now,
        endpoint.breaker.tripped_at,
    )


def _throttled(member: Member, now: float) -> bool:
    endpoint = member.endpoint
    parked = endpoint.park.until > now or endpoint.account.park.until > now
    return not parked and not endpoint.account.passes(member.model, now)
