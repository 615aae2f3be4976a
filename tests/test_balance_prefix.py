"""The strategy `prefix`: prefixes stay at home, and a home is not loaded beyond its bound."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.upstream.balance import BOUND, STRATEGIES, Tier
from tests.tiers import NOW, away, hold, home, members, weights_of

prefixes = st.binary(min_size=1, max_size=40)


@given(prefix=prefixes, weights=weights_of, seed=st.integers(0, 2**32))
def test_a_prefix_has_one_home_whatever_is_drawn_and_in_every_process(
    prefix: bytes, weights: list[int], seed: int
) -> None:
    here, there = members(*weights), members(*weights)
    tier, other = Tier(here), Tier(there)

    homes = {STRATEGIES["prefix"](tier, NOW, (), prefix, Random(seed + n)) for n in range(5)}

    assert len(homes) == 1
    assert here.index(home(tier, prefix)) == there.index(home(other, prefix))


@given(prefix=prefixes, weights=st.lists(st.integers(1, 5), min_size=2, max_size=6))
def test_a_detour_around_an_absent_or_tried_member_does_not_move_the_home(
    prefix: bytes, weights: list[int]
) -> None:
    tier = Tier(members(*weights))
    before = home(tier, prefix)

    detour = STRATEGIES["prefix"](tier, NOW, (before,), prefix, Random(0))
    away(before)
    around = home(tier, prefix)
    before.endpoint.account.paused.clear()
    before.endpoint.account.survey()

    assert detour is around is not before
    assert home(tier, prefix) is before


@given(
    prefix=prefixes,
    weights=st.lists(st.integers(1, 5), min_size=2, max_size=6),
    loads=st.lists(st.integers(0, 40), min_size=6, max_size=6),
)
def test_the_home_is_left_only_over_its_bound_and_kept_after_it(
    prefix: bytes, weights: list[int], loads: list[int]
) -> None:
    pool = members(*weights)
    tier = Tier(pool)
    own = home(tier, prefix)
    for member, load in zip(pool, loads, strict=False):
        for _ in range(load):
            member.begin(NOW)

    chosen = home(tier, prefix)

    total = sum(member.endpoint.inflight for member in pool) + 1
    fair = total * own.weight / sum(weights)
    if own.endpoint.inflight + 1 <= BOUND * fair:
        assert chosen is own
    elif own.endpoint.inflight >= BOUND * fair:
        assert chosen is not own
    assert chosen.endpoint.inflight < BOUND * total * chosen.weight / sum(weights) + 1
    for member in pool:
        member.endpoint.inflight = 0
    assert home(tier, prefix) is own


@settings(max_examples=20)
@given(held=st.integers(1, 200), weights=st.lists(st.integers(1, 5), min_size=2, max_size=6))
def test_one_hot_prefix_loads_no_member_beyond_its_bound(held: int, weights: list[int]) -> None:
    pool = members(*weights)

    hold("prefix", Tier(pool), held, Random(1))

    for member in pool:
        fair = held * member.weight / sum(weights)
        assert member.endpoint.inflight <= BOUND * fair + 1


@pytest.mark.parametrize("weights", [(1, 1, 1), (3, 1), (1, 2, 5)])
def test_homes_are_distributed_by_weight(weights: tuple[int, ...]) -> None:
    pool = members(*weights)
    tier = Tier(pool)

    counts = Counter(home(tier, b"prompt %d" % number) for number in range(20_000))

    for member in pool:
        assert counts[member] / 20_000 == pytest.approx(member.weight / sum(weights), abs=0.015)


def test_a_new_member_takes_its_share_from_all_and_moves_nothing_else() -> None:
    four, five = members(1, 1, 1, 1), members(1, 1, 1, 1, 1)
    before, after = Tier(four), Tier(five)

    moved = Counter(
        (four.index(home(before, key)), five.index(home(after, key)))
        for key in (b"prompt %d" % number for number in range(5000))
    )

    assert all(new in (old, 4) for old, new in moved)
    assert sum(count for (_, new), count in moved.items() if new == 4) == pytest.approx(1000, 0.15)


def test_without_a_prefix_the_load_decides() -> None:
    pool = members(1, 1)
    pool[0].begin(NOW)

    picked = STRATEGIES["prefix"](Tier(pool), NOW, (), None, Random(1))

    assert picked is pool[1]
