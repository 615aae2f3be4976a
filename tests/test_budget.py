"""Retries are paid for by traffic: a share of it, a floor for the quiet, and no hoard."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.upstream.budget import RetryBudget


def spend(budget: RetryBudget, now: float) -> int:
    count = 0
    while budget.withdraw(now):
        count += 1
    return count


def test_it_starts_with_three() -> None:
    assert spend(RetryBudget(0.2), 0.0) == 3


def test_every_call_puts_in_its_share() -> None:
    budget = RetryBudget(0.2)
    spend(budget, 0.0)

    for _ in range(50):
        budget.deposit(0.0)

    assert spend(budget, 0.0) == 10


@pytest.mark.parametrize("ratio", [0.0, 0.2])
def test_a_quiet_pool_gets_three_in_ten_seconds(ratio: float) -> None:
    budget = RetryBudget(ratio)
    spend(budget, 0.0)

    assert budget.level(0.5) == 0.0
    assert budget.level(5.0) == pytest.approx(1.5)
    assert budget.level(10.0) == pytest.approx(3.0)
    assert budget.level(1000.0) == pytest.approx(3.0)


def test_traffic_that_earns_more_than_the_floor_gets_no_floor_on_top() -> None:
    budget = RetryBudget(0.2)
    spend(budget, 0.0)

    for step in range(1000):
        budget.deposit(step * 0.01)

    assert budget.level(9.99) == pytest.approx(200.0)


def test_it_holds_no_more_than_ten_seconds_of_traffic_earned() -> None:
    budget = RetryBudget(0.2)

    for step in range(100_000):
        budget.deposit(step * 0.01)

    assert 180.0 <= budget.level(1000.0) <= 201.0


def test_what_traffic_earned_is_gone_ten_seconds_after_it() -> None:
    budget = RetryBudget(1.0)
    for _ in range(100):
        budget.deposit(0.0)

    assert budget.level(5.0) == 100.0
    assert budget.level(11.0) == 3.0


def test_in_an_outage_retries_are_the_share_and_the_floor() -> None:
    budget = RetryBudget(0.2)
    retries = 0

    for step in range(30_000):
        now = step * 0.01
        budget.deposit(now)
        retries += budget.withdraw(now)

    assert 6_000 <= retries <= 6_003


def test_a_full_share_lets_every_call_try_once_more() -> None:
    budget = RetryBudget(1.0)

    refused = 0
    for step in range(1000):
        budget.deposit(step * 0.1)
        refused += not budget.withdraw(step * 0.1)

    assert refused == 0


def test_without_a_floor_nothing_is_free() -> None:
    budget = RetryBudget(0.05, floor=0)

    assert not budget.withdraw(0.0)
    for _ in range(20):
        budget.deposit(100.0)
    assert spend(budget, 100.0) == 1


@given(
    ratio=st.integers(0, 100).map(lambda percent: percent / 100),
    steps=st.lists(st.tuples(st.booleans(), st.floats(0, 3)), max_size=300),
)
def test_spending_never_outruns_what_was_put_in(
    ratio: float, steps: list[tuple[bool, float]]
) -> None:
    budget = RetryBudget(ratio)
    now, calls, spent = 0.0, 0, 0

    for is_call, passed in steps:
        now += passed
        if is_call:
            budget.deposit(now)
            calls += 1
        else:
            spent += budget.withdraw(now)
        assert 0.0 <= budget.level(now) <= max(3.0, ratio * calls) + 1e-6

    assert spent <= 3 + ratio * calls + 0.3 * (now + 1.0) + 1e-6
