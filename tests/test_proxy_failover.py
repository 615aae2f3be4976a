"""Who is tried for a call, what that costs, and who answers in the end."""

from __future__ import annotations

from time import monotonic
from typing import Any

import pytest

from tests.calls import STREAM, answer, called, fault, model, tries, upstreams
from tests.plane import Plane, play
from tests.rig import scripts as say

# --- attempts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_no_more_is_tried_than_retry_attempts_allows(attempts: int) -> None:
    async def scene() -> None:
        models = {"m": model("abcd", attempts=attempts)}
        async with Plane(upstreams(4), models) as plane:
            caller, providers = called(plane, "abcd", stream=False)
            for provider in providers:
                if provider.got:
                    provider.say(fault(500))

            assert [bool(provider.got) for provider in providers] == [
                n < attempts for n in range(4)
            ]
            assert tries(plane.records[0]) == [(name, "5xx") for name in "abcd"[:attempts]]
            assert caller.answers.only.status == plane.records[0].code == 502
            assert plane.records[0].error == caller.answers.only.code == "upstream_error"
            assert caller.answers.only.headers["x-should-retry"] == "false"
            assert plane.gate.leases[0].settled == [(0, 0)], "a client pays for no failure"
            caller.leave()

    play(scene())


def test_when_the_budget_is_empty_a_paid_attempt_is_the_last() -> None:
    async def scene() -> None:
        models = {"m": model("ab", attempts=9, budget="0%")}
        async with Plane(upstreams(2), models) as plane:
            budget = plane.snapshot.routes["m"].pool.budget
            while budget.withdraw(monotonic()):
                pass
            caller, (first, second) = called(plane, "ab", stream=False)
            first.say(fault(500))

            assert not second.got
            assert tries(plane.records[0]) == [("a", "5xx")]
            assert plane.snapshot.routes["m"].memory.budget_empty == 1
            caller.leave()

    play(scene())


def test_a_refusal_that_cost_nothing_is_made_good_without_budget_or_count() -> None:
    async def scene() -> None:
        models = {"m": model("abcd", attempts=1, budget="0%")}
        async with Plane(upstreams(4), models) as plane:
            caller, providers = called(plane, "abcd", stream=False)
            for provider, status in zip(providers, (401, 402, 429), strict=False):
                provider.say(fault(status))
            providers[3].say(answer())

            assert caller.answers.only.status == 200
            assert tries(plane.records[0]) == [
                ("a", "auth_failed"),
                ("b", "payment"),
                ("c", "rate_limited"),
                ("d", "ok"),
            ]
            caller.leave()

    play(scene())


def test_a_verdict_on_the_request_itself_is_passed_on_at_once() -> None:
    async def scene() -> None:
        models = {"m": model("ab", fallback=["n"]), "n": {"static": "sorry"}}
        async with Plane(upstreams(2), models) as plane:
            caller, (first, second) = called(plane, "ab", stream=False)
            first.say(fault(422, "bad_tool"))

            assert caller.answers.only.status == 422
            assert caller.answers.only.code == "bad_tool"
            assert not second.got
            assert tries(plane.records[0]) == [("a", "client_error")]
            assert plane.records[0].outcome == "client_error"
            assert plane.records[0].fallback is None
            caller.leave()

    play(scene())


def test_the_only_member_is_tried_once_more_after_a_rest() -> None:
    async def scene() -> None:
        async with Plane(models={"m": model("a")}) as plane:
            caller, (provider,) = called(plane, stream=False)
            start = monotonic()
            provider.say(fault(500))
            assert caller.got == b""
            provider.wire.sent.clear()
            await provider.hears(b"POST ")

            assert 0.02 <= monotonic() - start < 1.0
            provider.say(answer())
            assert caller.answers.only.status == 200
            assert tries(plane.records[0]) == [("a", "5xx"), ("a", "ok")]
            caller.leave()

    play(scene())


def test_nothing_of_a_failed_attempt_reaches_the_client() -> None:
    async def scene() -> None:
        models = {"m": model("ab")}
        async with Plane(upstreams(2), models) as plane:
            caller, (first, second) = called(plane, "ab")
            first.say(say.SSE_HEAD + say.frame(b": hello\n\n") + say.frame(say.ROLE))
            first.leave()
            assert caller.got == b""
            second.say(STREAM)

            assert caller.answers.only.body == b"".join(say.EVENTS)
            assert tries(plane.records[0]) == [("a", "reset_before_first_event"), ("b", "ok")]
            caller.leave()

    play(scene())


@pytest.mark.parametrize(
    ("end", "cause", "result"),
    [
        (None, "upstream_truncated", "upstream_truncated"),
        (ConnectionResetError(), "upstream_reset", "upstream_reset"),
    ],
)
def test_after_the_commit_nothing_is_tried_again(
    end: Exception | None, cause: str, result: str
) -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab")}) as plane:
            caller, (first, second) = called(plane, "ab")
            first.say(say.SSE_HEAD + say.frame(say.WORDS[0]))
            first.leave(end)

            record = plane.records[0]
            assert not second.got
            assert tries(record) == [("a", result)]
            assert (record.cause, record.outcome, record.code) == (cause, "stream_truncated", 200)
            assert record.usage is not None
            assert record.usage.source == "estimated"
            assert caller.wire.closed

    play(scene())


# --- fallback -------------------------------------------------------------------------------------


def chain() -> dict[str, Any]:
    return {
        "m": model("a", attempts=1, fallback=["n", "sorry"], price={"input": 100, "output": 100}),
        "n": model("b", attempts=1, price={"input": 1, "output": 1}),
        "sorry": {"static": "sorry"},
    }


def test_the_next_model_answers_under_its_own_name_and_price() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), chain()) as plane:
            caller, (first, second) = called(plane, "ab", stream=False)
            first.say(fault(500))
            assert second.body()["model"] == "n"
            second.say(answer())

            record = plane.records[0]
            assert caller.answers.only.headers["x-relay-fallback"] == "n"
            assert (record.model, record.served_model, record.fallback) == ("m", "n", "n")
            assert record.upstream == "b"
            assert record.cost == 21 * 1000
            assert tries(record) == [("a", "5xx"), ("b", "ok")]
            caller.leave()

    play(scene())


def test_a_text_answers_when_no_model_can() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), chain()) as plane:
            caller, providers = called(plane, "ab", stream=False)
            for provider in providers:
                provider.say(fault(500))

            record = plane.records[0]
            reply = caller.answers.only
            assert reply.status == 200
            assert reply.headers["x-relay-fallback"] == "static"
            assert reply.json()["choices"][0]["message"]["content"] == "sorry"
            assert (record.outcome, record.fallback, record.served_model) == (
                *("degraded", "static"),
                "sorry",
            )
            assert tries(record) == [("a", "5xx"), ("b", "5xx")]
            assert plane.gate.leases[0].settled == [(0, 0)]
            caller.leave()

    play(scene())


def test_without_a_text_the_last_failure_is_the_answer() -> None:
    async def scene() -> None:
        models = chain()
        models["m"]["fallback"] = ["n"]
        async with Plane(upstreams(2), models) as plane:
            caller, (first, second) = called(plane, "ab", stream=False)
            first.say(fault(500))
            second.say(fault(503))

            assert caller.answers.only.status == 503
            assert caller.answers.only.code == "upstream_overloaded"
            caller.leave()

    play(scene())
