"""Shares are exact and loads even; members that are away leave their part to the others."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.upstream.balance import STRATEGIES, Draw, Strategy, Tier
from relay.upstream.pool import Member
from tests.tiers import NOW, away, each_strategy, hold, members, weights_of


def picks(name: str, tier: Tier, count: int, rng: Random | None = None) -> list[Member]:
    """Calls that end at once."""
    rng = rng or Random(7)
    found = []
    for _ in range(count):
        member = STRATEGIES[name](tier, NOW, (), b"prefix", rng)
        assert member is not None
        found.append(member)
    return found


# -- all strategies --


@each_strategy
@given(data=st.data(), weights=weights_of, seed=st.integers(0, 2**32))
def test_only_a_usable_member_that_was_not_tried_is_picked(
    strategy: Strategy, data: st.DataObject, weights: list[int], seed: int
) -> None:
    pool = members(*weights)
    tier = Tier(pool)
    rng = Random(seed)
    gone = data.draw(st.sets(st.sampled_from(pool)))
    tried = data.draw(st.sets(st.sampled_from(pool)))
    for member in gone:
        away(member)

    for prefix in (None, b"a"):
        picked = strategy(tier, NOW, tried, prefix, rng)

        left = set(pool) - gone - tried
        assert picked in left if left else picked is None


@each_strategy
def test_a_tier_of_one_is_picked_or_not(strategy: Strategy) -> None:
    (member,) = pool = members(3)
    tier = Tier(pool)

    first = strategy(tier, NOW, (), b"a", Random(1))
    again = strategy(tier, NOW, (member,), b"a", Random(1))
    away(member)
    gone = strategy(tier, NOW, (), b"a", Random(1))

    assert (first, again, gone) == (member, None, None)


# -- weighted --


@given(weights=weights_of, skipped=st.integers(0, 100))
def test_every_window_of_a_circle_has_exactly_the_weights(weights: list[int], skipped: int) -> None:
    pool = members(*weights)
    tier = Tier(pool)
    picks("weighted", tier, skipped)

    counts = Counter(picks("weighted", tier, sum(weights)))

    assert [counts[member] for member in pool] == weights


@given(weights=weights_of)
def test_turns_are_spread_and_not_clumped(weights: list[int]) -> None:
    pool = members(*weights)
    total = sum(weights)

    order = picks("weighted", Tier(pool), 3 * total)

    for member in pool:
        for end in range(1, len(order) + 1):
            had = sum(1 for picked in order[:end] if picked is member)
            assert abs(had - end * member.weight / total) <= len(pool)


def test_three_to_one_is_interleaved() -> None:
    a, b = pool = members(3, 1)

    order = picks("weighted", Tier(pool), 8)

    assert order == [a, a, b, a, a, a, b, a]


@given(weights=weights_of, data=st.data())
def test_a_member_that_is_away_leaves_its_turns_in_proportion(
    weights: list[int], data: st.DataObject
) -> None:
    pool = members(*weights)
    tier = Tier(pool)
    gone = data.draw(st.sets(st.sampled_from(pool), max_size=len(pool) - 1))
    for member in gone:
        away(member)
    left = [member for member in pool if member not in gone]
    circle = sum(member.weight for member in left)

    counts = Counter(picks("weighted", tier, 50 * circle))

    for member in left:
        assert abs(counts[member] - 50 * member.weight) <= len(pool) + max(weights)


@pytest.mark.parametrize("weights", [(1, 1), (100, 1), (1, 100), (5, 3, 2)])
def test_a_member_that_comes_back_has_no_turns_saved_up(weights: tuple[int, ...]) -> None:
    pool = members(*weights)
    tier = Tier(pool)
    away(pool[0], until=NOW + 1)
    picks("weighted", tier, 10_000)
    pool[0].endpoint.account.paused.clear()
    pool[0].endpoint.account.survey()

    counts = Counter(picks("weighted", tier, 10 * sum(weights)))

    for member in pool:
        assert abs(counts[member] - 10 * member.weight) <= max(weights)


def test_a_failover_does_not_take_the_turn_of_the_member_that_failed() -> None:
    a, b, c = pool = members(1, 1, 1)
    tier = Tier(pool)
    weighted = STRATEGIES["weighted"]

    rng = Random(1)
    first = weighted(tier, NOW, (), None, rng)
    then = weighted(tier, NOW, (a,), None, rng)
    following = [weighted(tier, NOW, (), None, rng) for _ in range(3)]

    assert (first, then) == (a, b)
    assert following == [c, a, b]


@given(weights=st.lists(st.integers(1, 1_000_000), min_size=2, max_size=6))
def test_large_weights_are_as_exact(weights: list[int]) -> None:
    pool = members(*weights)

    counts = Counter(picks("weighted", Tier(pool), 500))

    for member in pool:
        assert abs(counts[member] - 500 * member.weight / sum(weights)) <= len(pool)


# -- drawing --


@given(weights=weights_of.filter(lambda weights: len(weights) > 1), seed=st.integers(0, 2**32))
def test_two_different_members_are_drawn(weights: list[int], seed: int) -> None:
    draw = Draw(members(*weights))
    rng = Random(seed)

    for _ in range(50):
        first, second = draw.two(rng)
        assert first is not second


@pytest.mark.parametrize("weights", [(1, 1), (1, 1, 1), (3, 1), (1, 2, 5), (10, 1, 1, 1)])
def test_the_first_drawn_has_its_share_and_the_second_the_rest(weights: tuple[int, ...]) -> None:
    pool = members(*weights)
    draw = Draw(pool)
    rng = Random(3)
    total = sum(weights)

    pairs = [draw.two(rng) for _ in range(40_000)]

    firsts = Counter(first for first, _ in pairs)
    seconds = Counter(second for _, second in pairs)
    for member in pool:
        share = member.weight / total
        rest = sum(
            other.weight / total * member.weight / (total - other.weight)
            for other in pool
            if other is not member
        )
        assert firsts[member] / 40_000 == pytest.approx(share, abs=0.01)
        assert seconds[member] / 40_000 == pytest.approx(rest, abs=0.01)


# -- least_inflight --


@given(count=st.integers(2, 12), held=st.integers(1, 300), seed=st.integers(0, 2**32))
def test_held_calls_are_spread_evenly(count: int, held: int, seed: int) -> None:
    pool = members(*[1] * count)
    tier = Tier(pool)

    for member in hold("least_inflight", tier, held, Random(seed)):
        assert member in pool

    loads = [member.endpoint.inflight for member in pool]
    assert sum(loads) == held
    # Two choices: the gap to the average grows with log log n, not with the load.
    assert max(loads) - held / count <= 4
    if count == 2:
        assert abs(loads[0] - loads[1]) <= 1


@pytest.mark.parametrize("weights", [(3, 1), (1, 2, 5), (7, 1, 1, 1)])
def test_load_is_held_in_proportion_to_weight(weights: tuple[int, ...]) -> None:
    pool = members(*weights)

    hold("least_inflight", Tier(pool), 100 * sum(weights), Random(5))

    for member in pool:
        assert member.endpoint.inflight == pytest.approx(100 * member.weight, rel=0.06, abs=6)


@pytest.mark.parametrize("weights", [(1, 1, 1), (3, 1), (1, 2, 5)])
def test_an_idle_pool_is_used_in_proportion_to_weight(weights: tuple[int, ...]) -> None:
    pool = members(*weights)

    counts = Counter(picks("least_inflight", Tier(pool), 20_000))

    for member in pool:
        assert counts[member] / 20_000 == pytest.approx(member.weight / sum(weights), abs=0.015)


def test_a_loaded_member_gets_nothing_while_another_is_idle() -> None:
    pool = members(1, 1)
    pool[0].begin(NOW)

    counts = Counter(picks("least_inflight", Tier(pool), 100))

    assert counts == {pool[1]: 100}


# -- fastest --


def test_the_faster_is_taken_but_for_the_explorers() -> None:
    pool = members(1, 1)
    pool[0].endpoint.ttft, pool[1].endpoint.ttft = 0.2, 0.9

    counts = Counter(picks("fastest", Tier(pool), 20_000))

    # Half of the 5 % that explore draw the faster one first anyway.
    assert counts[pool[1]] / 20_000 == pytest.approx(0.025, abs=0.006)


def test_a_member_that_was_never_measured_is_measured_first() -> None:
    pool = members(1, 1)
    pool[0].endpoint.ttft = 0.2

    counts = Counter(picks("fastest", Tier(pool), 1000))

    assert counts[pool[1]] > 900


def test_unmeasured_members_share_by_weight() -> None:
    pool = members(3, 1)

    counts = Counter(picks("fastest", Tier(pool), 20_000))

    assert counts[pool[0]] / 20_000 == pytest.approx(0.75, abs=0.015)
