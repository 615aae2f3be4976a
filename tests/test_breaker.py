"""When an endpoint is left alone, for how long, and how it comes back. Times are numbers."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.upstream.breaker import Breaker, State


class Fixed(Random):
    """Draws always the same."""

    def __init__(self, drawn: float) -> None:
        super().__init__()
        self._drawn = drawn

    def random(self) -> float:
        return self._drawn


class Rig:
    """A breaker and the tickets of its attempts, as an endpoint gives them out."""

    def __init__(self, drawn: float = 0.0) -> None:
        self.breaker = Breaker(Fixed(drawn))
        self.latest = 0

    def begin(self, now: float) -> int:
        self.latest += 1
        self.breaker.begin(now, self.latest)
        return self.latest

    def succeed(self, now: float, ticket: int | None = None) -> bool:
        return self.breaker.succeeded(now, ticket or self.begin(now), self.latest)

    def fail(self, now: float, ticket: int | None = None) -> bool:
        return self.breaker.failed(now, ticket or self.begin(now), self.latest)

    def throttle(self, now: float, ticket: int | None = None) -> bool:
        return self.breaker.throttled(now, ticket or self.begin(now), self.latest)

    def finish(self, action: str, now: float, ticket: int) -> None:
        if action == "ok":
            self.succeed(now, ticket)
        elif action == "fail":
            self.fail(now, ticket)
        elif action == "throttle":
            self.throttle(now, ticket)
        else:
            self.breaker.given_back(now, ticket)

    def trip(self, now: float = 0.0) -> None:
        for _ in range(5):
            self.fail(now)
        assert self.breaker.state is State.OPEN


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


def test_it_lets_one_probe_through_and_no_more() -> None:
    rig = Rig()
    rig.trip()
    now = rig.breaker.until

    assert rig.breaker.admits(now)
    rig.begin(now)

    assert rig.breaker.state is State.HALF_OPEN
    assert not rig.breaker.admits(now)
    assert not rig.breaker.admits(now + 1000)


def test_a_probe_that_succeeds_closes_it() -> None:
    rig = Rig()
    rig.trip()
    probe = rig.begin(rig.breaker.until)

    moved = rig.succeed(10.0, probe)

    assert moved
    assert rig.breaker.state is State.CLOSED
    for _ in range(4):
        rig.fail(11.0)
    assert rig.breaker.state is State.CLOSED


def test_a_probe_that_is_throttled_has_failed() -> None:
    rig = Rig(drawn=1.0)
    rig.trip()
    probe = rig.begin(5.0)

    moved = rig.throttle(6.0, probe)

    assert moved
    assert rig.breaker.state is State.OPEN
    assert rig.breaker.until == 16.0


def test_being_throttled_is_no_strike_while_closed() -> None:
    rig = Rig()

    for _ in range(100):
        rig.throttle(1.0)

    assert rig.breaker.state is State.CLOSED
    for _ in range(4):
        rig.fail(1.0)
    assert rig.breaker.state is State.CLOSED


def test_a_probe_whose_client_left_is_given_back() -> None:
    rig = Rig()
    rig.trip()
    probe = rig.begin(5.0)

    moved = rig.breaker.given_back(6.0, probe)

    assert moved
    assert rig.breaker.admits(6.0)
    rig.begin(6.0)
    assert rig.breaker.state is State.HALF_OPEN


def test_stragglers_of_before_the_ejection_prove_nothing() -> None:
    rig = Rig()
    old = [rig.begin(0.0) for _ in range(4)]
    rig.trip()

    assert not rig.succeed(1.0, old[0])
    assert not rig.fail(1.0, old[1])
    probe = rig.begin(5.0)
    assert not rig.succeed(6.0, old[2])
    assert not rig.fail(6.0, old[3])
    assert not rig.breaker.given_back(6.0, old[3])

    assert rig.breaker.state is State.HALF_OPEN
    assert rig.succeed(7.0, probe)


def test_stragglers_of_before_the_recovery_do_not_strike_after_it() -> None:
    rig = Rig()
    rig.trip()
    bypassing = [rig.begin(1.0) for _ in range(6)]
    rig.succeed(5.0, rig.begin(5.0))

    for ticket in bypassing:
        rig.fail(6.0, ticket)

    assert rig.breaker.state is State.CLOSED


def test_a_success_of_the_last_member_closes_it_before_its_probe_is_due() -> None:
    rig = Rig()
    rig.trip(now=0.0)
    bypassing = rig.begin(0.1)

    moved = rig.succeed(0.2, bypassing)

    assert moved
    assert rig.breaker.state is State.CLOSED


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


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["begin", "ok", "fail", "throttle", "none"]),
            st.integers(0, 9),
            st.floats(0, 4),
        ),
        max_size=200,
    )
)
def test_there_is_never_more_than_one_probe_and_it_always_comes_back(
    steps: list[tuple[str, int, float]],
) -> None:
    rig = Rig()
    breaker = rig.breaker
    now, under_way, probes = 0.0, list[int](), set[int]()

    for action, which, passed in steps:
        now += passed
        if action == "begin" or not under_way:
            was_open = breaker.state is State.OPEN
            ticket = rig.begin(now)
            under_way.append(ticket)
            if was_open and breaker.state is State.HALF_OPEN:
                assert not probes, "a second probe"
                probes.add(ticket)
        else:
            ticket = under_way.pop(which % len(under_way))
            rig.finish(action, now, ticket)
            if breaker.state is not State.HALF_OPEN:
                probes.clear()
        if breaker.state is State.HALF_OPEN:
            assert probes <= set(under_way), "half-open without a probe under way"
            assert probes

    assert breaker.state is not State.OPEN or breaker.admits(now + 60.0)


# -- questions: probes that are no attempts --


def ask(rig: Rig) -> int:
    rig.latest += 1
    rig.breaker.ask(rig.latest, "is asked")
    return rig.latest


def test_while_somebody_asks_no_attempt_is_admitted_or_becomes_the_probe() -> None:
    rig = Rig()
    rig.breaker.watched = True
    rig.trip(0.0)
    due = rig.breaker.until

    admitted = rig.breaker.admits(due)
    ticket = rig.begin(due)  # the last of a pool is used all the same
    failed = rig.fail(due, ticket)

    assert (admitted, failed) == (False, False)
    assert (rig.breaker.state, rig.breaker.until) == (State.OPEN, due)
    assert rig.succeed(due, rig.begin(due)), "what brings content is back, whoever asks"


def test_a_good_answer_closes_and_a_bad_one_ejects_for_longer() -> None:
    rig = Rig()
    rig.trip(0.0)
    first = rig.breaker.until

    bad = rig.breaker.answered(first, ask(rig), rig.latest, "503")
    second, reason = rig.breaker.until - first, rig.breaker.reason
    good = rig.breaker.answered(first + 1.0, ask(rig), rig.latest, "")

    assert (bad, good) == (True, True)
    assert second == 2 * first
    assert reason == "the probe failed: 503"
    assert (rig.breaker.state, rig.breaker.closed_at) == (State.CLOSED, first + 1.0)


@pytest.mark.parametrize("fault", ["", "503"])
def test_an_answer_that_comes_after_the_state_has_moved_changes_nothing(fault: str) -> None:
    rig = Rig()
    rig.trip(0.0)
    question = ask(rig)
    rig.succeed(6.0)

    moved = rig.breaker.answered(7.0, question, rig.latest, fault)

    assert not moved
    assert (rig.breaker.state, rig.breaker.closed_at) == (State.CLOSED, 6.0)


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
