"""What a store's authority does when relays die, and when it has lost what it knew."""

from __future__ import annotations

from relay.errors import BudgetSpent, RateLimited, StoreUnavailable
from tests import stores
from tests.redis_rig import Server
from tests.stores import ask, machine, relays, silent_for, warm

# Pytest finds fixtures by their names in the file.
running, server = stores.running, stores.server

LEASE = 16_000


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
