"""What relays get of a store's authority: slices, one answer to each call, and their part while it is away."""

from __future__ import annotations

import pytest

from relay.admission.store import StoreGate
from relay.errors import BudgetSpent, RateLimited, StoreUnavailable
from tests import stores
from tests.quota_rig import Limits, configure, ratios
from tests.redis_rig import Server
from tests.stores import ask, machine, relays, silent_for, warm

# Pytest finds fixtures by their names in the file.
running, server = stores.running, stores.server


def slices(gate: StoreGate, name: str) -> int:
    return sum(stake.free for stake in gate.letters.stakes.values() if stake.name == name)


# --- slices ---------------------------------------------------------------------------------------


def test_a_warm_key_is_served_without_a_message(server: Server) -> None:
    both = relays(server, tokens_per_day=1_000_000, tpm=1_000_000, rpm=10_000, concurrent=2000)
    first, second = both.gates
    calls = warm(both, [first, second], tokens=10, worst=20)

    at_once = [both.call(gate, tokens=10, worst=20) for gate in (first, second)]

    assert all(call.open for call in [*calls, *at_once])
    assert slices(first, "tokens_per_day") > 0


def test_small_limits_and_cold_keys_are_asked_for_each_time(server: Server) -> None:
    both = relays(server, tokens_per_day=600)
    warm(both, both.gates, worst=20)

    assert [slices(gate, "tokens_per_day") for gate in both.gates] == [0, 0]


def test_before_a_refusal_what_idles_elsewhere_is_called_in(server: Server) -> None:
    both = relays(server, tokens_per_day=10_000)
    first, second = both.gates
    calls = warm(both, [first, second], worst=50)
    idle = slices(second, "tokens_per_day")
    assert idle > 100

    while (call := ask(both, first, worst=50)).open:
        calls.append(call)

    assert isinstance(call.error, BudgetSpent)
    assert sum(call.open for call in calls) == 10_000 // 50
    assert slices(second, "tokens_per_day") == 0


def test_who_does_not_hear_the_recall_is_waited_for_a_little(server: Server) -> None:
    both = relays(server, tokens_per_day=10_000)
    first, second = both.gates
    warm(both, [first, second], worst=50)

    call, waited = both.call(first, worst=9000), 0
    while not call.told:
        both.answer(first, server.say(both.frame(first)))
        both.passes(10)
        waited += 10
    called = server.called()

    assert isinstance(call.error, BudgetSpent)
    assert 50 <= waited <= 80
    assert [(owner, name) for owner, name, _ in called] == [("k:shop", "tokens_per_day")]


@pytest.mark.parametrize(
    ("limits", "left"), [({"concurrent": 1}, 0.0), ({"tokens_per_day": 100}, 0.1)]
)
def test_who_only_refused_hears_when_others_give_back(
    server: Server, limits: dict[str, int], left: float
) -> None:
    both = relays(server, **limits)
    first, second = both.gates
    (name,) = limits
    held = ask(both, first, worst=100)
    assert not ask(both, second, worst=100).open
    silent_for(both, 60_000, [first, second])
    assert ratios(second, both.now, both.wall) == {("shop", name): 1.0}

    assert held.lease is not None
    held.lease.settle(both.now, 10, 0)
    silent_for(both, 2000, [first, second])

    assert ratios(second, both.now, both.wall) == {("shop", name): left}


def test_what_is_not_used_goes_back_after_some_seconds(server: Server) -> None:
    both = relays(server, tokens_per_day=1_000_000)
    calls = warm(both, both.gates, worst=50)
    for call in calls:
        assert call.lease is not None
        call.lease.settle(both.now, 50, 0)

    silent_for(both, 5000, both.gates)

    assert machine(server, "tokens_per_day")["s"] == 0
    assert machine(server, "tokens_per_day")["p"] == 50 * len(calls)


# --- its clock ------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_is_set_lets_nobody_through(server: Server, hours: int) -> None:
    both = relays(server, rpm=10, tpm=600)
    first, second = both.gates
    for _ in range(10):
        assert ask(both, first, tokens=60).open

    server.ahead = hours * 3_600_000
    server.set_clock()
    refused = [ask(both, first), ask(both, second)]
    both.passes(6000)
    both.turn()
    later = [ask(both, first, tokens=60), ask(both, first)]

    assert [type(call.error) for call in refused] == [RateLimited, RateLimited]
    assert 5.9 < (refused[0].error.wait or 0) <= 6
    assert [call.open for call in later] == [True, False]
    assert machine(server, "rpm")["u"] >= 0


# --- calls and frames -----------------------------------------------------------------------------


def test_a_frame_that_comes_twice_is_answered_twice_and_counts_once(server: Server) -> None:
    one = relays(server, count=1, tokens_per_day=1000, rpm=100)
    (gate,) = one.gates
    done, call = ask(one, gate, worst=300), one.call(gate, worst=200)
    assert done.lease is not None
    done.lease.settle(one.now, 250, 0)
    frame = one.frame(gate)

    answers = [server.say(frame), server.say(frame)]
    one.answer(gate, answers[0])

    assert call.open
    assert len(answers[1]) > 0
    budget, rate = machine(server, "tokens_per_day"), machine(server, "rpm")
    assert (budget["p"], budget["s"]) == (250, 200)
    assert rate["u"] == 2 * 60_000


def test_a_client_that_left_gets_nothing_and_keeps_nothing(server: Server) -> None:
    both = relays(server, concurrent=1, tokens_per_day=10)
    gate = both.gates[0]
    left = both.call(gate, worst=10)
    frame = both.frame(gate)
    assert left.lease is not None
    left.lease.cancel(both.now)

    both.answer(gate, server.say(frame))
    both.turn(gate)

    assert left.told == []
    assert ask(both, both.gates[1], worst=10).open
    assert gate.inflight == 0


def test_a_reload_that_removes_a_limit_leaves_its_calls_alone(server: Server) -> None:
    both = relays(server, concurrent=2, tokens_per_day=100)
    gate = both.gates[0]
    call = ask(both, gate, worst=50)

    both.reload(*configure({"shop": Limits(concurrent=1)}))
    refused = ask(both, gate)
    assert call.lease is not None
    call.lease.settle(both.now, 50, 0)
    both.turn(gate)

    assert refused.error.reason == "concurrent"
    assert ask(both, gate).open


# --- while it is away -----------------------------------------------------------------------------


def test_every_relay_has_its_part_of_what_is_left(server: Server) -> None:
    both = relays(server, rpm=10, tokens_per_day=100)
    first, second = both.gates
    for gate in both.gates:
        gate.budgets_open = True
    for _ in range(4):
        assert ask(both, first, worst=10).open
    both.turn(second, report=True)
    ask(both, second, worst=0)
    both.turn(first, report=True)
    for gate in both.gates:
        gate.lost(both.now, both.wall)

    calls = {gate: [both.call(gate, worst=10) for _ in range(5)] for gate in both.gates}
    for gate in both.gates:
        gate.back(both.now)
    both.turn()

    # Five of ten calls are used: a part has two. Of the budget sixty are left, three calls each.
    assert [sum(call.open for call in each) for each in calls.values()] == [2, 2]
    assert {call.error.reason for each in calls.values() for call in each[2:]} == {"rpm"}
    assert machine(server, "rpm")["u"] == 9 * 60_000
    assert machine(server, "tokens_per_day")["s"] == 80


def test_closed_limits_refuse_for_want_of_the_store(server: Server) -> None:
    both = relays(server, rpm=10)
    gate = both.gates[0]
    gate.rates_open = False
    waits = both.call(gate)

    gate.lost(both.now, both.wall)
    after = both.call(gate)

    assert [type(call.error) for call in (waits, after)] == [StoreUnavailable, StoreUnavailable]
    assert gate.inflight == 0


def test_slices_are_used_up_first_and_settlements_are_told_once(server: Server) -> None:
    both = relays(server, tokens_per_day=100_000)
    gate = both.gates[0]
    calls = warm(both, [gate], worst=50)
    idle = slices(gate, "tokens_per_day") // 50
    gate.lost(both.now, both.wall)

    alone = [both.call(gate, worst=50) for _ in range(idle + 3)]
    for call in [*calls, *alone[:idle]]:
        assert call.lease is not None
        call.lease.settle(both.now, 20, 0)
    frame = both.frame(gate)
    server.say(frame)
    server.say(frame)
    both.turn(gate)
    both.turn(gate, report=True)

    assert [call.open for call in alone] == [True] * idle + [False] * 3
    assert machine(server, "tokens_per_day")["p"] == 20 * (len(calls) + idle)


def test_a_lease_that_ran_out_is_no_lease(server: Server) -> None:
    both = relays(server, tokens_per_day=100_000)
    gate = both.gates[0]
    warm(both, [gate], worst=50)
    gate.lost(both.now, both.wall)

    before = both.call(gate, worst=50)
    both.passes(15_000)
    after = both.call(gate, worst=50)

    assert before.open
    assert isinstance(after.error, StoreUnavailable)
