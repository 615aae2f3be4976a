"""How an endpoint that was left alone comes back: by one probe at a time. Times are numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.upstream.breaker import State
from tests.breakers import Rig


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
