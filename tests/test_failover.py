"""The way of one call through a pool: what may be tried, what it costs, and what is said at the end."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from relay.errors import (
    ModelNotFound,
    NoUpstream,
    PassedThrough,
    UpstreamFailed,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from relay.upstream import failures
from relay.upstream.directory import Directory
from relay.upstream.failover import REST, Failover
from relay.upstream.failures import Effect, Failure, Retry
from relay.upstream.pool import Member, Pool

NOW = 1000.0
Fault = Callable[[], Failure]


def pool(members: int, budget: float = 1.0) -> Pool:
    """Members in tiers of their own, so that their order is known."""
    known = Directory(None, Random(1))
    return Pool(
        [
            Member(known.endpoint(upstream=f"u{n}", base_url=f"http://u{n}/v1"), "m", tier=n)
            for n in range(members)
        ],
        budget=budget,
    )


def way(through: Pool, attempts: int = 3) -> Failover:
    return Failover(through, attempts, None, NOW)


def tried(call: Failover, fault: Fault, now: float = NOW) -> list[str]:
    """Fails every attempt until nobody is left; names in their order."""
    names = []
    while (member := call.next(now)) is not None:
        names.append(member.endpoint.name)
        ticket = member.begin(now)
        failure = fault()
        member.end(now, failure.verdict, failure, ticket)
        call.failed(failure, now)
    return names


def throttled(wait: float = 7.0) -> Failure:
    return Failure("rate_limited", Retry.FREE, Effect.PAUSE, UpstreamRateLimited(wait=wait), wait)


def overloaded() -> Failure:
    return Failure("5xx", Retry.PAID, Effect.STRIKE, UpstreamOverloaded())


def refused() -> Failure:
    error = PassedThrough(400, "no", None, None, None)
    return Failure("client_error", Retry.NEVER, Effect.NONE, error)


def parked() -> Failure:
    return Failure("auth_failed", Retry.FREE, Effect.PARK_CREDENTIAL, NoUpstream())


def absent() -> Failure:
    return Failure("model_missing", Retry.FREE, Effect.MODEL_ABSENT, ModelNotFound())


def broken() -> Failure:
    return Failure("5xx", Retry.PAID, Effect.STRIKE, UpstreamFailed())


# --- attempts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [failures.connect_refused, parked, throttled, absent])
def test_failures_that_cost_nothing_go_through_every_member_once(fault: Fault) -> None:
    call = way(pool(5), attempts=1)

    assert tried(call, fault) == ["u0", "u1", "u2", "u3", "u4"]


@pytest.mark.parametrize("attempts", [1, 2, 3, 4])
def test_failures_that_may_have_cost_money_are_counted(attempts: int) -> None:
    call = way(pool(5), attempts)

    assert len(tried(call, broken)) == attempts
    assert call.repeat(NOW) is None
    assert not call.budget_empty


def test_free_failures_do_not_use_up_the_attempts() -> None:
    faults = iter([failures.connect_refused, broken, throttled, broken, broken])
    call = way(pool(5), attempts=3)

    assert len(tried(call, lambda: next(faults)())) == 5


def test_a_failure_that_is_the_requests_own_ends_the_call() -> None:
    call = way(pool(3))

    assert tried(call, refused) == ["u0"]
    assert call.repeat(NOW) is None
    assert not call.may_fall_back
    assert call.error(NOW).status == 400


# --- the budget -----------------------------------------------------------------------------------


def test_a_further_paid_attempt_needs_the_pools_budget() -> None:
    """A bucket that starts with three, and pays one for each."""
    shared = pool(5, budget=0.0)

    assert len(tried(way(shared, attempts=9), broken)) == 4
    call = way(shared, attempts=9)
    assert len(tried(call, broken)) == 1
    assert call.budget_empty
    assert call.repeat(NOW) is None


def test_the_budget_pays_nothing_where_nobody_is_left_to_try() -> None:
    shared = pool(2, budget=0.0)
    left = shared.budget.level(NOW)

    tried(way(shared, attempts=9), broken)

    assert shared.budget.level(NOW) == left - 1


def test_free_attempts_need_no_budget() -> None:
    shared = pool(5, budget=0.0)
    while shared.budget.withdraw(NOW):
        pass

    assert len(tried(way(shared), failures.connect_refused)) == 5


def test_each_call_pays_in_its_share() -> None:
    shared = pool(1, budget=0.5)
    while shared.budget.withdraw(NOW):
        pass

    way(shared)
    way(shared)

    assert shared.budget.level(NOW) == 1.0


# --- the last member once more --------------------------------------------------------------------


@pytest.mark.parametrize("fault", [failures.connect_refused, broken, failures.reset_before_headers])
def test_the_last_member_is_tried_once_more_after_a_short_rest(fault: Fault) -> None:
    call = way(pool(2), attempts=9)
    assert tried(call, fault) == ["u0", "u1"]

    rest = call.repeat(NOW)

    assert rest is not None
    assert REST[0] <= rest <= REST[1]
    assert tried(call, fault, NOW + rest) == ["u1"]
    assert call.repeat(NOW + rest) is None


@pytest.mark.parametrize(
    "fault", [overloaded, throttled, parked, absent, refused, failures.first_token_timeout]
)
def test_it_is_left_alone_where_another_try_cannot_help(fault: Fault) -> None:
    call = way(pool(2), attempts=9)
    tried(call, fault)

    assert call.repeat(NOW) is None


def test_it_is_left_alone_once_its_breaker_has_opened() -> None:
    shared = pool(1)
    for _ in range(5):
        tried(way(shared, attempts=9), broken)

    call = way(shared, attempts=9)
    tried(call, broken)

    assert call.repeat(NOW) is None


def test_once_more_is_paid_for_too() -> None:
    shared = pool(1, budget=0.0)
    while shared.budget.withdraw(NOW):
        pass
    call = way(shared, attempts=9)
    tried(call, broken)

    assert call.repeat(NOW) is None
    assert call.budget_empty


def test_a_call_that_tried_nobody_repeats_nobody() -> None:
    call = way(Pool([]))

    assert call.next(NOW) is None
    assert call.repeat(NOW) is None
    assert call.may_fall_back
    assert call.error(NOW).code == "no_upstream_available"


# --- what is said ---------------------------------------------------------------------------------


def test_the_attempt_that_ended_last_decides() -> None:
    faults = iter([broken, failures.connect_refused])
    call = way(pool(2))
    tried(call, lambda: next(faults)())

    assert isinstance(call.error(NOW), UpstreamUnreachable)


def test_all_throttled_is_told_with_the_smallest_pause() -> None:
    waits = iter([3.0, 9.0])
    call = way(pool(2))
    tried(call, lambda: throttled(next(waits)))

    error = call.error(NOW + 1.0)

    assert isinstance(error, UpstreamRateLimited)
    assert error.wait == 2.0


def test_a_park_promises_nothing_unless_somebody_comes_back() -> None:
    call = way(pool(1))
    tried(call, parked)
    assert call.error(NOW).wait is None

    faults = iter([lambda: throttled(4.0), parked])
    call = way(pool(2))
    tried(call, lambda: next(faults)())
    error = call.error(NOW)
    assert isinstance(error, NoUpstream)
    assert error.wait == 4.0


def test_silence_is_told_as_a_timeout() -> None:
    call = way(pool(1))
    tried(call, failures.first_token_timeout)

    assert isinstance(call.error(NOW), UpstreamTimeout)
    assert call.may_fall_back


def test_a_prefix_is_asked_for_only_where_the_strategy_wants_it() -> None:
    asked: list[int] = []

    def prefix() -> bytes:
        asked.append(1)
        return b"x"

    Failover(pool(2), 3, prefix, NOW).next(NOW)
    Failover(pool(2), 3, None, NOW).next(NOW)

    assert asked == [1]
