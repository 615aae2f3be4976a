"""Rates and permits against exact models, and the promise that no window is overspent."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from relay.admission.windows import MINUTE, Permits, RefundingBucket, TokenBucket, tick_of

START = 86_400_000
"""A monotonic clock of a machine that has been up for a day, milliseconds."""


class ExactBucket:
    """The rule by history: every call is charged, at the moment it began, with what is known of it now."""

    def __init__(self, limit: int, tick: int) -> None:
        self.events: list[tuple[int, str, int]] = [(tick, "limit", limit)]
        self.charges: list[int] = []

    def level(self, tick: int) -> Fraction:
        at, _, limit = self.events[0]
        level = Fraction(limit)
        for when, what, number in [*self.events[1:], (tick, "now", 0)]:
            level = min(level + Fraction((when - at) * limit, MINUTE), Fraction(limit))
            at = when
            if what == "limit":
                limit = number
                level = min(level, Fraction(limit))
            elif what == "call":
                level -= self.charges[number]
            elif what == "debt":
                level -= number
        return level

    def reserve(self, amount: int, tick: int) -> int | None:
        if amount and amount > self.level(tick):
            return None
        self.events.append((tick, "call", len(self.charges)))
        self.charges.append(amount)
        return len(self.charges) - 1

    def settle(self, call: int, amount: int, actual: int, tick: int) -> None:
        began = self.events.index(next(e for e in self.events if e[1:] == ("call", call)))
        if actual > amount:
            self.events.append((tick, "debt", actual - amount))
        elif not any(what == "limit" for _, what, _ in self.events[began:]):
            self.charges[call] = actual

    def relimit(self, limit: int, tick: int) -> None:
        self.events.append((tick, "limit", limit))


def reserve(bucket: TokenBucket, amount: int, tick: int) -> int | None:
    return None if bucket.lacks(amount, tick) else bucket.take(amount)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(0, 90_000)),
        st.tuples(st.just("wait"), st.integers(0, 2_000)),
        st.tuples(st.just("reserve"), st.integers(0, 60)),
        st.tuples(st.just("settle"), st.integers(0, 80)),
        st.tuples(st.just("relimit"), st.sampled_from([0, 1, 7, 50, 600])),
    ),
    max_size=60,
)


@given(limit=st.integers(1, 60), steps=steps)
def test_a_bucket_holds_what_it_would_if_it_had_known_the_actual_use_at_once(
    limit: int, steps: list[tuple[str, int]]
) -> None:
    tick = START
    bucket = RefundingBucket(limit)
    model = ExactBucket(limit, tick)
    open_calls: list[tuple[int, int, int]] = []
    in_debt = False

    for step, number in steps:
        if step == "wait":
            tick += number
        elif step == "reserve":
            before = model.level(tick)
            stamp = reserve(bucket, number, tick)
            call = model.reserve(number, tick)
            if stamp is not None:
                assert call is not None, "what time and refunds have brought is never exceeded"
                open_calls.append((stamp, call, number))
            else:
                assert call is None or in_debt, f"{before} would have held it"
                if call is not None:
                    model.events.pop()
                    model.charges.pop()
        elif step == "settle" and open_calls:
            stamp, call, amount = open_calls.pop(number % len(open_calls))
            bucket.settle(stamp, amount, number, tick)
            model.settle(call, amount, number, tick)
            in_debt = in_debt or number > amount
        elif step == "relimit":
            bucket.relimit(number, tick)
            model.relimit(number, tick)
        left = max(0, model.level(tick) // 1)
        # A debt is charged when it is known, which can only cost the key that made it.
        assert bucket.state(tick)[0] <= left
        assert in_debt or bucket.state(tick)[0] == left


calls = st.lists(
    st.tuples(
        st.one_of(st.just(0), st.integers(0, 3_000), st.integers(0, 70_000)),
        st.integers(1, 40),
        st.floats(0, 1),
        st.integers(0, 90_000),
    ),
    min_size=2,
    max_size=50,
)


@given(limit=st.integers(10, 100), calls=calls)
def test_no_window_is_overspent_whatever_is_refunded_and_when(
    limit: int, calls: list[tuple[int, int, float, int]]
) -> None:
    """Each call: gap before it, reservation, share really used, how long it runs."""
    bucket = RefundingBucket(limit)
    tick = START
    ends: list[tuple[int, int, int, int]] = []
    spent: list[tuple[int, int]] = []
    for gap, amount, share, runs in calls:
        tick += gap
        for end in sorted(end for end in ends if end[0] <= tick):
            bucket.settle(end[1], end[2], end[3], end[0])
        ends = [end for end in ends if end[0] > tick]
        stamp = reserve(bucket, amount, tick)
        if stamp is not None:
            actual = int(amount * share)
            ends.append((tick + runs, stamp, amount, actual))
            spent.append((tick, actual))

    for first in range(len(spent)):
        total = 0
        for at, actual in spent[first:]:
            total += actual
            assert total * MINUTE <= limit * (MINUTE + at - spent[first][0])


@given(limit=st.integers(1, 50), gaps=st.lists(st.integers(0, 4_000), max_size=150))
def test_requests_in_any_window_stay_below_limit_and_refill(limit: int, gaps: list[int]) -> None:
    bucket = TokenBucket(limit)
    tick = START
    admitted = []
    for gap in gaps:
        tick += gap
        stamp = reserve(bucket, 1, tick)
        if stamp is not None:
            bucket.settle(stamp, 1, 1, tick)
            admitted.append(tick)

    for first in range(len(admitted)):
        for count, at in enumerate(admitted[first:], 1):
            assert count * MINUTE <= limit * (MINUTE + at - admitted[first])


@given(st.integers(1, 1_000_000), st.integers(1, 1_000_000), st.integers(0, 59_999))
def test_the_promised_wait_is_the_first_moment_that_fits(limit: int, amount: int, gap: int) -> None:
    bucket = TokenBucket(limit)
    amount = min(amount, limit)
    assert reserve(bucket, limit, START) is not None
    tick = START + gap

    wait = bucket.wait(amount, tick)

    assert wait is not None
    ready = tick + round(wait * 1000)
    assert not bucket.lacks(amount, ready)
    assert wait == 0 or bucket.lacks(amount, ready - 1)


def test_a_full_burst_passes_at_once_and_then_one_per_interval() -> None:
    bucket = TokenBucket(10)

    burst = [reserve(bucket, 1, START) for _ in range(1000)]
    early = reserve(bucket, 1, START + 5_999)
    due = reserve(bucket, 1, START + 6_000)

    assert sum(stamp is not None for stamp in burst) == 10
    assert early is None
    assert due is not None


def test_a_call_larger_than_the_limit_is_told_that_no_wait_helps() -> None:
    bucket = TokenBucket(100)

    assert bucket.lacks(101, START)
    assert bucket.wait(101, START) is None


def test_a_limit_of_zero_admits_nothing_and_divides_by_nothing() -> None:
    bucket = TokenBucket(0)

    assert bucket.lacks(1, START)
    assert bucket.wait(1, START) is None
    assert bucket.state(START) == (0, 0)


def test_unused_tokens_come_back_at_once() -> None:
    bucket = RefundingBucket(100)
    assert reserve(bucket, 50, START) is not None
    stamp = reserve(bucket, 40, START + 10_000)
    assert stamp is not None
    before = bucket.state(START + 10_000)

    bucket.settle(stamp, 40, 5, START + 10_000)

    assert before == (26, 44_000)
    assert bucket.state(START + 10_000) == (61, 23_000)


def test_an_idle_keys_unused_tokens_come_back_although_the_bucket_was_full() -> None:
    bucket = RefundingBucket(1_000)
    stamp = reserve(bucket, 500, START)
    assert stamp is not None

    bucket.settle(stamp, 500, 300, START + 6_000)

    assert bucket.state(START + 6_000)[0] == 800, "700 left of the first moment, 100 by refill"


def test_a_refund_brings_back_nothing_that_would_have_spilled() -> None:
    bucket = RefundingBucket(100)
    first = reserve(bucket, 60, START)
    assert first is not None
    # Had the first call taken nothing, the bucket would have stayed full until the second.
    second = reserve(bucket, 40, START + 30_000)
    assert second is not None

    bucket.settle(first, 60, 0, START + 36_000)

    assert bucket.state(START + 36_000)[0] == 70, "100 - 40 + 10 by refill"


def test_a_bucket_with_very_many_running_calls_remembers_a_bounded_past() -> None:
    bucket = RefundingBucket(60_000)
    stamps = [reserve(bucket, 100, START + number) for number in range(500)]

    for number, stamp in enumerate(stamps):
        assert stamp is not None
        bucket.settle(stamp, 100, 0, START + 1_000 + number)

    assert len(bucket._lows) <= 65
    assert bucket.used(START + 1_500) >= 0


def test_a_call_that_used_more_than_it_reserved_leaves_a_debt() -> None:
    bucket = TokenBucket(60)
    stamp = reserve(bucket, 10, START)
    assert stamp is not None

    bucket.settle(stamp, 10, 90, START)

    assert bucket.state(START) == (0, 90_000)
    assert bucket.wait(1, START) == 31.0
    assert bucket.used(START) == 90


def test_a_debt_is_owed_even_when_the_refund_is_void() -> None:
    bucket = TokenBucket(60)
    stamp = reserve(bucket, 10, START)
    assert stamp is not None

    bucket.settle(stamp, 10, 40, START + 60_000)

    assert bucket.state(START + 60_000)[0] == 30


def test_a_clock_that_runs_back_brings_no_tokens() -> None:
    bucket = TokenBucket(10)
    for _ in range(10):
        reserve(bucket, 1, START)

    back = reserve(bucket, 1, START - 50_000)
    again = reserve(bucket, 1, START)

    assert back is None
    assert again is None


def test_a_bucket_is_at_rest_when_full() -> None:
    bucket = TokenBucket(10)
    reserve(bucket, 5, START)

    assert not bucket.at_rest(START + 29_999)
    assert bucket.at_rest(START + 30_000)


def test_exact_milliseconds_stay_exact() -> None:
    ticks = [tick_of(ms / 1000) for ms in range(10**9, 10**9 + 2000)]

    assert all(later - earlier == 1 for earlier, later in pairwise(ticks))


def test_permits_count_running_calls() -> None:
    permits = Permits(2)
    stamps = [permits.take(1) for _ in range(2)]

    full = permits.lacks(1)
    permits.settle(stamps[0], 1, 1)

    assert full
    assert not permits.lacks(1)
    assert permits.used() == 1
    assert permits.wait(1) == 1.0


def test_permits_of_a_lowered_limit_wait_for_running_calls() -> None:
    permits = Permits(3)
    for _ in range(3):
        permits.take(1)

    permits.relimit(1)
    permits.settle(0, 1, 1)
    permits.settle(0, 1, 1)
    still_full = permits.lacks(1)
    permits.settle(0, 1, 1)

    assert still_full
    assert not permits.lacks(1)
    assert permits.at_rest()
