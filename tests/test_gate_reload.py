"""What was used survives a new configuration."""

from __future__ import annotations

from typing import Any

from relay.admission.gate import Gate
from relay.admission.memory import STEP
from relay.admission.principals import (
    Principal,
)
from tests.quota_rig import (
    NOW,
    Limits,
    admitted,
    ask,
    configure,
    grouped,
    ratios,
    refused,
    single,
)


def reload(gate: Gate, **limits: Any) -> Principal:
    principals, groups = configure({"shop": Limits(**limits)})
    gate.reload(principals, groups)
    return principals.by_id["shop"]


def test_a_reload_keeps_what_was_used() -> None:
    gate, shop = single(rpm=10, concurrent=3, usd_per_month=1)
    lease = admitted(ask(gate, shop, cost=600_000_000))
    for _ in range(2):
        admitted(ask(gate, shop))
    before = ratios(gate)

    shop = reload(gate, rpm=10, concurrent=3, usd_per_month=1)
    after = ratios(gate)
    full = refused(ask(gate, shop))
    lease.settle(NOW, 0, 600_000_000)

    assert after == before
    assert full.reason == "concurrent"
    admitted(ask(gate, shop))
    assert refused(ask(gate, shop, cost=500_000_000)).reason == "usd_per_month"


def test_a_raised_limit_gives_no_burst_and_a_lowered_one_clamps() -> None:
    gate, shop = single(rpm=10)
    for _ in range(8):
        admitted(ask(gate, shop))

    shop = reload(gate, rpm=1000)
    raised = gate.headers(shop, NOW)
    shop = reload(gate, rpm=1)
    lowered = gate.headers(shop, NOW)

    assert b"remaining-requests: 2\r\n" in raised
    assert b"remaining-requests: 1\r\n" in lowered


def test_a_running_call_settles_into_the_account_it_came_from() -> None:
    gate, shop = single(tpm=1000, concurrent=2)
    lease = admitted(ask(gate, shop, tokens=900))

    shop = reload(gate, rpm=5)
    lease.settle(NOW, 900, 0)
    shop = reload(gate, tpm=1000, concurrent=2)

    assert gate.inflight == 0
    assert set(ratios(gate).values()) == {0.0}, "a limit that was gone starts anew"
    admitted(ask(gate, shop, tokens=1000))


def test_a_long_stream_that_outlives_a_quiet_reload_leaves_no_debt() -> None:
    gate, shop = single(tpm=1000)
    lease = admitted(ask(gate, shop, tokens=500))
    lease.settle(NOW + 600, 500, 0)

    shop = reload(gate, tpm=500)

    assert b"remaining-tokens: 500\r\n" in gate.headers(shop, NOW + 600)


def test_a_call_authenticated_before_a_reload_gets_the_new_limits() -> None:
    gate, old = single(rpm=100)

    reload(gate, rpm=1)

    admitted(ask(gate, old))
    assert refused(ask(gate, old)).reason == "rpm"


def test_a_key_that_is_removed_and_comes_back_has_not_earned_a_fresh_quota() -> None:
    gate, shop = single(requests_per_day=5)
    for _ in range(5):
        admitted(ask(gate, shop)).cancel(NOW)
    nobody, groups = configure({})

    gate.reload(nobody, groups)
    gone = ratios(gate)
    late = refused(ask(gate, shop))
    shop = reload(gate, requests_per_day=5)

    assert gone == {}
    assert late.reason == "requests_per_day"
    assert refused(ask(gate, shop)).reason == "requests_per_day"


def test_accounts_of_removed_keys_do_not_pile_up() -> None:
    gate, _ = single(rpm=5)
    for number in range(100):
        principals, groups = configure({f"k{number}": Limits(rpm=60)})
        gate.reload(principals, groups)
        admitted(ask(gate, principals.by_id[f"k{number}"], NOW + 2 * number)).cancel(
            NOW + 2 * number
        )

    assert len(gate._keys) <= 2


def test_a_key_follows_its_group_through_a_reload() -> None:
    gate, shop = grouped(Limits(), Limits(rpm=2))
    admitted(ask(gate, shop))
    principals, groups = configure({"shop": Limits()}, {"shop": "other"}, {"other": Limits(rpm=1)})

    gate.reload(principals, groups)

    admitted(ask(gate, shop))
    assert refused(ask(gate, shop)).reason == "rpm"


def test_of_very_many_accounts_some_follow_at_once_and_the_rest_in_steps_or_at_their_call() -> None:
    ids = [f"k{number}" for number in range(3 * STEP)]
    principals, groups = configure(dict.fromkeys(ids, Limits(concurrent=2)))
    gate = Gate(principals, groups)
    held = [admitted(ask(gate, principals.by_id[id])) for id in ids]
    fewer, groups = configure(dict.fromkeys(ids[:-1], Limits(concurrent=1)))

    over = gate.reload(fewer, groups)
    at_its_call = refused(ask(gate, fewer.by_id[ids[-2]]))
    steps = 1
    while gate.catch_up():
        steps += 1
    in_time = [refused(ask(gate, fewer.by_id[id])).reason for id in ids[:-1]]
    gone = admitted(ask(gate, principals.by_id[ids[-1]]))  # as it was, while it is in use

    assert set(over) == set(ids)
    assert at_its_call.reason == "concurrent"
    assert steps == 2
    assert in_time == ["concurrent"] * len(in_time)
    for lease in (*held, gone):
        lease.cancel(NOW)
    gate.reload(fewer, groups)
    while gate.catch_up():
        pass
    assert len(gate._keys) == len(ids) - 1
