"""The last of a pool, whom an ejection does not keep from serving, and what is said when nobody is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import (
    NoUpstream,
    Overloaded,
    PassedThrough,
    RelayError,
    UpstreamFailed,
    UpstreamRateLimited,
    UpstreamTimeout,
)
from relay.upstream import failures
from relay.upstream.balance import STRATEGIES
from relay.upstream.failures import Effect, Failure, Retry
from relay.upstream.pool import Member
from tests.pools import NOW, OBSTACLES, eject, end, fill, lone, park, pause, pick, served, three

Obstacle = Callable[[Member, float], None]

FORBIDDING = {name: OBSTACLES[name] for name in ("paused", "parked", "full")}
ADVISING = {name: OBSTACLES[name] for name in ("ejected", "held", "without the model")}


# -- the last of a pool --


@pytest.mark.parametrize("obstacle", ADVISING)
def test_a_pool_of_one_knows_no_ejection(obstacle: str) -> None:
    pool, only = lone()

    ADVISING[obstacle](only)

    assert pick(pool) is only
    assert pool.usable(NOW)


@pytest.mark.parametrize("obstacle", FORBIDDING)
def test_parks_pauses_and_limits_hold_for_a_pool_of_one(obstacle: str) -> None:
    pool, only = lone()

    FORBIDDING[obstacle](only)

    assert pick(pool) is None
    assert not pool.usable(NOW)


def test_a_pool_of_one_is_tried_once() -> None:
    pool, only = lone()

    assert pick(pool, tried=(only,)) is None


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("others", [(eject, eject), (park, park), (park, eject)])
def test_the_last_to_be_ejected_goes_on_serving(
    strategy: str, others: tuple[Obstacle, Obstacle]
) -> None:
    pool, (a, b, c) = three(strategy=strategy)
    for number, (obstacle, at) in enumerate(zip(others, (a, b), strict=True)):
        obstacle(at, NOW + number)

    eject(c, NOW + 2.0)

    assert served(pool, NOW + 2.1) == {c}
    assert pool.usable(NOW + 2.1)


def test_in_an_outage_each_call_makes_one_attempt() -> None:
    pool, found = three()
    for number, at in enumerate(found):
        eject(at, NOW + number / 10)

    first = pick(pool, NOW + 0.3)

    assert first is found[2]
    assert pick(pool, NOW + 0.3, (first,)) is None
    assert not pool.usable(NOW + 0.3, (first,))


def test_the_ejected_are_probed_and_the_first_that_answers_is_back() -> None:
    pool, (a, b, c) = three()
    for number, at in enumerate((a, b, c)):
        eject(at, NOW + number / 10)
    due = max(at.endpoint.breaker.until for at in (a, b, c))

    probed = pick(pool, due)
    assert probed is not None
    end(probed, None, due)

    assert probed.endpoint.state(due) == "closed"
    assert pick(pool, due) is not None


def test_an_ejected_member_that_is_due_gets_one_probe() -> None:
    pool, (a, b, c) = three()
    eject(a)
    due = a.endpoint.breaker.until

    counts: Counter[Member | None] = Counter()
    for _ in range(200):
        picked = pick(pool, due)
        assert picked is not None
        picked.begin(due)
        counts[picked] += 1

    assert counts[a] == 1
    assert counts[b] + counts[c] == 199


def test_the_last_one_is_found_though_a_probe_was_tried_first() -> None:
    pool, (a, b, c) = three(0, 0, 0)
    park(c)
    eject(a, NOW)
    eject(b, NOW + 1.0)
    due = a.endpoint.breaker.until
    a.begin(due)

    assert pick(pool, due, (a,)) is b


def test_nobody_is_the_last_while_a_healthy_member_is_full() -> None:
    pool, (a, b, c) = three()
    fill(a)
    eject(b)
    eject(c)

    assert pick(pool) is None
    assert isinstance(pool.refusal(NOW), Overloaded)


def test_nobody_is_the_last_while_a_healthy_member_was_tried() -> None:
    pool, (a, b, c) = three()
    eject(b)
    eject(c)

    assert pick(pool, tried=(a,)) is None


@pytest.mark.parametrize("obstacle", ["held", "without the model"])
def test_one_that_asked_to_be_left_alone_is_the_last_resort(obstacle: str) -> None:
    pool, (a, b, c) = three()
    park(c)
    eject(a)
    OBSTACLES[obstacle](b)

    assert served(pool) == {a}


@given(
    states=st.lists(
        st.lists(st.sampled_from(list(OBSTACLES)), max_size=2, unique=True), min_size=1, max_size=4
    ),
    strategy=st.sampled_from(list(STRATEGIES)),
    later=st.floats(0, 40),
)
def test_whatever_happened_somebody_serves_unless_all_are_forbidden(
    states: list[list[str]], strategy: str, later: float
) -> None:
    pool, found = three(*[n % 2 for n in range(len(states))], strategy=strategy)
    for at, obstacles in zip(found, states, strict=True):
        for obstacle in sorted(obstacles, reverse=True):
            OBSTACLES[obstacle](at)
    now = NOW + later

    picked = pick(pool, now)

    assert (picked is not None) == pool.usable(now)
    allowed = [at for at in found if at.allowed(now)]
    if picked is not None:
        assert picked in allowed
    elif allowed:
        # Only because a healthy one is full: the broken ones are not overrun instead.
        assert isinstance(pool.refusal(now), Overloaded)
    else:
        assert isinstance(pool.refusal(now), RelayError)


# -- what is said when nobody is left --


def test_all_paused_is_a_429_with_the_shortest_pause() -> None:
    pool, (a, b, c) = three()
    for at, wait in ((a, 20.0), (b, 7.0), (c, 90.0)):
        pause(at, wait)

    error = pool.refusal(NOW)

    assert isinstance(error, UpstreamRateLimited)
    assert error.wait == 7.0


def test_all_parked_is_a_503_without_a_wait() -> None:
    pool, found = three()
    for at in found:
        park(at)

    error = pool.refusal(NOW)

    assert isinstance(error, NoUpstream)
    assert error.wait is None


def test_paused_and_parked_is_a_503_until_the_first_pause_ends() -> None:
    pool, (a, b, c) = three()
    park(a)
    pause(b, 9.0)
    pause(c, 12.0)

    error = pool.refusal(NOW)

    assert isinstance(error, NoUpstream)
    assert error.wait == 9.0


def test_full_is_an_overload() -> None:
    pool, only = lone()
    fill(only)

    error = pool.refusal(NOW)

    assert isinstance(error, Overloaded)
    assert error.reason == "queue"


def test_the_first_end_of_a_pause_or_an_ejection_is_known() -> None:
    pool, (a, b, c) = three()
    nobody = pool.soonest(NOW)
    park(a)
    pause(b, 9.0)
    eject(c)

    assert nobody is None
    assert pool.soonest(NOW) == c.endpoint.breaker.until - NOW
    assert pool.shortest_pause(NOW) == 9.0
    assert pool.shortest_pause(NOW + 9.0) is None


# -- once more --


def once_more(failure: Failure, prepare: Callable[[Member], None] = lambda _: None) -> bool:
    pool, (a, b, c) = three()
    park(b)
    park(c)
    end(a, failure)
    prepare(a)
    return pool.may_repeat(a, failure, NOW)


@pytest.mark.parametrize(
    ("failure", "again"),
    [
        (failures.connect_refused(), True),
        (failures.reset_before_headers(), True),
        (failures.first_token_timeout(), True),
        (Failure("5xx", Retry.PAID, Effect.STRIKE, UpstreamFailed()), True),
        (Failure("5xx", Retry.PAID, Effect.STRIKE, UpstreamTimeout()), True),
        (failures.from_status(503, {}, b"", failures.Scrubber([]), 0.0), False),
        (failures.from_status(529, {}, b"", failures.Scrubber([]), 0.0), False),
        (failures.from_status(429, {}, b"", failures.Scrubber([]), 0.0), False),
        (failures.from_status(401, {}, b"", failures.Scrubber([]), 0.0), False),
        (failures.from_status(403, {}, b"", failures.Scrubber([]), 0.0), False),
        (
            Failure(
                "client_error",
                Retry.NEVER,
                Effect.NONE,
                PassedThrough(400, "no", None, None, None),
            ),
            False,
        ),
    ],
)
def test_the_last_one_may_be_tried_again_after_what_another_try_can_mend(
    failure: Failure, again: bool
) -> None:
    assert once_more(failure) is again


@pytest.mark.parametrize("obstacle", ["ejected", "paused", "parked", "full"])
def test_it_is_not_tried_again_when_it_is_not_trusted_any_more(obstacle: str) -> None:
    assert not once_more(failures.connect_refused(), OBSTACLES[obstacle])
