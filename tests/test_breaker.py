"""When an endpoint is left alone, and for how long. Times are numbers."""

from __future__ import annotations

import pytest

from relay.upstream.breaker import State
from tests.breakers import Rig


def test_five_failures_in_a_row_open_it() -> None:
    rig = Rig()

    moved = [rig.fail(1.0) for _ in range(5)]

    assert moved == [False, False, False, False, True]
    assert rig.breaker.state is State.OPEN
    assert rig.breaker.reason == "5 failures in a row"


def test_a_success_ends_a_run() -> None:
    rig = Rig()

    for _ in range(4):
        rig.fail(1.0)
    rig.succeed(1.0)
    for _ in range(4):
        rig.fail(1.0)

    assert rig.breaker.state is State.CLOSED


def test_fewer_than_eighty_percent_of_ten_open_it_without_a_run() -> None:
    rig = Rig()
    for _ in range(2):
        rig.fail(1.0)
        rig.succeed(1.0)
    for _ in range(5):
        rig.succeed(2.0)

    rig.fail(3.0)

    assert rig.breaker.state is State.OPEN
    assert rig.breaker.reason == "3 of 10 attempts failed within 30 s"


def test_exactly_eighty_percent_keep_it_closed() -> None:
    rig = Rig()

    for _ in range(50):
        for _ in range(4):
            rig.succeed(1.0)
        rig.fail(1.0)

    assert rig.breaker.state is State.CLOSED


def test_nine_verdicts_are_too_few_for_a_share() -> None:
    rig = Rig()
    for _ in range(5):
        rig.succeed(1.0)

    for _ in range(4):
        rig.fail(1.0)

    assert rig.breaker.state is State.CLOSED


def test_verdicts_older_than_the_window_are_forgotten() -> None:
    rig = Rig()
    for _ in range(40):
        rig.succeed(0.0)

    opened = []
    for second in range(31, 40):
        rig.succeed(float(second))
        opened.append(rig.fail(float(second)))
        if opened[-1]:
            break

    # With the forty successes it would have taken eleven failures.
    assert opened == [False, False, False, False, True]
    assert rig.breaker.reason == "5 of 10 attempts failed within 30 s"


def test_a_long_window_forgets_slot_by_slot() -> None:
    rig = Rig()
    for second in range(60):
        rig.succeed(float(second))

    failed, opened = 0, False
    while not opened:
        rig.succeed(59.0)
        opened = rig.fail(59.0)
        failed += 1

    # About thirty successes are within the window: eight to eleven failures are more than a fifth of all.
    assert 8 <= failed <= 11


def test_flapping_is_found_though_no_run_is_long() -> None:
    rig = Rig()

    opened = False
    for step in range(40):
        if step % 3 == 2:
            opened = rig.fail(step * 0.5)
        else:
            rig.succeed(step * 0.5)
        if opened:
            break

    assert opened
    assert rig.breaker.reason == "4 of 12 attempts failed within 30 s"


def test_being_throttled_is_no_strike_while_closed() -> None:
    rig = Rig()

    for _ in range(100):
        rig.throttle(1.0)

    assert rig.breaker.state is State.CLOSED
    for _ in range(4):
        rig.fail(1.0)
    assert rig.breaker.state is State.CLOSED


# -- for how long --


@pytest.mark.parametrize(("drawn", "seconds"), [(0.0, 2.5), (0.5, 3.75), (1.0, 5.0)])
def test_the_first_ejection_lasts_five_seconds_with_equal_jitter(
    drawn: float, seconds: float
) -> None:
    rig = Rig(drawn)

    rig.trip(now=100.0)

    assert rig.breaker.until == 100.0 + seconds
    assert not rig.breaker.admits(99.9 + seconds)
    assert rig.breaker.admits(100.0 + seconds)


def test_each_failed_probe_doubles_the_ejection_up_to_a_minute() -> None:
    rig = Rig(drawn=1.0)
    rig.trip(now=0.0)

    lengths = []
    for _ in range(6):
        now = rig.breaker.until
        rig.fail(now)
        lengths.append(rig.breaker.until - now)

    assert lengths == [10.0, 20.0, 40.0, 60.0, 60.0, 60.0]
    assert rig.breaker.tripped_at == 0.0


def test_failures_of_the_last_member_do_not_prolong_its_ejection() -> None:
    rig = Rig(drawn=1.0)
    rig.trip(now=0.0)

    for _ in range(20):
        rig.fail(1.0)

    assert rig.breaker.until == 5.0


def test_an_ejection_soon_after_a_recovery_is_longer_and_a_late_one_is_not() -> None:
    rig = Rig(drawn=1.0)
    rig.trip(now=0.0)
    rig.succeed(5.0)
    for _ in range(5):
        rig.fail(6.0)
    soon = rig.breaker.until - 6.0
    rig.succeed(16.0)
    for _ in range(5):
        rig.fail(100.0)
    late = rig.breaker.until - 100.0

    assert (soon, late) == (10.0, 5.0)


# -- outrun by hedges --


def outrun(rig: Rig, now: float) -> bool:
    return rig.breaker.outrun(now, rig.begin(now), rig.latest)


def test_a_row_of_attempts_that_hedges_outran_opens_it() -> None:
    rig = Rig()

    moved = [outrun(rig, 1.0) for _ in range(5)]

    assert moved == [False, False, False, False, True]
    assert rig.breaker.state is State.OPEN
    assert rig.breaker.reason == "5 attempts in a row were silent, and outrun"


def test_however_many_are_outrun_one_that_brings_a_token_in_between_keeps_it_closed() -> None:
    rig = Rig()

    for _ in range(100):
        for _ in range(4):
            assert not outrun(rig, 1.0)
        rig.breaker.outrun_row = 0  # as `Endpoint.committed` says
        rig.succeed(1.0)

    assert rig.breaker.state is State.CLOSED


def test_a_probe_that_is_outrun_has_failed_and_a_straggler_proves_nothing() -> None:
    rig = Rig()
    straggler = rig.begin(0.0)
    rig.trip(0.0)
    probe = rig.begin(6.0)

    late = rig.breaker.outrun(6.0, straggler, rig.latest)
    moved = rig.breaker.outrun(6.5, probe, rig.latest)

    assert (late, moved) == (False, True)
    assert rig.breaker.state is State.OPEN
