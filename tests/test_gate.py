"""The gate: all limits or none, settled once, honest about waits."""

from __future__ import annotations

import ipaddress
import random
from typing import Any

import pytest

from relay.admission.gate import Gate, Lease, Need
from relay.admission.principals import (
    Principal,
    Principals,
    key_digest,
)
from relay.errors import BudgetSpent, RateLimited
from tests.quota_rig import (
    NOW,
    WALL,
    Limits,
    admitted,
    ask,
    configure,
    grouped,
    ratios,
    refused,
    single,
)


def test_a_thousand_calls_at_one_instant_on_rpm_10_admit_exactly_ten() -> None:
    gate, shop = single(rpm=10)

    answers = [ask(gate, shop) for _ in range(1000)]

    assert sum(isinstance(answer, Lease) for answer in answers) == 10
    assert gate.inflight == 10


@pytest.mark.parametrize(
    "limits",
    [
        {"concurrent": 10},
        {"tpm": 1000},
        {"requests_per_day": 10},
        {"tokens_per_day": 2000},
        {"tokens_per_month": 2000},
        {"usd_per_day": 0.00003},
        {"usd_per_month": 0.00003},
    ],
)
def test_a_thousand_calls_at_once_on_any_limit_for_ten_admit_exactly_ten(
    limits: dict[str, Any],
) -> None:
    gate, shop = single(**limits)

    answers = [ask(gate, shop, tokens=100, worst=200, cost=3000) for _ in range(1000)]

    assert sum(isinstance(answer, Lease) for answer in answers) == 10


def test_calls_without_limits_are_admitted_and_counted_as_in_flight() -> None:
    gate, shop = single()

    leases = [admitted(ask(gate, shop, tokens=10**9, worst=10**9)) for _ in range(50)]
    running = gate.inflight
    for lease in leases:
        lease.cancel(NOW)

    assert running == 50
    assert gate.inflight == 0
    assert gate.headers(shop, NOW) == b""


def test_a_key_whose_calls_run_out_is_refused_with_the_wait_of_this_very_call() -> None:
    gate, shop = single(rpm=60, tpm=600)
    for _ in range(6):
        admitted(ask(gate, shop, tokens=100))

    small = refused(ask(gate, shop, tokens=10))
    large = refused(ask(gate, shop, tokens=300))

    assert isinstance(small, RateLimited)
    assert (small.reason, small.type, small.status) == ("tpm", "tokens", 429)
    assert small.wait == 1.0
    assert large.wait == 30.0
    admitted(ask(gate, shop, NOW + 30.0, tokens=300))


def test_the_longest_wait_of_all_limits_is_the_honest_one() -> None:
    gate, shop = single(rpm=2, tpm=100, concurrent=1)
    admitted(ask(gate, shop, tokens=50))
    second = refused(ask(gate, shop, tokens=50))

    both = refused(ask(gate, shop, tokens=100))

    assert (second.reason, second.wait) == ("concurrent", 1.0)
    assert (both.reason, both.wait) == ("tpm", 30.0)


def test_a_full_house_is_worth_a_second_of_waiting() -> None:
    gate, shop = single(concurrent=1)
    admitted(ask(gate, shop))

    error = refused(ask(gate, shop))

    assert isinstance(error, RateLimited)
    assert (error.type, error.code, error.wait) == ("requests", "rate_limit_exceeded", 1.0)


@pytest.mark.parametrize("limit", ["rpm", "concurrent"])
def test_a_limit_of_zero_promises_nothing(limit: str) -> None:
    gate, shop = single(**{limit: 0})

    error = refused(ask(gate, shop))

    assert isinstance(error, RateLimited)
    assert error.wait is None


def test_a_call_larger_than_its_tpm_is_refused_without_a_wait() -> None:
    gate, shop = single(tpm=100, rpm=10)

    error = refused(ask(gate, shop, tokens=101))

    assert isinstance(error, RateLimited)
    assert (error.type, error.code, error.wait) == ("tokens", "rate_limit_exceeded", None)
    assert b"x-should-retry: false" in error.headers()


def test_a_call_larger_than_its_budget_is_refused_as_insufficient_quota() -> None:
    gate, shop = single(usd_per_month=1)

    error = refused(ask(gate, shop, cost=1_000_000_001))

    assert isinstance(error, BudgetSpent)
    assert (error.type, error.code, error.reason) == (
        "insufficient_quota",
        "insufficient_quota",
        "usd_per_month",
    )
    assert error.wait is None


def test_a_spent_budget_outweighs_a_rate_that_would_recover() -> None:
    gate, shop = single(rpm=1, requests_per_day=1)
    admitted(ask(gate, shop)).settle(NOW, 0, 0)

    error = refused(ask(gate, shop))

    assert isinstance(error, BudgetSpent)
    assert error.reason == "requests_per_day"


@pytest.mark.parametrize(
    "tight",
    [
        {"concurrent": 1},
        {"tpm": 1},
        {"requests_per_day": 1},
        {"tokens_per_day": 1},
        {"tokens_per_month": 1},
        {"usd_per_day": 1e-9},
        {"usd_per_month": 1e-9},
    ],
)
@pytest.mark.parametrize("where", ["key", "group"])
def test_a_refusal_by_one_limit_consumes_nothing_of_any_other(
    tight: dict[str, Any], where: str
) -> None:
    wide: dict[str, Any] = {
        "rpm": 100,
        "tpm": 1000,
        "concurrent": 50,
        "requests_per_day": 100,
        "tokens_per_month": 10_000,
        "usd_per_month": 1,
    }
    narrow = Limits(**{**wide, **tight})
    gate, shop = grouped(
        narrow if where == "key" else Limits(**wide), narrow if where == "group" else Limits(**wide)
    )
    admitted(ask(gate, shop, tokens=1, worst=1, cost=1))
    before = ratios(gate), gate.headers(shop, NOW)

    for _ in range(20):
        refused(ask(gate, shop, tokens=2, worst=2, cost=2))

    assert (ratios(gate), gate.headers(shop, NOW)) == before
    assert gate.inflight == 1


def test_a_cancelled_call_keeps_its_request_and_returns_the_rest() -> None:
    gate, shop = single(
        rpm=10, tpm=1000, concurrent=2, requests_per_day=10, tokens_per_day=500, usd_per_day=1
    )
    lease = admitted(ask(gate, shop, tokens=400, worst=400, cost=500_000_000))

    lease.cancel(NOW)

    assert ratios(gate) == {
        ("shop", "rpm"): 0.1,
        ("shop", "tpm"): 0.0,
        ("shop", "concurrent"): 0.0,
        ("shop", "requests_per_day"): 0.1,
        ("shop", "tokens_per_day"): 0.0,
        ("shop", "usd_per_day"): 0.0,
    }


def test_a_lease_settles_once_whoever_comes_first() -> None:
    gate, shop = single(tpm=1000, concurrent=5, tokens_per_day=1000)
    lease = admitted(ask(gate, shop, tokens=100, worst=100))

    lease.settle(NOW, 60, 0)
    lease.settle(NOW, 0, 0)
    lease.cancel(NOW)

    assert not lease.open
    assert gate.inflight == 0
    assert ratios(gate)["shop", "tpm"] == 0.06
    assert ratios(gate)["shop", "tokens_per_day"] == 0.06
    assert ratios(gate)["shop", "concurrent"] == 0.0


def test_more_than_reserved_is_owed() -> None:
    gate, shop = single(tpm=600, tokens_per_day=1000)
    admitted(ask(gate, shop, tokens=100, worst=200)).settle(NOW, 900, 0)

    error = refused(ask(gate, shop, tokens=10, worst=10))

    assert (error.reason, error.wait) == ("tpm", 31.0)
    assert ratios(gate)["shop", "tokens_per_day"] == 0.9


def test_a_call_whose_body_came_slowly_is_judged_by_the_levels_of_now() -> None:
    gate, shop = single(rpm=60)
    for _ in range(60):
        admitted(ask(gate, shop))
    for second in range(1, 31):
        admitted(ask(gate, shop, NOW + second))
    gate.reserve(Principal("other", key_digest("o")), "m", Need(0, 0, 0), NOW + 31, WALL)

    slow = ask(gate, shop, NOW + 5)

    admitted(slow)
    assert refused(ask(gate, shop, NOW + 5)).wait == 1.0


def test_a_negative_report_is_no_gift() -> None:
    gate, shop = single(tpm=600, tokens_per_day=1000, usd_per_day=1)

    admitted(ask(gate, shop, tokens=100, worst=200, cost=10)).settle(NOW, -500, -500)

    admitted(ask(gate, shop, tokens=600, worst=1000, cost=10**9))
    for more in ({"tokens": 1}, {"worst": 1}, {"cost": 1}):
        refused(ask(gate, shop, **more))


@pytest.mark.parametrize("amounts", [(-1, 0, 0), (0, -1, 0), (0, 0, -1)])
def test_a_need_is_never_negative(amounts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="never negative"):
        Need(*amounts)


def test_key_and_group_both_hold() -> None:
    principals, groups = configure(
        {"a": Limits(rpm=6), "b": Limits(rpm=6), "lone": Limits(rpm=6)},
        {"a": "team", "b": "team"},
        {"team": Limits(rpm=10)},
    )
    gate = Gate(principals, groups)

    counts = {
        id: sum(isinstance(ask(gate, principals.by_id[id]), Lease) for _ in range(20))
        for id in ("a", "b", "lone")
    }

    assert counts == {"a": 6, "b": 4, "lone": 6}


def test_the_message_names_limit_and_need_but_no_key() -> None:
    gate, shop = single(rpm=1, usd_per_day=0.5)
    admitted(ask(gate, shop))

    rate = refused(ask(gate, shop))
    money = refused(ask(gate, shop, cost=2_000_000_000))

    assert "1 requests per minute (rpm)" in rate.message
    assert "try again in 1m0s" in rate.message
    assert "needs up to 2, more than the limit of your key: 0.5 dollars per day" in money.message
    assert "shop" not in rate.message + money.message


def test_the_day_is_that_of_the_admission() -> None:
    gate, shop = single(tokens_per_day=100)
    midnight = WALL - WALL % 86_400 + 86_400
    lease = admitted(ask(gate, shop, worst=100, wall=midnight - 1))
    late = refused(ask(gate, shop, worst=1, wall=midnight - 0.5))
    fresh = admitted(ask(gate, shop, worst=100, wall=midnight))

    lease.settle(NOW + 5, 100, 0)
    fresh.settle(NOW + 5, 30, 0)

    assert late.reason == "tokens_per_day"
    assert ratios(gate, wall=midnight) == {("shop", "tokens_per_day"): 0.3}
    assert ratios(gate, wall=midnight + 86_400) == {("shop", "tokens_per_day"): 0.0}


def test_the_demo_principal_is_admitted_like_any_other() -> None:
    principals, groups = configure({})
    demo = principals.add_demo("sk-demo", ["deepseek-chat"])
    gate = Gate(principals, groups)

    lease = admitted(ask(gate, demo, tokens=10))
    lease.settle(NOW, 10, 0)

    assert gate.inflight == 0


def test_two_hundred_aborts_at_random_moments_leave_nothing_reserved() -> None:
    gate, shop = single(rpm=1000, tpm=10**6, concurrent=200, tokens_per_day=10**7, usd_per_day=100)
    random.seed(7)
    billed = 0
    leases = [
        admitted(ask(gate, shop, tokens=4000, worst=9000, cost=9_000_000)) for _ in range(200)
    ]

    random.shuffle(leases)
    for lease in leases:
        produced = random.randrange(0, 4000)
        billed += produced
        lease.settle(NOW + random.random(), produced, produced * 1000)

    assert gate.inflight == 0
    assert ratios(gate)["shop", "concurrent"] == 0.0
    assert ratios(gate)["shop", "tokens_per_day"] == billed / 10**7
    assert ratios(gate)["shop", "usd_per_day"] == billed * 1000 / 10**11


def test_networks_of_a_key_do_not_matter_to_the_gate() -> None:
    network = ipaddress.ip_network("10.0.0.0/8")
    shop = Principal("shop", key_digest("sk"), networks=(network,), limits=Limits(rpm=1))
    gate = Gate(Principals([shop]), {})

    admitted(ask(gate, shop))

    assert refused(ask(gate, shop)).reason == "rpm"


@pytest.mark.parametrize(
    ("limits", "counts", "budget"),
    [
        (Limits(), False, False),
        (Limits(rpm=1, concurrent=1, requests_per_day=1), False, False),
        (Limits(tpm=1), True, False),
        (Limits(tokens_per_day=1), True, True),
        (Limits(tokens_per_month=1), True, True),
        (Limits(usd_per_day=1), True, True),
        (Limits(usd_per_month=1), True, True),
    ],
)
def test_a_purse_knows_whether_tokens_matter_to_the_key_or_its_group(
    limits: Limits, counts: bool, budget: bool
) -> None:
    for gate, shop in (grouped(limits, Limits()), grouped(Limits(), limits)):
        purse = gate.purse(shop)

        assert (purse.counts_tokens, purse.caps_output) == (counts, budget)
