"""What a store's authority does with relays that die, come late, or are short; with its clock, and with its past."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from relay.admission.store import StoreGate
from relay.errors import BudgetSpent, RateLimited, StoreUnavailable
from tests.quota_rig import Limits, configure, ratios
from tests.redis_rig import Call, RedisServer, Relays, Server

LEASE = 16_000


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as redis:
        yield Server(redis.client())


@pytest.fixture
def server(running: Server) -> Server:
    running.ahead = 0
    running.forget()
    return running


def relays(server: Server, count: int = 2, **limits: Any) -> Relays:
    made = Relays(server, {"shop": Limits(**limits)}, count=count)
    made.heard()
    return made


def ask(relays: Relays, gate: StoreGate, **need: Any) -> Call:
    """Asks until it is answered: a call may have to wait for what others have to give back."""
    call = relays.call(gate, **need)
    for _ in range(20):
        relays.turn(gate)
        if call.told:
            return call
        relays.turn()
        relays.passes(10)
    raise AssertionError("never answered")


def silent_for(relays: Relays, ms: int, others: list[StoreGate]) -> None:
    """Only the others report, every second."""
    for _ in range(ms // 1000):
        relays.passes(1000)
        for gate in others:
            gate.beat(1.0)
            relays.turn(gate, report=True)


def warm(relays: Relays, gates: list[StoreGate], **need: int) -> list[Call]:
    """Some seconds of calls, so that slices pay."""
    calls = []
    for _ in range(4):
        for gate in gates:
            calls += [ask(relays, gate, **need) for _ in range(5)]
        relays.passes(1000)
        for gate in gates:
            gate.beat(1.0)
            relays.turn(gate, report=True)
    return calls


def slices(gate: StoreGate, name: str) -> int:
    return sum(stake.free for stake in gate.letters.stakes.values() if stake.name == name)


def machine(server: Server, name: str, owner: str = "k:shop") -> dict[str, Any]:
    return server.accounts()[owner][name]


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


# --- relays that die ------------------------------------------------------------------------------


def test_death_charges_budgets_frees_permits_and_ends_slices_of_rates(server: Server) -> None:
    both = relays(server, tokens_per_day=100_000, concurrent=1000, rpm=10_000)
    dying, other = both.gates
    calls = warm(both, [dying], worst=50)
    leased = machine(server, "tokens_per_day")["s"]
    assert machine(server, "rpm")["s"]

    silent_for(both, LEASE - 2000, [other])
    permits = machine(server, "concurrent")["s"]
    silent_for(both, 3000, [other])
    ask(both, other)

    assert permits > len(calls) - 1
    assert machine(server, "concurrent")["s"] == 1
    assert machine(server, "tokens_per_day")["s"] == leased > 50 * len(calls)
    assert machine(server, "rpm")["s"] == 0
    assert str(server.client.zcard("{relay}:holders")) == "1"


def test_who_was_taken_for_dead_says_what_it_used_and_the_charge_falls(server: Server) -> None:
    both = relays(server, tokens_per_day=1000, concurrent=5)
    late, other = both.gates
    done, runs = ask(both, late, worst=400), ask(both, late, worst=300)
    silent_for(both, LEASE + 2000, [other])
    refused = ask(both, other, worst=400)
    assert done.lease is not None
    assert runs.lease is not None
    done.lease.settle(both.now, 100, 0)

    both.turn(late)
    spent, leased = (machine(server, "tokens_per_day")[name] for name in "ps")
    permits = machine(server, "concurrent")["s"]
    runs.lease.settle(both.now, 50, 0)
    both.turn(late)

    assert isinstance(refused.error, BudgetSpent)
    assert (spent, leased, permits) == (100, 300, 1)
    assert machine(server, "tokens_per_day")["p"] == 150
    assert machine(server, "tokens_per_day")["s"] == 0


def test_the_rows_of_the_dead_do_not_pile_up(server: Server) -> None:
    both = relays(server, tokens_per_day=100_000, concurrent=500, tpm=100_000)
    stays = both.gates[0]
    for _ in range(10):
        gate = both.new_gate()
        both.turn(gate)
        assert ask(both, gate, worst=10, tokens=5).open
        silent_for(both, LEASE + 2000, [stays])
    ask(both, stays)
    rows = machine(server, "tokens_per_day")

    both.passes(3_700_000)
    both.turn(stays)
    ask(both, stays)

    assert len(rows["d"]) == 10
    assert rows["s"] == 100
    assert machine(server, "tokens_per_day")["d"] in ([], {})
    assert machine(server, "tokens_per_day")["p"] == 100
    assert len(server.client.keys("{relay}:r:*")) <= 2


def test_while_nobody_is_heard_nobody_dies(server: Server) -> None:
    both = relays(server, concurrent=2)
    first, second = both.gates
    calls = [ask(both, first), ask(both, second)]

    both.passes(600_000)
    third = both.call(first)
    both.turn(first)
    both.turn(second)

    assert all(call.open for call in calls)
    assert isinstance(third.error, RateLimited)
    assert machine(server, "concurrent")["s"] == 2


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


# --- its past -------------------------------------------------------------------------------------


def test_after_a_loss_nothing_is_granted_until_all_have_told(server: Server) -> None:
    both = relays(server, tokens_per_day=1000, concurrent=5)
    first, second = both.gates
    done, runs = ask(both, first, worst=400), ask(both, second, worst=300)
    assert done.lease is not None
    done.lease.settle(both.now, 350, 0)
    both.turn(first)

    server.forget()
    early = ask(both, first, worst=10)
    both.turn(second, report=True)
    fits, too_much = ask(both, first, worst=350), ask(both, second, worst=1)

    assert isinstance(early.error, StoreUnavailable)
    assert fits.open
    assert isinstance(too_much.error, BudgetSpent)
    assert machine(server, "concurrent")["s"] == 2
    assert runs.open


def test_after_a_loss_the_last_to_tell_is_answered_by_what_all_have_told(server: Server) -> None:
    both = relays(server, tokens_per_day=1000)
    first, last = both.gates
    for gate, used in ((first, 500), (last, 400)):
        call = ask(both, gate, worst=used)
        assert call.lease is not None
        call.lease.settle(both.now, used, 0)
    both.turn()
    server.forget()
    both.turn(first, report=True)

    refused = ask(both, last, worst=200)

    assert isinstance(refused.error, BudgetSpent)


def test_after_a_loss_who_never_comes_is_waited_for_as_long_as_it_could_spend(
    server: Server,
) -> None:
    both = relays(server, tokens_per_day=1000)
    first, gone = both.gates
    calls = [ask(both, first, worst=100), ask(both, gone, worst=200)]
    for call in calls:
        assert call.lease is not None
        call.lease.settle(both.now, 100, 0)
    both.turn()
    ask(both, first, worst=1)

    both.mark = "another server"
    server.forget()
    both.turn(first, report=True)
    silent_for(both, LEASE - 1000, [first])
    early = ask(both, first, worst=100)
    silent_for(both, 2000, [first])
    late, all_of_it = ask(both, first, worst=100), ask(both, first, worst=700)

    assert isinstance(early.error, StoreUnavailable)
    assert late.open
    assert isinstance(all_of_it.error, BudgetSpent)
    # What the other one had spent is remembered by who was told of it.
    assert machine(server, "tokens_per_day")["p"] == 200


def test_a_stranger_who_comes_first_after_a_loss_does_not_hide_it(server: Server) -> None:
    both = relays(server, tokens_per_day=1000)
    first, second = both.gates
    ask(both, first, worst=600)
    ask(both, second, worst=300)
    server.forget()
    stranger = both.new_gate()
    both.turn(stranger)

    both.turn(first, report=True)
    early = ask(both, stranger, worst=200)
    both.turn(second, report=True)
    refused = ask(both, stranger, worst=200)

    assert isinstance(early.error, StoreUnavailable)
    assert isinstance(refused.error, BudgetSpent)


def test_a_first_start_waits_for_nobody(server: Server) -> None:
    one = relays(server, count=1, tokens_per_day=10)

    assert ask(one, one.gates[0], worst=10).open


def test_after_a_loss_a_stranger_waits_before_anybody_has_said_what_it_knows(
    server: Server,
) -> None:
    both = relays(server, tokens_per_day=1000)
    first, _ = both.gates
    ask(both, first, worst=600)
    server.forget()
    # It learns that it must tell, and has not told yet.
    server.say(both.frame(first, report=True))
    stranger = both.new_gate()
    both.turn(stranger)

    early = ask(both, stranger, worst=600)

    assert isinstance(early.error, StoreUnavailable)


def test_what_was_settled_and_never_told_is_added_to_what_was_told_before_a_loss(
    server: Server,
) -> None:
    both = relays(server, tokens_per_day=1000)
    first, second = both.gates
    for used in (400, 300):
        call = ask(both, first, worst=used)
        assert call.lease is not None
        both.turn()
        call.lease.settle(both.now, used, 0)
        if used == 400:
            both.turn(report=True)
    server.forget()

    both.turn(report=True)
    too_much, fits = ask(both, second, worst=301), ask(both, second, worst=300)

    assert machine(server, "tokens_per_day")["p"] == 700
    assert isinstance(too_much.error, BudgetSpent)
    assert fits.open


def test_a_second_loss_does_not_make_forget_who_had_not_come_back_from_the_first(
    server: Server,
) -> None:
    both = relays(server, tokens_per_day=1000)
    first, second = both.gates
    ask(both, second, worst=800)
    ask(both, first, worst=100)
    server.forget()
    both.turn(first, report=True)
    server.forget()
    both.turn(first, report=True)

    early = ask(both, first, worst=200)
    both.turn(second, report=True)
    refused = ask(both, first, worst=200)

    assert isinstance(early.error, StoreUnavailable)
    assert isinstance(refused.error, BudgetSpent)


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
