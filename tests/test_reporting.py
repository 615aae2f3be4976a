"""Token counts: what upstreams are asked for, what they may refuse, and what the client sees of it."""

from __future__ import annotations

import json

import pytest

from relay.errors import PassedThrough, UpstreamFailed
from relay.upstream.reporting import FINAL, LEFT_ALONE, NOTHING, RUNNING, Reporting, is_refusal
from relay.upstream.verdicts import Effect, Failure, Retry
from relay.usage import Usage
from tests.calls import answer, called, model, tries, upstreams
from tests.plane import NOWHERE, Plane, play
from tests.rig import scripts as say
from tests.wires import Caller, Provider

ANSWER = (
    say.SSE_HEAD
    + b"".join(map(say.frame, (*say.EVENTS[:-1], say.usage_event(), say.DONE)))
    + say.LAST_CHUNK
)
SILENT = say.SSE_HEAD + b"".join(map(say.frame, say.EVENTS)) + say.LAST_CHUNK
NO = answer(
    400,
    {
        "error": {
            "message": "Extra inputs are not permitted",
            "type": "invalid_request_error",
            "param": "stream_options",
            "code": None,
        }
    },
)


def options(provider: Provider) -> object:
    """Of the last request on this connection."""
    return json.loads(provider.got.rpartition(b"\r\n\r\n")[2]).get("stream_options")


def events(caller: Caller) -> list[str]:
    return caller.answers.only.body.decode().split("\n\n")


# --- a refusal ------------------------------------------------------------------------------------


def test_an_upstream_that_refuses_the_question_is_asked_without_it() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            caller, (provider,) = called(plane)
            assert options(provider) == {"include_usage": True}

            provider.say(NO)
            assert options(provider) is None
            provider.say(SILENT)

            (record,) = plane.records
            assert caller.answers.only.status == 200
            assert tries(record) == [("a", "client_error"), ("a", "ok")]
            assert record.usage is not None and record.usage.source == "estimated"

    play(scene())


def test_it_is_left_alone_with_the_question_for_a_while() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            _, (provider,) = called(plane)
            provider.say(NO)
            provider.say(SILENT)

            plane.caller().ask()

            assert options(provider) is None
            provider.say(SILENT)
            assert tries(plane.records[1]) == [("a", "ok")]

    play(scene())


def test_a_complaint_that_stays_without_the_question_is_the_clients() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab")}) as plane:
            caller, (provider, other) = called(plane, "ab")
            provider.say(NO)
            provider.say(NO)

            reply = caller.answers.only
            assert (reply.status, reply.json()["error"]["param"]) == (400, "stream_options")
            assert bytes(other.wire.sent) == b"", "it would say the same"
            plane.caller().ask()
            assert options(provider) == {"include_usage": True}, "one client's words prove nothing"
            provider.say(ANSWER)

    play(scene())


def test_a_client_that_asks_itself_gets_the_refusal() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            caller, (provider,) = called(plane, stream_options={"include_usage": True})

            provider.say(NO)

            assert caller.answers.only.status == 400
            assert len(plane.records[0].attempts) == 1

    play(scene())


def test_an_upstream_that_refuses_needs_no_retry_from_the_budget() -> None:
    async def scene() -> None:
        async with Plane(upstreams(1), {"m": model("a", attempts=1, budget="0%")}) as plane:
            provider = plane.provider()
            for _ in range(8):
                plane.caller().ask()
                provider.say(NO)
                provider.say(SILENT)
                plane.endpoint().reporting.refused(-LEFT_ALONE)

            assert [record.outcome for record in plane.records] == ["ok"] * 8
            assert plane.snapshot.routes["m"].memory.budget_empty == 0

    play(scene())


def failure(message: str, param: str | None = None, status: int = 400) -> Failure:
    error = PassedThrough(status, message, None, param, None)
    return Failure("client_error", Retry.NEVER, Effect.NONE, error)


@pytest.mark.parametrize(
    ("said", "refusal"),
    [
        (failure("Unrecognized request argument supplied: stream_options"), True),
        (failure("body.stream_options: Extra inputs are not permitted", status=422), True),
        (failure("unknown field", "stream_options.include_usage"), True),
        (failure("'continuous_usage_stats' is not allowed"), True),
        (failure("messages is required", "messages"), False),
        (Failure("5xx", Retry.PAID, Effect.STRIKE, UpstreamFailed()), False),
    ],
)
def test_which_answers_are_refusals_of_the_question(said: Failure, refusal: bool) -> None:
    assert is_refusal(said) is refusal


def test_another_word_of_the_configuration_asks_anew() -> None:
    reporting = Reporting()
    reporting.refused(100.0)
    assert reporting.asks(100.0 + LEFT_ALONE - 1) == NOTHING
    reporting.configure("final")
    assert reporting.asks(100.0) == NOTHING, "nothing has changed"

    reporting.configure("continuous")

    assert reporting.asks(100.0) == RUNNING
    reporting.configure("none")
    assert reporting.asks(100.0) == NOTHING
    reporting.configure("final")
    assert reporting.asks(100.0) == FINAL


# --- running counts -------------------------------------------------------------------------------


def running(word: str, output: int) -> bytes:
    counts = {"prompt_tokens": 9, "completion_tokens": output, "total_tokens": 9 + output}
    return say.frame(say.delta({"content": word}, usage=counts))


CONTINUOUS = {"a": NOWHERE | {"usage": "continuous"}}


def test_running_counts_bill_a_broken_stream_and_are_kept_from_the_client() -> None:
    async def scene() -> None:
        async with Plane(CONTINUOUS) as plane:
            caller, (provider,) = called(plane)
            asked = options(provider)
            provider.say(say.SSE_HEAD, running("a", 3), running("b", 7), running("c", 11))
            provider.wire.lose(None)

            (record,) = plane.records
            assert asked == {"include_usage": True, "continuous_usage_stats": True}
            assert record.usage == Usage(9, 11, source="continuous")
            assert "usage" not in caller.got.decode()
            words = [
                json.loads(event[6:])["choices"][0]["delta"]["content"]
                for event in caller.got.decode().split("\r\n")
                if event.startswith("data: {") and "choices" in event
            ]
            assert words == ["a", "b", "c"]

    play(scene())


def test_running_counts_end_in_the_report() -> None:
    async def scene() -> None:
        async with Plane(CONTINUOUS) as plane:
            caller, (provider,) = called(plane)

            provider.say(say.SSE_HEAD, running("a", 3), say.frame(say.FINISH))
            provider.say(say.frame(say.usage_event()), say.frame(say.DONE), say.LAST_CHUNK)

            assert plane.records[0].usage == Usage(9, 12)
            assert "usage" not in caller.got.decode()
            assert events(caller)[-2] == "data: [DONE]"

    play(scene())


def test_a_client_that_speaks_of_running_counts_itself_gets_them() -> None:
    async def scene() -> None:
        async with Plane(CONTINUOUS) as plane:
            own = {"include_usage": True, "continuous_usage_stats": True}
            caller, (provider,) = called(plane, stream_options=own)

            provider.say(say.SSE_HEAD, running("a", 3), say.frame(say.FINISH))
            provider.say(say.frame(say.usage_event()), say.frame(say.DONE), say.LAST_CHUNK)

            assert options(provider) == own
            assert caller.got.count(b'"completion_tokens":') == 2

    play(scene())


def test_a_client_that_asks_for_the_last_count_only_gets_no_running_ones() -> None:
    async def scene() -> None:
        async with Plane(CONTINUOUS) as plane:
            caller, (provider,) = called(plane, stream_options={"include_usage": True})

            provider.say(say.SSE_HEAD, running("a", 3), say.frame(say.FINISH))
            provider.say(say.frame(say.usage_event()), say.frame(say.DONE), say.LAST_CHUNK)

            assert caller.got.count(b'"completion_tokens":') == 1

    play(scene())


def test_an_upstream_without_counts_is_asked_for_none() -> None:
    async def scene() -> None:
        async with Plane({"a": NOWHERE | {"usage": "none"}}) as plane:
            _, (provider,) = called(plane)

            assert options(provider) is None
            provider.say(SILENT)

    play(scene())
