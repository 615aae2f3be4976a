"""Who can be used: tiers, weights, limits and obstacles; and whether a model is to be had."""

from __future__ import annotations

from random import Random

import pytest

from relay.errors import NoUpstream
from relay.upstream.balance import STRATEGIES
from relay.upstream.directory import Directory
from relay.upstream.failures import Verdict
from relay.upstream.pool import Member, Pool
from tests.pools import (
    NOW,
    OBSTACLES,
    eject,
    lone,
    lose_model,
    member,
    park,
    pause,
    pick,
    served,
    three,
)

# -- picking --


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_a_member_with_an_obstacle_is_passed_over(obstacle: str, strategy: str) -> None:
    pool, (a, b, c) = three(strategy=strategy)

    OBSTACLES[obstacle](a)

    assert not a.usable(NOW)
    assert a not in served(pool)
    assert served(pool) <= {b, c}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_member_is_tried_once(strategy: str) -> None:
    pool, found = three(strategy=strategy)
    tried: tuple[Member, ...] = ()

    while (picked := pick(pool, tried=tried)) is not None:
        tried = (*tried, picked)

    assert len(tried) == 3
    assert set(tried) == set(found)


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_the_lowest_tier_serves_and_spills_when_it_has_nobody(obstacle: str) -> None:
    pool, (a, b, c) = three(0, 1, 1)

    before = served(pool)
    OBSTACLES[obstacle](a)
    after = served(pool)

    assert before == {a}
    assert after == {b, c}


def test_a_failover_goes_on_to_the_next_tier() -> None:
    pool, (a, b, _) = three(0, 1, 2)

    assert pick(pool, tried=(a,)) is b


def test_a_weight_of_zero_gets_nothing_new() -> None:
    known = Directory(None, Random(1))
    a, b = member(known, "a", weight=0), member(known, "b", weight=1)
    pool = Pool([a, b])

    eject(b)

    assert served(pool) == {b}
    assert pick(pool, tried=(b,)) is None


def test_a_pool_without_members_has_nobody() -> None:
    pool = Pool([])

    assert pick(pool) is None
    assert not pool.usable(NOW)
    assert not pool.demo
    assert isinstance(pool.refusal(NOW), NoUpstream)


def test_max_concurrent_counts_what_is_in_flight_on_the_account() -> None:
    known = Directory(None, Random(1))
    at = [
        known.endpoint(upstream="u", base_url="http://u/v1", credential=key, max_concurrent=2)
        for key in ("a" * 20, "b" * 20)
    ]
    a, b = (Member(endpoint, "m") for endpoint in at)
    pool = Pool([a, b])

    a.begin(NOW)
    ticket = b.begin(NOW)
    full = pick(pool)
    b.end(NOW, Verdict.OK, None, ticket)

    assert full is None
    assert pick(pool) is not None


def test_members_of_one_account_are_paused_for_the_model_together() -> None:
    known = Directory(None, Random(1))
    at = [
        known.endpoint(upstream="u", base_url="http://u/v1", credential=key)
        for key in ("a" * 20, "b" * 20)
    ]
    chat, other = Pool([Member(e, "chat") for e in at]), Pool([Member(e, "other") for e in at])

    pause(chat.members[0], 5.0)

    assert pick(chat) is None
    assert pick(chat, NOW + 5.0) is not None
    assert pick(other) is not None


def test_a_missing_model_is_the_members_matter_and_passes() -> None:
    known = Directory(None, Random(1))
    a, b = member(known, "a"), member(known, "b")
    elsewhere = Member(a.endpoint, "n")
    pool = Pool([a, b])

    lose_model(a)

    assert served(pool) == {b}
    assert served(pool, NOW + 61.0) == {a, b}
    assert elsewhere.usable(NOW)


def test_a_member_shows_where_it_leads_and_no_credential() -> None:
    _, only = lone()

    assert repr(only) == "<Member u m tier=0 weight=1>"


# -- whether a model is to be had --


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_a_pool_is_staffed_while_somebody_is_not_kept_out_and_who_is_full_is_there(
    obstacle: str,
) -> None:
    pool, (a, b) = three(0, 1)

    OBSTACLES[obstacle](a)
    with_one = pool.staffed(NOW)
    OBSTACLES[obstacle](b)

    assert with_one
    assert pool.staffed(NOW) == (obstacle == "full")


def test_who_was_ejected_is_expected_again_when_an_attempt_went_well_not_when_the_rest_is_over() -> (
    None
):
    pool, only = lone()
    eject(only)

    rested = pool.staffed(NOW + 3600.0)
    ticket = only.begin(NOW + 3600.0)
    probed = pool.staffed(NOW + 3600.0)
    only.end(NOW + 3601.0, Verdict.OK, None, ticket)

    assert not rested
    assert not probed
    assert pool.staffed(NOW + 3601.0)


def test_a_weight_of_zero_staffs_nothing() -> None:
    known = Directory(None, Random(1))
    pool = Pool([member(known, "resting", weight=0)])

    assert not pool.staffed(NOW)


# -- the demo --


def test_the_demo_serves_only_while_it_is_alone() -> None:
    known = Directory(None, Random(1))
    demo = Member(known.endpoint(upstream="demo", base_url=None, demo=True), "m", tier=9)
    real = member(known, "u")

    alone, beside = Pool([demo]), Pool([demo, real])

    assert (alone.demo, beside.demo) == (True, False)
    assert pick(alone) is demo
    park(real)
    assert pick(beside) is None
