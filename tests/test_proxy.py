"""The life of calls, by hand: who is tried, what it costs, what the client gets, and one record of it all."""

from __future__ import annotations

from typing import Any

import pytest

from relay.admission.gate import Lease
from relay.upstream.scrub import Scrubber
from relay.usage import Usage
from tests.calls import STREAM, answer, called, fault, model, tries
from tests.plane import Ledger, Plane, play, turn
from tests.rig import scripts as say
from tests.rig.raw_client import KEY
from tests.wires import asked

# --- one answer -----------------------------------------------------------------------------------


def test_a_plain_call_leaves_one_whole_record_and_its_usage_is_settled() -> None:
    price = {"input": 1, "output": 2}

    async def scene() -> None:
        async with Plane(models={"m": model("a", price=price)}) as plane:
            caller, provider = plane.caller("10.0.0.7"), plane.provider()
            caller.ask(stream=False)
            provider.say(answer(more=b"x-request-id: up-1\r\nopenai-version: 7\r\n"))

            reply = caller.answers.only
            assert reply.json() == say.completion()
            assert reply.headers["x-upstream-request-id"] == "up-1"
            assert reply.headers["openai-version"] == "7"
            record = plane.records[0]
            assert reply.headers["x-request-id"] == record.request_id
            assert tries(record) == [("a", "ok")]
            assert (record.outcome, record.code, record.cause) == ("ok", 200, "done")
            assert (record.model, record.served_model, record.upstream) == ("m", "m", "a")
            assert (record.key, record.client) == ("tester", "10.0.0.7")
            assert record.operation == "chat_completions"
            assert record.upstream_request_id == "up-1"
            assert record.usage == Usage(9, 12)
            assert record.cost == 9 * 1000 + 12 * 2000
            assert record.ttft is None
            assert record.overhead is not None
            assert 0 <= record.overhead <= record.duration
            assert plane.gate.leases[0].settled == [(21, record.cost)]
            caller.leave()

    play(scene())


def test_a_streamed_call_asks_for_its_usage_and_settles_to_it() -> None:
    usage = say.usage_event()

    async def scene() -> None:
        async with Plane() as plane:
            caller, (provider,) = called(plane)
            assert provider.body()["stream_options"] == {"include_usage": True}
            provider.say(
                STREAM.replace(say.frame(say.DONE), say.frame(usage) + say.frame(say.DONE))
            )

            assert caller.answers.only.body == b"".join(say.EVENTS)
            assert plane.records[0].usage == Usage(9, 12)
            assert plane.gate.leases[0].settled == [(21, 0)]
            caller.leave()

    play(scene())


def test_without_a_report_the_settlement_is_an_estimate() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            caller, (provider,) = called(plane)
            provider.say(STREAM)

            usage = plane.records[0].usage
            assert usage is not None
            assert usage.source == "estimated"
            assert usage.output == plane.records[0].events == len(say.EVENTS)
            assert plane.gate.leases[0].settled == [(usage.input + usage.output, 0)]
            caller.leave()

    play(scene())


def test_an_upstream_is_asked_for_its_own_name_of_the_model() -> None:
    models = {"m": {"pool": [{"upstream": "a", "model": "deepseek-v4"}]}}

    async def scene() -> None:
        async with Plane(models=models) as plane:
            caller, (provider,) = called(plane, stream=False)
            assert provider.body()["model"] == "deepseek-v4"
            provider.say(answer())

            assert plane.records[0].model == "m"
            caller.leave()

    play(scene())


def test_an_answer_may_not_outgrow_what_a_budget_reserved_for_it() -> None:
    keys = [{"id": "tester", "key": KEY, "limits": {"tokens_per_day": 100_000}}]

    async def scene() -> None:
        async with Plane(models={"m": model("a", max_output=77)}, keys=keys) as plane:
            for sent, given in ((None, 77), (5, 5)):
                caller, (provider,) = called(plane, stream=False, max_tokens=sent)
                assert provider.body()["max_tokens"] == given
                provider.say(answer())
                caller.leave()

    play(scene())


def test_the_limits_told_with_an_answer_are_those_after_it() -> None:
    keys = [{"id": "tester", "key": KEY, "limits": {"rpm": 100, "tpm": 100_000}}]

    async def scene() -> None:
        async with Plane(keys=keys) as plane:
            caller, (provider,) = called(plane, stream=False)
            provider.say(answer())

            headers = caller.answers.only.headers
            assert headers["x-ratelimit-limit-requests"] == "100"
            assert headers["x-ratelimit-remaining-requests"] == "99"
            # A token comes back about every half of a millisecond.
            assert 100_000 - 21 <= int(headers["x-ratelimit-remaining-tokens"]) < 100_000
            caller.leave()

    play(scene())


# --- bugs of ours ---------------------------------------------------------------------------------


class Broken(Ledger):
    """A gate with a bug."""

    def reserve(self, *args: Any, **more: Any) -> Lease:
        raise ZeroDivisionError


def test_a_bug_before_an_attempt_is_a_500_and_the_next_call_is_served() -> None:
    async def scene() -> None:
        async with Plane(gate=Broken, models={"m": {"static": "x"}}) as plane:
            caller = plane.caller()
            caller.ask(stream=False)
            await turn()

            assert caller.answers[0].status == 500
            assert caller.answers[0].code == "internal_error"
            assert caller.answers[0].headers["x-should-retry"] == "false"
            assert [record.code for record in plane.records] == [500]
            assert [type(bug) for bug in plane.bugs] == [ZeroDivisionError]
            plane.bugs.clear()
            caller.leave()

    play(scene())


class Stumbling(Scrubber):
    """A scrubber with a bug."""

    def __init__(self) -> None:
        super().__init__([], [])

    def __call__(self, text: str, limit: int = 0) -> str:
        raise ZeroDivisionError


def test_a_bug_in_mid_stream_is_an_error_end_that_leaves_nothing() -> None:
    broken = say.event({"error": {"message": "boom", "code": "x"}})

    async def scene() -> None:
        async with Plane() as plane:
            plane.snapshot.scrub = Stumbling()
            caller, (provider,) = called(plane)
            provider.say(say.SSE_HEAD + say.frame(say.WORDS[0]))
            provider.say(say.frame(broken))
            await turn()

            assert not caller.answers.only.whole
            assert b'"error"' in caller.answers.only.body
            assert len(plane.records) == 1
            assert plane.records[0].outcome == "stream_truncated"
            assert provider.wire.closed
            assert [type(bug) for bug in plane.bugs] == [ZeroDivisionError]
            plane.bugs.clear()

    play(scene())


# --- refusals of our own --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "model_named"),
    [
        ({"model": "unknown"}, 404, "unknown"),
        ({"messages": 1}, 400, None),
        ({"n": 0}, 400, None),
    ],
)
def test_a_call_that_is_refused_takes_no_lease_and_asks_nobody(
    body: dict[str, Any], status: int, model_named: str | None
) -> None:
    async def scene() -> None:
        async with Plane() as plane:
            caller, (provider,) = called(plane, **body)

            assert caller.answers.only.status == plane.records[0].code == status
            assert plane.records[0].outcome == "client_error"
            assert plane.records[0].model == model_named
            assert plane.gate.leases == []
            assert not provider.got
            caller.ask(stream=False)
            provider.say(answer())
            assert caller.answers[1].status == 200, "the connection goes on"
            caller.leave()

    play(scene())


def test_nothing_usable_is_told_without_an_attempt() -> None:
    async def scene() -> None:
        async with Plane(models={"m": model("a", attempts=1)}) as plane:
            first, (provider,) = called(plane, stream=False)
            provider.say(fault(401))
            second = plane.caller()
            second.ask(stream=False)

            assert [c.answers.only.status for c in (first, second)] == [503, 503]
            assert second.answers.only.code == "no_upstream_available"
            assert tries(plane.records[1]) == []
            assert plane.records[1].upstream == "none"
            first.leave()
            second.leave()

    play(scene())


def test_while_draining_an_answer_announces_the_close() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            plane.proxy.draining = True
            for data in (asked({"stream": False}), asked(), asked({"model": "x"})):
                provider, caller = plane.provider(), plane.caller()
                caller.say(data)
                provider.say(STREAM if b'"stream": true' in data else answer())
                assert caller.answers.only.whole
                assert caller.answers.only.headers["connection"] == "close"
                assert caller.wire.closed
                provider.leave()

    play(scene())
