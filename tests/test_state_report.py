"""Questions to the ledger: which calls count, and what they would have cost elsewhere."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.model import PriceConfig
from relay.pricing import Price
from relay.records import CallRecord
from relay.state import calls
from relay.state.calls import DAY_MS
from relay.state.report import Period, Question, Report, ask
from relay.usage import Usage
from tests.recorded import DAY, FIRST, KEYS, MODELS, PROPERTY, call, memory, recorded, summed

FIRST_MS = int(FIRST * 1000)
FIRST_DAY = FIRST_MS // DAY_MS

GPT = PriceConfig(input=2.00, cached_input=0.50, output=8.00)
CLAUDE = PriceConfig(input=3.00, output=15.00)
PEAK = PriceConfig.model_validate(
    {
        **{"input": 0.15, "cached_input": 0.003, "output": 0.60},
        "windows": [
            {
                **{"input": 0.30, "cached_input": 0.006, "output": 1.20},
                "days": ["mon", "tue", "wed", "thu", "fri"],
                "hours": ["01:00-04:00", "06:00-10:00"],
            }
        ],
    }
)


def by_hand(record: CallRecord, input: str, cached: str, output: str) -> int:
    """Nano-dollars, rounded up, from dollars per million tokens."""
    usage = record.usage
    if usage is None:
        return 0
    million = (
        (usage.input - usage.cached) * Decimal(input)
        + usage.cached * Decimal(cached)
        + usage.output * Decimal(output)
    )
    return int((million * 1000).to_integral_value(ROUND_CEILING))


def at_peak(record: CallRecord) -> bool:
    """FIRST is a Monday, and the calls are of Monday to Thursday."""
    hour = record.received % DAY / 3600
    return 1 <= hour < 4 or 6 <= hour < 10


def compared(records: list[CallRecord], *prices: PriceConfig) -> Report:
    with memory(records) as connection:
        return ask(connection, Question(("key",)), [Price.of(price) for price in prices])


@PROPERTY
@given(recorded())
def test_other_prices_are_those_of_decimals_by_hand_at_every_hour(
    records: list[CallRecord],
) -> None:
    report = compared(records, GPT, CLAUDE, PEAK)

    for key in KEYS:
        of_key = [record for record in records if record.key == key]
        if of_key:
            assert report.lines[key,].elsewhere == [
                sum(by_hand(record, "2.00", "0.50", "8.00") for record in of_key),
                # Without a price of their own cached tokens cost as the others.
                sum(by_hand(record, "3.00", "3.00", "15.00") for record in of_key),
                sum(
                    by_hand(record, "0.30", "0.006", "1.20")
                    if at_peak(record)
                    else by_hand(record, "0.15", "0.003", "0.60")
                    for record in of_key
                ),
            ]


@PROPERTY
@given(recorded())
def test_at_the_price_that_was_paid_the_same_calls_cost_the_same(
    records: list[CallRecord],
) -> None:
    price = Price.of(PEAK)
    for record in records:
        record.cost = 0 if record.usage is None else price.cost(record.usage, record.received)

    total = compared(records, PEAK).total

    assert total.elsewhere == ([total.cost] if records else [])


def test_of_old_calls_only_the_usual_price_is_told() -> None:
    monday_two_oclock = FIRST + 2 * 3600
    records = [
        call(1, received=monday_two_oclock, usage=Usage(1_000_000, 0)),
        call(2, received=monday_two_oclock + DAY, usage=Usage(1_000_000, 0)),
    ]
    with memory(records) as connection:
        calls.fold(connection, FIRST_DAY + 1, 100)
        report = ask(connection, Question(("day",)), [Price.of(PEAK)])

        assert report.summed == FIRST_DAY
        assert report.lines[FIRST_DAY,].elsewhere == [150_000_000]
        assert report.lines[FIRST_DAY + 1,].elsewhere == [300_000_000]


@PROPERTY
@given(
    recorded(),
    st.integers(0, 4 * DAY_MS),
    st.integers(0, 4 * DAY_MS),
    st.sampled_from((None, *KEYS)),
)
def test_a_period_is_exact_to_the_millisecond(
    records: list[CallRecord], since: int, length: int, key: str | None
) -> None:
    period = Period(FIRST_MS + since, FIRST_MS + since + length)
    assert period.since is not None and period.until is not None
    with memory(records) as connection:
        report = ask(connection, Question(("model",), period, key))

        wanted = [
            record
            for record in records
            if period.since <= int(record.received * 1000) < period.until
            and key in (None, record.key)
        ]
        assert report.lines == summed(wanted, "model")
        assert report.whole_days == []


@PROPERTY
@given(recorded(), st.sampled_from(MODELS), st.integers(0, 4))
def test_whole_days_of_old_calls_can_be_asked_for(
    records: list[CallRecord], model: str, day: int
) -> None:
    start = FIRST_DAY + day
    with memory(records) as connection:
        while calls.fold(connection, FIRST_DAY + 9, 100):
            pass
        period = Period(start * DAY_MS, (start + 1) * DAY_MS)
        report = ask(connection, Question(("key",), period, model=model))

        wanted = [
            record
            for record in records
            if int(record.received * 1000) // DAY_MS == start and record.served_model == model
        ]
        assert report.total.calls == len(wanted)
        assert report.total.cost == sum(record.cost for record in wanted)
        assert report.whole_days == []


@pytest.mark.parametrize("until", [False, True])
def test_a_period_that_cuts_a_summed_day_counts_all_of_it_and_says_so(until: bool) -> None:
    noon = FIRST_MS + DAY_MS // 2
    with memory([call(1, cost=3), call(2, cost=4, received=FIRST + 80_000)]) as connection:
        calls.fold(connection, FIRST_DAY + 1, 100)
        period = Period(None, noon) if until else Period(noon, None)
        report = ask(connection, Question(("key",), period))

        assert report.total.cost == 7
        assert report.whole_days == [FIRST_DAY]


@pytest.mark.parametrize("question", [{"key": "nobody"}, {"model": "none"}])
def test_of_whom_nothing_is_known_there_is_nothing(question: dict[str, str]) -> None:
    with memory([call(1)]) as connection:
        report = ask(connection, Question(("key",), **question))  # type: ignore[arg-type]

        assert report.lines == {}
        assert report.first is None
