"""What the figures promise, on a small N: enough to see a promise broken, too little to be published."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.figures import greedy, hedging, outage, prefixes, quickest, recovery

pytestmark = pytest.mark.alone


def test_no_client_sees_an_upstream_die_before_the_first_token() -> None:
    found = asyncio.run(recovery.one("kill", rate=20, warm=2, dead=2, after=0.5))

    assert found["errors_before_the_first_token"] == 0, found
    assert found["calls_while_dead"] >= 40
    assert found["ttft_p99_back_after_s"] <= 2 * recovery.CONNECT
    # The first ejection is of 5 s at most, the second of 10 s, if a probe came while it was dead.
    assert found["returned_after_s"] < 5 * 2 ** max(0, found["ejections_while_dead"] - 1) + 1


def test_silence_costs_no_error_and_a_probe_no_call() -> None:
    found = asyncio.run(
        recovery.one("stall", rate=40, warm=2, dead=8, after=0.5, probe={"interval": "1s"})
    )

    assert found["errors_before_the_first_token"] == 0, found
    # Five in a row are to be silent for `first_token`, and at this pace two are at a time.
    assert found["slow_for_s"] <= recovery.FIRST_TOKEN + 0.5
    assert found["slow_calls"] <= 12
    assert found["slow_calls_later"] == 0, "a call was the probe"
    # The probe under way when it comes back may hang for connect + 5 s, and the next comes within 1 s.
    assert found["returned_after_s"] < 1 + 5 + 1 + 1


@pytest.mark.parametrize("kind", outage.KINDS)
def test_a_total_outage_multiplies_nothing_and_is_told_at_once(kind: str) -> None:
    found = asyncio.run(outage.one(kind, rate=50, seconds=2))

    assert found["attempts"] <= found["allowed"], found
    assert {status for status, _ in found["answers"]} == {503 if kind == "503" else 502}
    assert found["told_p50_ms"] < 10


def test_conversations_stay_with_the_account_that_holds_their_prefix() -> None:
    found = asyncio.run(prefixes.one(conversations=60, turns=8, callers=20, rest=1))

    assert found["failed"] == 0
    assert found["held_share"] >= 0.9, found
    assert found["load_of_mean"] <= 1.35, found


def test_most_calls_go_to_the_quicker_upstream_and_return_to_it() -> None:
    found = asyncio.run(quickest.one(rate=40, first=3, bad=3, last=12))

    assert found["failed"] == 0
    assert found["while_quick"]["share_of_quick"] > 0.75, found
    assert found["while_slow"]["share_of_quick"] < 0.3, found
    assert found["back_after_s"] is not None, found


def test_hedges_cut_the_tail_within_their_budget() -> None:
    found = asyncio.run(hedging.one(rate=40, seconds=6))

    assert found["failed"] == 0
    assert found["ttft_max_ms"] < hedging.SLOW * 1000, found
    assert found["hedges"]["won"] >= 1
    assert found["hedges_share"] <= hedging.BUDGET


def test_a_greedy_key_does_not_delay_a_quiet_one() -> None:
    found = asyncio.run(greedy.one(greedy=100, places=2, quiet=5))

    assert found["quiet_calls"] == 5
    assert found["still_waiting_at_the_end"] > 0
    assert found["wait_max_services"] <= 2, found
