"""Prices: integers all the way, by the hour at which a call started."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from relay.config.model import PriceConfig
from relay.pricing import Price
from relay.usage import Usage

MONDAY_NOON = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()
PEAK = {
    "days": ["mon", "tue", "wed", "thu", "fri"],
    "hours": ["01:00-04:00", "06:00-10:00"],
    "except_dates": ["2026-11-26"],
    "input": 0.30,
    "cached_input": 0.006,
    "output": 1.20,
}


def price(**fields: object) -> Price:
    return Price.of(PriceConfig.model_validate({"input": 0.15, "output": 0.60} | fields))


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_a_dollar_per_million_is_a_thousand_nano_dollars_a_token() -> None:
    made = price(input=1, output=2)

    assert made.cost(Usage(3, 5), MONDAY_NOON) == 3 * 1000 + 5 * 2000


def test_prices_are_the_decimals_that_were_written() -> None:
    made = price(input=0.27, cached_input=0.07, output=0.42)

    cost = made.cost(Usage(1_000_000, 1_000_000, 400_000), MONDAY_NOON)

    assert cost == 600_000 * 270 + 400_000 * 70 + 1_000_000 * 420


def test_cached_tokens_are_part_of_the_input_and_cost_as_input_without_a_price_of_their_own() -> (
    None
):
    dear = price()
    cheap = price(cached_input=0.003)

    assert dear.cost(Usage(10, 0, 10), MONDAY_NOON) == dear.cost(Usage(10, 0), MONDAY_NOON)
    assert cheap.cost(Usage(10, 0, 10), MONDAY_NOON) == 30


def test_more_cached_tokens_than_input_are_an_upstreams_mistake_and_cost_no_more() -> None:
    made = price(cached_input=0.003)

    assert made.cost(Usage(10, 0, 99), MONDAY_NOON) == 30


def test_a_price_below_one_nano_dollar_a_token_still_counts() -> None:
    made = price(input=0.0005, output=0)

    assert made.cost(Usage(1, 0), MONDAY_NOON) == 1
    assert made.cost(Usage(1_000, 0), MONDAY_NOON) == 500


def test_the_usual_price_is_that_outside_all_windows() -> None:
    made = price(windows=[PEAK])
    peak = at("2026-11-23T02:00:00")

    assert made.cost(Usage(1000, 1000), peak) == 2 * made.usual(Usage(1000, 1000))
    assert made.usual(Usage(1000, 1000)) == price().cost(Usage(1000, 1000), peak)


def test_peak_hours_have_their_own_prices_from_their_start_to_before_their_end() -> None:
    made = price(windows=[PEAK])
    told = {
        "2026-11-23T00:59:59": 150,  # Monday
        "2026-11-23T01:00:00": 300,
        "2026-11-23T03:59:59": 300,
        "2026-11-23T04:00:00": 150,
        "2026-11-27T09:59:59": 300,  # Friday
        "2026-11-28T02:00:00": 150,  # Saturday
        "2026-11-26T02:00:00": 150,  # a holiday
    }

    assert {when: made.cost(Usage(1, 0), at(when)) for when in told} == told


def test_hours_over_midnight_belong_to_the_day_on_which_they_begin() -> None:
    night = {"days": ["fri"], "hours": ["22:00-02:00"], "input": 1, "output": 1}
    made = price(windows=[night])
    told = {
        "2026-11-27T21:59:59": 150,  # Friday
        "2026-11-27T22:00:00": 1000,
        "2026-11-28T01:59:59": 1000,  # Saturday
        "2026-11-28T02:00:00": 150,
        "2026-11-27T01:00:00": 150,
    }

    assert {when: made.cost(Usage(1, 0), at(when)) for when in told} == told


def test_the_first_of_two_windows_that_fit_counts() -> None:
    whole_day = {"input": 9, "output": 9}
    made = price(windows=[PEAK, whole_day])

    assert made.cost(Usage(1, 0), at("2026-11-23T02:00:00")) == 300
    assert made.cost(Usage(1, 0), at("2026-11-23T05:00:00")) == 9000


amounts = st.integers(0, 10**9)
rates = st.integers(0, 10**6).map(lambda millionths: millionths / 1000)


@given(amounts, amounts, amounts, rates, rates, rates)
def test_a_cost_is_exact_and_rounded_up_once(
    total: int, output: int, cached: int, each: float, each_cached: float, each_output: float
) -> None:
    cached = min(cached, total)
    made = price(input=each, cached_input=each_cached, output=each_output)

    cost = made.cost(Usage(total, output, cached), MONDAY_NOON)

    exact = 1000 * (
        (total - cached) * Fraction(repr(each))
        + cached * Fraction(repr(each_cached))
        + output * Fraction(repr(each_output))
    )
    assert 0 <= cost - exact < 1


@given(amounts, amounts, amounts, st.integers(0, 86_400 * 14), rates)
def test_no_call_costs_more_than_the_worst_case_of_its_bounds(
    total: int, output: int, cached: int, seconds: int, each_cached: float
) -> None:
    made = price(cached_input=each_cached, windows=[PEAK])

    cost = made.cost(Usage(total, output, min(cached, total)), MONDAY_NOON + seconds)

    assert cost <= made.worst(total, output)
