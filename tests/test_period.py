"""Budgets of a day and of a month: what they hold, and when a new one starts."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.admission.period import Period, end_of_day, end_of_month


def unix(year: int, month: int, day: int, hour: int = 0, second: int = 0) -> float:
    return datetime(year, month, day, hour, tzinfo=UTC).timestamp() + second


MAY = unix(2026, 5, 10)


def test_a_budget_holds_the_worst_case_and_then_the_real_use() -> None:
    budget = Period(100, end_of_month)
    assert not budget.lacks(70, 0, MAY)
    stamp = budget.take(70)

    held = budget.lacks(31, 0, MAY)
    budget.settle(stamp, 70, 20)

    assert held
    assert budget.used(0, MAY) == 20
    assert not budget.lacks(80, 0, MAY)
    assert budget.lacks(81, 0, MAY)


def test_a_new_period_starts_with_the_whole_budget() -> None:
    budget = Period(100, end_of_day)
    budget.lacks(100, 0, MAY)
    stamp = budget.take(100)
    budget.settle(stamp, 100, 100)

    today = budget.lacks(1, 0, MAY + 86_399)
    tomorrow = budget.lacks(100, 0, MAY + 86_400)

    assert today
    assert not tomorrow


def test_a_call_is_settled_into_the_period_that_admitted_it() -> None:
    budget = Period(100, end_of_day)
    budget.lacks(60, 0, MAY)
    stamp = budget.take(60)
    budget.lacks(100, 0, MAY + 86_400)
    budget.take(10)

    budget.settle(stamp, 60, 55)

    assert budget.used(0, MAY + 86_400) == 10


@pytest.mark.parametrize("back", [3600, 86_400, 31 * 86_400])
def test_a_wall_clock_that_is_set_back_gets_no_fresh_budget(back: int) -> None:
    budget = Period(100, end_of_day)
    budget.lacks(100, 0, MAY)
    budget.settle(budget.take(100), 100, 100)

    assert budget.lacks(1, 0, MAY - back)
    assert budget.lacks(1, 0, MAY)


@pytest.mark.parametrize(
    ("wall", "day", "month"),
    [
        (unix(2026, 5, 10, 12), unix(2026, 5, 11), unix(2026, 6, 1)),
        (unix(2026, 5, 10), unix(2026, 5, 11), unix(2026, 6, 1)),
        (unix(2026, 12, 31, 23, 3599), unix(2027, 1, 1), unix(2027, 1, 1)),
        (unix(2028, 2, 29, 23), unix(2028, 3, 1), unix(2028, 3, 1)),
        (unix(2026, 3, 29, 1, 1800), unix(2026, 3, 30), unix(2026, 4, 1)),
    ],
)
def test_periods_end_by_the_utc_calendar(wall: float, day: float, month: float) -> None:
    assert end_of_day(wall) == day
    assert end_of_month(wall) == month


@given(st.lists(st.tuples(st.sampled_from(["take", "settle", "wait"]), st.integers(0, 50))))
def test_spent_and_held_never_pass_the_budget(steps: list[tuple[str, int]]) -> None:
    budget = Period(100, end_of_day)
    wall = MAY
    held: list[tuple[int, int, float]] = []
    spent: dict[float, int] = {}
    for step, number in steps:
        if step == "wait":
            wall += number * 1000
        elif step == "take" and not budget.lacks(number, 0, wall):
            held.append((budget.take(number), number, wall // 86_400))
        elif step == "settle" and held:
            stamp, amount, day = held.pop(number % len(held))
            actual = min(amount, number)
            budget.settle(stamp, amount, actual)
            spent[day] = spent.get(day, 0) + actual
        today = wall // 86_400
        held_today = sum(amount for _, amount, day in held if day == today)
        assert budget.used(0, wall) == spent.get(today, 0) + held_today
        assert 0 <= budget.used(0, wall) <= 100
