"""The line in front of a full account: whose turn it is, who is woken, what a wait is predicted to be."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.upstream.account import Account
from relay.upstream.directory import Directory
from relay.upstream.endpoint import Endpoint
from relay.upstream.queue import Queue, Ticket
from relay.upstream.verdicts import Verdict


class Loop:
    """Runs what was put off when the test says so."""

    def __init__(self) -> None:
        self.ready: list[Callable[[], None]] = []

    def soon(self, act: Callable[[], None]) -> None:
        self.ready.append(act)

    def turn(self) -> None:
        ready, self.ready = self.ready, []
        for act in ready:
            act()


class Place:
    """An account with a limit, its queue, and its calls under way."""

    def __init__(self, most: int = 1, max_calls: int = 1000, name: str = "a") -> None:
        self.loop = Loop()
        self.endpoint = Directory(rng=Random(1)).endpoint(
            upstream=name, base_url="http://192.0.2.1/v1", max_concurrent=most
        )
        self.account: Account = self.endpoint.account
        self.queue = Queue(self.account, self.loop.soon)
        self.queue.max_calls = max_calls
        self.account.queue = self.queue
        self.now = 0.0
        self.served: list[str] = []

    def fill(self) -> None:
        while self.account.inflight < self.endpoint.ceiling:
            self.endpoint.begin(self.now)

    def wait(self, key: str, weight: float = 1) -> Call:
        call = Call(self, key, weight, [self.endpoint])
        call.entered = call.ticket.enter()
        return call

    def free(self, after: float = 1.0) -> None:
        """A call under way ends, and whoever has the turn begins."""
        self.now += after
        self.endpoint.end(self.now, Verdict.OK)
        self.loop.turn()


class Call:
    def __init__(self, place: Place, key: str, weight: float, endpoints: list[Endpoint]) -> None:
        self.place = place
        self.key = key
        self.ticket = Ticket(self, key, weight, endpoints)
        self.entered = False
        self.uses = True
        """Whether it begins something when its turn comes."""
        self.woken = 0

    def place_came(self) -> None:
        self.woken += 1
        self.ticket.take()
        if self.uses:
            self.place.endpoint.begin(self.place.now)
            self.place.served.append(self.key)
        self.ticket.done()


def test_calls_of_one_key_are_served_in_the_order_in_which_they_came() -> None:
    place = Place()
    place.fill()
    calls = [place.wait("k") for _ in range(3)]
    for number in range(3):
        place.free()

        assert [call.woken for call in calls] == [1] * (number + 1) + [0] * (2 - number)
    assert place.queue.waiting == 0


def test_a_quiet_key_is_next_however_many_calls_a_busy_one_has() -> None:
    place = Place()
    place.fill()
    for _ in range(1000):
        place.wait("busy")
    for _ in range(10):
        place.free()
    place.wait("quiet")
    place.free()

    assert place.served == ["busy"] * 10 + ["quiet"]


def test_keys_take_turns_by_their_weights() -> None:
    place = Place()
    place.fill()
    for _ in range(60):
        place.wait("a", 1)
        place.wait("b", 2)
        place.wait("c", 3)
    for _ in range(60):
        place.free()

    assert [place.served.count(key) for key in "abc"] == [10, 20, 30]
    assert [place.served[:12].count(key) for key in "abc"] == [2, 4, 6], "without clumps"


def test_a_key_that_was_silent_has_saved_nothing_up() -> None:
    place = Place()
    place.fill()
    place.wait("late")
    for _ in range(100):
        place.wait("busy")
    for _ in range(51):
        place.free()
    for _ in range(20):
        place.wait("late")
    place.served.clear()
    for _ in range(20):
        place.free()

    assert place.served.count("late") == 10


def test_leaving_and_coming_back_gains_nothing() -> None:
    place = Place()
    place.fill()
    for _ in range(50):
        place.wait("honest")
        place.wait("other")
    place.served.clear()
    for _ in range(30):
        # One call at a time, so that its row is empty whenever it has been served.
        if place.served[-1:] in ([], ["sly"]):
            place.wait("sly")
        place.free()

    assert 9 <= place.served.count("sly") <= 11


def test_a_place_is_held_for_the_woken_call_and_no_newcomer_takes_it() -> None:
    place = Place()
    place.fill()
    call = place.wait("k")
    place.endpoint.end(1.0, Verdict.OK)

    assert call.woken == 0, "never inside somebody else's last act"
    assert place.account.inflight == place.endpoint.ceiling, "a newcomer finds it full"
    place.loop.turn()
    assert call.woken == 1
    assert place.account.inflight == 1


def test_a_place_that_is_not_used_goes_to_the_next() -> None:
    place = Place()
    place.fill()
    first, second = place.wait("a"), place.wait("b")
    first.uses = False
    place.free()
    place.loop.turn()

    assert (first.woken, second.woken) == (1, 1)
    assert place.served == ["b"]


def test_a_call_that_left_with_a_place_in_its_hand_gives_it_back() -> None:
    place = Place()
    place.fill()
    first, second = place.wait("a"), place.wait("b")
    place.endpoint.end(1.0, Verdict.OK)
    first.ticket.leave()
    place.loop.turn()

    assert (first.woken, second.woken) == (0, 1)
    assert place.account.inflight == 1


def test_a_call_that_left_is_passed_over() -> None:
    place = Place()
    place.fill()
    first, second, third = place.wait("a"), place.wait("a"), place.wait("b")
    first.ticket.leave()
    first.ticket.leave()
    assert place.queue.waiting == 2
    place.free()
    place.free()

    assert (first.woken, second.woken, third.woken) == (0, 1, 1)
    assert place.queue.waiting == 0


def test_no_more_wait_than_may() -> None:
    place = Place(max_calls=2)
    place.fill()

    assert [place.wait("k").entered for _ in range(3)] == [True, True, False]


def test_a_call_may_stand_in_two_lines_and_takes_the_first_place() -> None:
    one, two = Place(name="one"), Place(name="two")
    one.fill()
    two.fill()
    call = Call(two, "k", 1, [one.endpoint, two.endpoint])
    assert call.ticket.enter()
    assert (one.queue.waiting, two.queue.waiting) == (1, 1)
    two.free()

    assert call.woken == 1
    assert (one.queue.waiting, two.queue.waiting) == (0, 0)


def test_more_room_wakes_as_many_as_there_is_room_for() -> None:
    place = Place(most=1)
    place.fill()
    calls = [place.wait("k") for _ in range(5)]
    place.endpoint.max_concurrent = 4
    place.endpoint.bound()
    place.loop.turn()

    assert [call.woken for call in calls] == [1, 1, 1, 0, 0]


def test_a_wait_is_predicted_from_the_turns_before_it_and_the_pace() -> None:
    place = Place()
    place.fill()
    assert place.queue.expected("k", 1, 0.0) is None
    for _ in range(30):
        place.wait("busy")
    for _ in range(20):
        place.free(after=2.0)

    assert place.queue.waiting == 10
    # Eleven turns for one more call of the busy key, two at most for somebody else.
    assert place.queue.expected("busy", 1, place.now) == pytest.approx(22.0)
    assert place.queue.expected("quiet", 1, place.now) == pytest.approx(4.0)
    assert place.queue.expected("quiet", 4, place.now) == pytest.approx(2.0)


def test_a_pace_that_has_stopped_is_not_believed() -> None:
    place = Place()
    place.fill()
    for _ in range(5):
        place.wait("k")
    for _ in range(3):
        place.free(after=0.1)

    assert (place.queue.expected("q", 1, place.now + 60) or 0) > 50


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("wflu")), max_size=200))
def test_whatever_happens_no_place_is_lost_or_given_twice(steps: list[tuple[str, str]]) -> None:
    place = Place(most=2)
    place.fill()
    calls: list[Call] = []
    for key, step in steps:
        if step == "w" and place.account.inflight < 2:
            place.endpoint.begin(place.now)
        elif step == "w":
            calls.append(place.wait(key))
        elif step == "f" and place.account.inflight:
            place.free()
        elif step == "l" and calls:
            calls.pop(len(calls) // 2).ticket.leave()
        elif step == "u" and calls:
            calls[-1].uses = not calls[-1].uses
        place.loop.turn()

        under_way = place.endpoint.inflight
        assert place.account.inflight == under_way <= 2
        assert not place.queue.waiting or under_way == 2
        rows = sum(len(flow.row) for flow in place.queue._flows.values())
        assert rows == place.queue.waiting == sum(not call.ticket.over for call in calls)
