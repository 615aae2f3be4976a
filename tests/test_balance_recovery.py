"""A member that comes back gets its share gradually, whatever the strategy."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from relay.errors import UpstreamOverloaded
from relay.upstream.balance import STRATEGIES, Strategy, Tier, part
from relay.upstream.breaker import FIRST_PART, RAMP
from relay.upstream.failures import Effect, Failure, Retry, Verdict, connect_refused
from relay.upstream.pool import Member
from tests.tiers import NOW, away, each_strategy, home, members


def come_back(member: Member) -> None:
    """Ejected, and closed by a probe at `NOW`."""
    endpoint = member.endpoint
    for _ in range(5):
        ticket = endpoint.begin(NOW - 60)
        endpoint.end(NOW - 60, Verdict.FAILED, connect_refused(), ticket)
    assert endpoint.state(NOW - 60) == "open"
    endpoint.end(NOW, Verdict.OK, None, endpoint.begin(NOW))
    assert endpoint.state(NOW) == "closed"


def taken(strategy: Strategy, tier: Tier, now: float, rng: Random) -> Counter[Member | None]:
    return Counter(strategy(tier, now, (), b"prefix %d" % number, rng) for number in range(20_000))


@each_strategy
@pytest.mark.parametrize("weights", [(1, 1), (1, 1, 1, 1), (3, 1), (1, 3)])
@pytest.mark.parametrize("after", [0.0, 2.5, 5.0, 9.0, RAMP])
def test_a_member_that_comes_back_takes_its_share_gradually(
    strategy: Strategy, weights: tuple[int, ...], after: float
) -> None:
    pool = members(*weights)
    come_back(pool[0])
    for other in pool[1:]:
        other.endpoint.inflight = 50 * other.weight  # it is idle, and not preferred for that
    if strategy is STRATEGIES["least_inflight"] and after >= RAMP:
        pool[0].endpoint.inflight = 50 * weights[0]

    counts = taken(strategy, Tier(pool), NOW + after, Random(3))

    grown = FIRST_PART + (1 - FIRST_PART) * after / RAMP
    assert part(pool[0], NOW + after) == pytest.approx(grown)
    share, rest = weights[0], sum(weights[1:])
    got = counts[pool[0]] / counts.total()
    assert (
        grown * share / (share + rest) - 0.015
        < got
        < grown * share / (grown * share + rest) + 0.015
    )
    for other in pool[1:]:
        assert counts[other] / counts.total() == pytest.approx(
            (1 - got) * other.weight / rest, abs=0.03
        )


@each_strategy
@pytest.mark.parametrize("back", [1, 2])
def test_members_that_come_back_to_nobody_else_take_all(strategy: Strategy, back: int) -> None:
    pool = members(1, 1, 1)
    for member in pool[:back]:
        come_back(member)
    for member in pool[back:]:
        away(member)

    counts = taken(strategy, Tier(pool), NOW, Random(3))

    assert set(counts) == set(pool[:back])
    assert min(counts.values()) > 20_000 / back * 0.8


@each_strategy
def test_a_failover_finds_the_member_that_has_just_come_back(strategy: Strategy) -> None:
    a, b = pool = members(1, 1)
    come_back(a)

    rng = Random(3)
    found = {strategy(Tier(pool), NOW, (b,), b"prefix", rng) for _ in range(100)}

    assert found == {a}


def test_a_heavy_member_that_comes_back_leaves_its_turns_to_the_light_one() -> None:
    heavy, light = pool = members(100, 1)
    come_back(heavy)

    counts = taken(STRATEGIES["weighted"], Tier(pool), NOW, Random(3))

    assert counts[heavy] / counts.total() == pytest.approx(10 / 11, abs=0.02)
    assert counts[light] > 0


def test_a_prefix_moves_once_while_its_home_comes_back() -> None:
    pool = members(1, 1, 1, 1)
    tier = Tier(pool)
    prefixes = [b"prefix %d" % number for number in range(500)]
    homes = {prefix: home(tier, prefix) for prefix in prefixes}
    come_back(pool[0])

    ways = {
        prefix: [home(tier, prefix, NOW + tenth / 10) for tenth in range(102)]
        for prefix in prefixes
    }

    for prefix, way in ways.items():
        assert way[-1] is homes[prefix]
        assert sum(one is not other for one, other in pairwise(way)) <= 1


def test_after_a_503_that_asked_to_wait_the_share_grows_too() -> None:
    pool = members(1, 1)
    endpoint = pool[0].endpoint
    ticket = endpoint.begin(NOW - 5)
    asked = Failure("5xx", Retry.PAID, Effect.HOLD, UpstreamOverloaded(), 5.0)
    endpoint.end(NOW - 5, Verdict.FAILED, asked, ticket)

    held = taken(STRATEGIES["weighted"], Tier(pool), NOW - 1, Random(3))
    back = taken(STRATEGIES["weighted"], Tier(pool), NOW, Random(3))

    assert held[pool[0]] == 0
    assert back[pool[0]] / back.total() == pytest.approx(0.1 / 1.1, abs=0.01)
