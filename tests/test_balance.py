"""Shares are exact, loads even, prefixes at home; members that are away leave their part to the others."""

from __future__ import annotations

from collections import Counter
from itertools import count, pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import UpstreamOverloaded
from relay.upstream.balance import BOUND, STRATEGIES, Draw, Strategy, Tier, part
from relay.upstream.breaker import FIRST_PART, RAMP
from relay.upstream.directory import Directory
from relay.upstream.failures import Effect, Failure, Retry, Verdict, connect_refused
from relay.upstream.pool import Member

NOW = 100.0

weights_of = st.lists(st.integers(1, 12), min_size=1, max_size=8)


def members(*weights: int, max_concurrent: int | None = None) -> list[Member]:
    known = Directory(None, Random(1))
    return [
        Member(
            known.endpoint(
                upstream=f"u{number}",
                base_url=f"http://host{number}/v1",
                max_concurrent=max_concurrent,
            ),
            "m",
            weight=weight,
        )
        for number, weight in enumerate(weights)
    ]


def away(member: Member, until: float = 1e9) -> None:
    member.endpoint.pause("m", NOW, until - NOW)


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


each_strategy = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)


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


# -- coming back --


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


def hold(name: str, tier: Tier, count: int, rng: Random) -> list[Member]:
    found = []
    for _ in range(count):
        member = STRATEGIES[name](tier, NOW, (), b"prefix", rng)
        assert member is not None
        member.begin(NOW)
        found.append(member)
    return found


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


# -- prefix --

prefixes = st.binary(min_size=1, max_size=40)


ticks = count(1)


def home(tier: Tier, prefix: bytes, now: float | None = None) -> Member:
    # Each time a moment later: the load of a tier is counted anew.
    now = NOW + next(ticks) if now is None else now
    member = STRATEGIES["prefix"](tier, now, (), prefix, Random(0))
    assert member is not None
    return member


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
