"""A second attempt because of silence: when it is made, who wins, what it costs."""

from __future__ import annotations

from time import monotonic

import pytest

from relay.upstream.budget import RetryBudget
from relay.upstream.percentile import ENOUGH, KEPT, Silences
from tests.calls import STREAM, answer, called, fault, model, tries, upstreams
from tests.plane import Plane, play
from tests.rig import scripts as say
from tests.rig.relay_process import Fields
from tests.wires import Caller, Provider

SOON: Fields = {"hedge": {"after": "20ms", "budget": "100%"}}
ROLE = say.SSE_HEAD + say.frame(say.EVENTS[0])


def hedges(plane: Plane) -> dict[str, int]:
    return plane.snapshot.routes["m"].memory.hedges


def pay(plane: Plane) -> None:
    """What earlier calls would have put into the budget of hedges."""
    budget = plane.snapshot.routes["m"].pool.hedges
    assert budget is not None
    budget.deposit(monotonic())


def hedged(plane: Plane, names: str = "ab") -> tuple[Caller, list[Provider]]:
    pay(plane)
    return called(plane, names)


def test_a_silent_attempt_is_joined_by_a_second_and_the_first_content_wins() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab", **SOON)}) as plane:
            caller, (first, second) = hedged(plane)
            await second.hears(b"POST ")
            second.say(STREAM)

            await caller.hears(b"[DONE]")
            assert first.wire.closed, "the loser hears of it at once"
            assert tries(plane.records[0]) == [("a", "cancelled"), ("b", "ok")]
            assert plane.records[0].hedged
            assert plane.records[0].upstream == "b"
            assert hedges(plane) == {"won": 1}
            assert plane.snapshot.routes["m"].memory.waste["a"] > 0
            assert len(plane.gate.leases) == 1, "the reservation is the call's, not the attempt's"
            caller.leave()

    play(scene())


def test_the_first_attempt_may_still_win() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab", **SOON)}) as plane:
            caller, (first, second) = hedged(plane)
            await second.hears(b"POST ")
            first.say(STREAM)

            await caller.hears(b"[DONE]")
            assert second.wire.closed
            assert tries(plane.records[0]) == [("b", "cancelled"), ("a", "ok")]
            assert hedges(plane) == {"lost": 1}
            caller.leave()

    play(scene())


def test_a_role_and_comments_are_silence_too() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab", **SOON)}) as plane:
            caller, (first, second) = hedged(plane)
            first.say(ROLE, say.frame(b": working\n\n"))
            await second.hears(b"POST ")
            second.say(STREAM)
            await caller.hears(b"[DONE]")
            caller.leave()

    play(scene())


def test_an_error_never_wins() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab", **SOON)}) as plane:
            caller, (first, second) = hedged(plane)
            await second.hears(b"POST ")
            second.say(fault(500))
            assert caller.got == b""
            first.say(STREAM)

            await caller.hears(b"[DONE]")
            assert tries(plane.records[0]) == [("b", "5xx"), ("a", "ok")]
            assert hedges(plane) == {"failed": 1}
            caller.leave()

    play(scene())


def test_when_the_first_fails_its_hedge_is_the_second_try() -> None:
    async def scene() -> None:
        models = {"m": model("abc", **SOON)}
        async with Plane(upstreams(3), models) as plane:
            caller, (first, second, third) = hedged(plane, "abc")
            await second.hears(b"POST ")
            first.say(fault(500))
            assert not third.got, "one is under way already"
            second.say(STREAM)

            await caller.hears(b"[DONE]")
            assert tries(plane.records[0]) == [("a", "5xx"), ("b", "ok")]
            assert hedges(plane) == {"won": 1}
            caller.leave()

    play(scene())


def test_without_budget_there_is_no_hedge() -> None:
    async def scene() -> None:
        few: Fields = {"hedge": {"after": "20ms", "budget": "5%"}}
        async with Plane(upstreams(2), {"m": model("ab", **few)}) as plane:
            caller, (first, second) = called(plane, "ab")
            while not hedges(plane):
                await plane.tick()

            assert hedges(plane) == {"refused": 1}
            assert not second.got
            first.say(STREAM)
            await caller.hears(b"[DONE]")
            assert not plane.records[0].hedged
            caller.leave()

    play(scene())


def test_hedges_are_never_more_than_their_share_of_the_calls() -> None:
    budget = RetryBudget(0.05, floor=0)
    made = calls = 0
    for step in range(100_000):
        now = step * 0.003
        budget.deposit(now)
        calls += 1
        made += budget.withdraw(now)

        assert made <= 0.05 * calls
    assert made >= 0.049 * calls


def test_a_quiet_model_gets_its_share_of_hedges_too() -> None:
    budget = RetryBudget(0.05, floor=0)
    for step in range(20):
        assert not budget.withdraw(step * 7.0)
        budget.deposit(step * 7.0)

    assert budget.withdraw(140.0)
    assert not budget.withdraw(140.0)


@pytest.mark.parametrize("status", [429, 503, 529])
def test_a_call_that_met_overload_is_not_hedged(status: int) -> None:
    async def scene() -> None:
        async with Plane(upstreams(3), {"m": model("abc", **SOON)}) as plane:
            caller, (first, second, third) = hedged(plane, "abc")
            first.say(fault(status))
            assert second.got
            while not hedges(plane):
                await plane.tick()

            assert hedges(plane) == {"refused": 1}
            assert not third.got
            second.say(STREAM)
            await caller.hears(b"[DONE]")
            caller.leave()

    play(scene())


def test_a_full_member_is_no_place_for_a_hedge() -> None:
    async def scene() -> None:
        both = upstreams(2)
        both["b"] = both["b"] | {"max_concurrent": 1}
        models = {"m": model("ab", **SOON), "other": model("b")}
        async with Plane(both, models) as plane:
            busy = plane.provider("b")
            taken = plane.caller()
            taken.ask(model="other")
            assert busy.got
            caller, (first,) = hedged(plane, "a")
            while not hedges(plane):
                await plane.tick()

            assert hedges(plane) == {"refused": 1}
            first.say(STREAM)
            busy.say(STREAM)
            await caller.hears(b"[DONE]")
            caller.leave()
            taken.leave()

    play(scene())


def test_attempts_that_are_under_way_count_against_retry_attempts() -> None:
    async def scene() -> None:
        models = {"m": model("ab", attempts=1, **SOON)}
        async with Plane(upstreams(2), models) as plane:
            caller, (first, second) = hedged(plane)
            while not hedges(plane):
                await plane.tick()

            assert not second.got
            first.say(STREAM)
            await caller.hears(b"[DONE]")
            caller.leave()

    play(scene())


def test_a_plain_call_is_not_hedged() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab", **SOON)}) as plane:
            pay(plane)
            caller, (first, second) = called(plane, "ab", stream=False)
            assert plane.waiting() != []
            for _ in range(4):
                await plane.tick()

            assert not second.got
            first.say(answer())
            assert caller.answers.only.status == 200
            assert hedges(plane) == {}
            caller.leave()

    play(scene())


def test_a_client_that_leaves_cancels_both() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab", **SOON)}) as plane:
            caller, (first, second) = hedged(plane)
            await second.hears(b"POST ")
            caller.leave()

            assert first.wire.closed
            assert second.wire.closed
            assert plane.records[0].outcome == "client_cancelled"
            assert tries(plane.records[0]) == [("a", "cancelled"), ("b", "cancelled")]

    play(scene())


def test_p95_is_the_endpoints_own_and_waits_for_enough_samples() -> None:
    async def scene() -> None:
        p95: Fields = {"hedge": {"after": "p95", "budget": "100%"}}
        async with Plane(upstreams(2), {"m": model("ab", **p95)}) as plane:
            silences = plane.endpoint("a").silences
            assert silences is not None
            caller, (first, second) = hedged(plane)
            for _ in range(3):
                await plane.tick()
            assert hedges(plane) == {}, "nothing is known of a yet"
            first.say(STREAM)
            await caller.hears(b"[DONE]")
            for _ in range(ENOUGH):
                silences.add(0.03)

            pay(plane)
            caller.ask()
            await second.hears(b"POST ")
            second.say(STREAM)
            await caller.hears(b"[DONE]", 2)
            assert hedges(plane) == {"won": 1}
            caller.leave()

    play(scene())


def test_the_percentile_follows_the_latest_samples() -> None:
    silences = Silences()
    for _ in range(ENOUGH - 1):
        silences.add(0.1)
    assert silences.p95() is None

    silences.add(0.1)
    assert silences.p95() == 0.1

    for number in range(KEPT):
        silences.add(number / KEPT)
    assert silences.p95() == 0.95


def test_an_overtaken_attempt_is_a_sample_of_its_silence() -> None:
    async def scene() -> None:
        p95: Fields = {"hedge": {"after": "p95", "budget": "100%"}}
        async with Plane(upstreams(2), {"m": model("ab", **p95)}) as plane:
            silences = plane.endpoint("a").silences
            assert silences is not None
            for _ in range(ENOUGH):
                silences.add(0.03)
            count = len(silences._samples)
            caller, (_, second) = hedged(plane)
            await second.hears(b"POST ")
            second.say(STREAM)
            await caller.hears(b"[DONE]")

            assert len(silences._samples) == count + 1
            assert silences._samples[-1] >= 0.03
            caller.leave()

    play(scene())
