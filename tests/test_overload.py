"""When a process is short of something, told the facts by the test: what begins, what ends, who is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest

from relay.overload import (
    CROWD,
    IN_TIME,
    LATE,
    LEAST,
    LEAST_IDLE,
    LONG_WAIT,
    MEMORY_PRESSED,
    MEMORY_SHORT,
    MEMORY_SLACK,
    PERSISTS,
    PRESSED_IDLE,
    RESERVED,
    SHORT_WAIT,
    UNREADY,
    Change,
    Overload,
)

BEAT = 0.25
TICK = 0.02
FILES = 10_000
PLENTY = 5_000
"""Free descriptors."""


class Process:
    """A process and its clock: what it is short of is what the test says."""

    def __init__(self, files: int = FILES) -> None:
        self.overload = Overload(files)
        self.now = 100.0
        self.connections = 10
        self.calls = 100
        self.files = PLENTY
        self.memory = 0.0
        self.changes: list[Change] = []
        self.beaten = self.now

    def beat(self) -> None:
        self.now = max(self.now, self.beaten + BEAT)
        self.beaten = self.now
        self.changes += self.overload.beat(
            self.now, self.connections, self.calls, self.files, self.memory
        )

    def turn(self, seconds: float, turns: int = 1) -> None:
        """So many turns of the loop that take so long each, with a beat every quarter of a second."""
        for _ in range(turns):
            self.now += max(seconds, TICK)
            self.overload.tick(max(0.0, seconds - TICK), self.now)
            if self.now - self.beaten >= BEAT:
                self.beat()

    def let_in(self, calls: int = 1000) -> int:
        """Of so many new calls."""
        if not self.overload.shedding:
            return calls
        return sum(self.overload.refuses(self.calls) is None for _ in range(calls))

    def told(self) -> list[tuple[str, bool]]:
        return [(change.what, change.began) for change in self.changes]


# --- connections ----------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [64, 256, 1024, 20_000, 1 << 20, 1 << 30])
def test_the_cap_leaves_a_descriptor_for_each_ones_upstream_and_some_for_the_rest(
    files: int,
) -> None:
    overload = Overload(files)

    assert 0 < overload.cap < files / 2
    assert 2 * overload.cap + min(RESERVED, files // 4) <= files
    assert 1 <= overload.most_turned <= overload.reserved


def test_one_more_connection_than_the_cap_is_one_too_many() -> None:
    overload = Process().overload

    assert not overload.is_full(overload.cap)
    assert overload.is_full(overload.cap + 1)


def test_being_full_begins_and_ends_once_however_many_are_turned_away() -> None:
    process = Process()
    process.connections = process.overload.cap
    for _ in range(40):
        for _ in range(25):
            process.overload.turned()
        process.beat()
    process.connections = int(0.95 * process.overload.cap)
    process.beat()
    assert process.told() == [("connections", True)]

    process.connections = int(0.85 * process.overload.cap)
    process.beat()
    process.beat()

    assert process.told() == [("connections", True), ("connections", False)]
    assert process.changes[1].refused == 1000
    assert process.changes[1].seconds == pytest.approx(41 * BEAT)


def test_under_pressure_connections_may_not_idle_as_long_as_they_like() -> None:
    process = Process()
    limits = []
    for part in (0.5, 0.81, 0.79):
        process.connections = int(part * process.overload.cap)
        process.beat()
        limits.append(process.overload.idle_limit)
    process.overload.turned()
    process.beat()
    limits.append(process.overload.idle_limit)

    assert limits == [None, PRESSED_IDLE, None, LEAST_IDLE]


def test_a_full_process_still_takes_calls_of_those_who_are_connected() -> None:
    process = Process()
    process.overload.turned()
    process.beat()

    assert process.let_in() == 1000


# --- descriptors ----------------------------------------------------------------------------------


def test_without_descriptors_no_call_and_no_connection_is_let_in() -> None:
    process = Process()
    process.files = RESERVED // 2 - 1
    process.beat()
    assert process.overload.is_full(1)
    assert process.let_in() == 0

    process.files = RESERVED // 2 + 1
    process.beat()
    assert process.let_in() == 0

    process.files = RESERVED
    process.beat()
    assert process.let_in() == 1000
    assert not process.overload.is_full(1)
    assert process.told() == [("descriptors", True), ("descriptors", False)]


# --- memory ---------------------------------------------------------------------------------------


def test_memory_stops_idling_first_and_new_calls_later() -> None:
    process = Process()
    seen = []
    for used in (MEMORY_PRESSED - 0.01, MEMORY_PRESSED, MEMORY_SHORT, MEMORY_SHORT - MEMORY_SLACK):
        process.memory = used
        process.beat()
        seen.append((process.overload.idle_limit, process.let_in(10)))
    process.memory = MEMORY_SHORT - MEMORY_SLACK - 0.01
    process.beat()
    seen.append((process.overload.idle_limit, process.let_in(10)))

    assert seen == [(None, 10), (1.0, 10), (1.0, 0), (1.0, 0), (1.0, 10)]
    assert process.told() == [("memory", True), ("memory", False)]


def test_with_nothing_under_way_memory_refuses_nobody_for_it_would_do_so_for_ever() -> None:
    process = Process()
    process.memory = 1.0
    process.beat()
    process.calls = 0

    assert process.overload.refuses(0) is None
    assert process.overload.refuses(1) is not None


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.1, 1.0, 10.0])
def test_a_single_stall_refuses_nobody_however_long_it_is(seconds: float) -> None:
    """A collection, a reload, a host that slept."""
    process = Process()
    process.turn(0.02, 100)
    process.turn(seconds)
    process.turn(0.02, 100)

    assert process.let_in() == 1000
    assert process.told() == []


def test_two_stalls_in_a_row_and_a_rush_that_is_over_at_once_refuse_nobody() -> None:
    process = Process()
    process.turn(1.0, 2)
    process.turn(0.02, 100)
    process.turn(0.06, 6)
    process.turn(0.02, 100)

    assert process.told() == []


def test_a_busy_loop_that_is_mostly_in_time_refuses_nobody() -> None:
    """As measured at 80 to 100 % of what a core can take: single ticks up to 30 ms late."""
    process = Process()
    for _ in range(50):
        process.turn(0.04)
        process.turn(0.02, 5)

    assert process.told() == []


def test_a_loop_that_stays_late_refuses_more_and_more_and_later_lets_all_in_again() -> None:
    process = Process()
    process.turn(0.06, 8)
    assert process.let_in() == 1000, "half a second is not over"

    process.turn(0.06, 12)
    some = process.let_in()
    process.turn(0.06, 20)
    few = process.let_in()
    process.turn(0.06, 100)
    least = process.let_in()
    assert 1000 > some > few > least
    assert least == pytest.approx(1000 * LEAST, abs=1)

    process.turn(0.02, 100)
    more = process.let_in()
    process.turn(0.02, 500)
    assert least < more < 1000
    assert process.let_in() == 1000
    assert process.told() == [("time", True), ("time", False)]
    refused = 3000 - some - few - least + 1000 - more
    assert process.changes[1].refused == refused


def test_turns_of_seconds_are_late_after_a_few_of_them() -> None:
    process = Process()
    process.turn(2.0, 4)

    assert process.let_in() < 600


def test_between_late_and_in_time_nothing_changes() -> None:
    process = Process()
    process.turn(0.06, 40)
    before = process.overload.share
    process.turn((LATE + IN_TIME) / 2 + TICK, 30)
    settled = process.overload.share
    process.turn((LATE + IN_TIME) / 2 + TICK, 100)

    assert settled <= before < 1.0
    assert process.overload.share == settled


def test_few_calls_are_not_what_makes_a_loop_late() -> None:
    process = Process()
    process.calls = CROWD - 1
    process.turn(0.2, 100)

    assert process.told() == []


# --- what others are told -------------------------------------------------------------------------


def test_a_balancer_is_told_when_most_is_refused_for_a_while() -> None:
    process = Process()
    process.overload.turned()
    process.beat()
    assert not process.overload.is_unready(process.now + UNREADY)
    assert process.overload.is_unready(process.now + UNREADY + 0.01)

    process.beat()
    process.connections = 0
    process.beat()
    assert not process.overload.is_unready(process.now + 10)


def test_a_balancer_is_not_told_of_a_few_that_are_refused() -> None:
    process = Process()
    while process.overload.share == 1.0:
        process.turn(0.06)
    assert process.overload.short_of() == ["time"]
    assert process.overload.share == 0.5
    assert not process.overload.is_unready(process.now + 10)

    process.turn(0.06, 40)

    assert process.overload.share < 0.5
    assert process.overload.is_unready(process.now + 10)


def test_who_is_refused_is_told_different_times_so_that_not_all_come_back_at_once() -> None:
    overload = Process().overload
    waits = [overload.turned() for _ in range(64)]

    assert len(set(waits)) == 8
    assert min(waits) == SHORT_WAIT
    assert max(waits) < 2 * SHORT_WAIT
    assert all(one != two for one, two in pairwise(waits))


def test_memory_takes_longer_to_come_back() -> None:
    process = Process()
    process.memory = 1.0
    process.beat()
    wait = process.overload.refuses(1)

    assert wait is not None
    assert LONG_WAIT <= wait <= 2 * LONG_WAIT
    assert PERSISTS < UNREADY
