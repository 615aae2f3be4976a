"""Which breaks of a stream another upstream mends (`resume`), and what its client gets where none can."""

from __future__ import annotations

import pytest

from tests.calls import called, fault, model, tries, upstreams
from tests.plane import Plane, play
from tests.resumed import FIRST, PREFIX, REST, chunks, text_of
from tests.rig import scripts as say
from tests.rig.relay_process import Fields


@pytest.mark.parametrize(
    "event",
    [
        say.delta({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{"}}]}),
        say.delta({"reasoning_content": "hm"}),
        say.delta({"reasoning": "hm"}),
        say.delta({"content": "x"}, index=1),
        b"data: {broken\n\n",
    ],
)
def test_only_plain_text_is_continued(event: bytes) -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab", **PREFIX)}) as plane:
            caller, (first, other) = called(plane, "ab")
            first.say(FIRST + say.frame(event))
            first.leave()

            assert not other.got
            assert b'"upstream_stream_error"' in caller.got
            assert plane.records[0].outcome == "stream_truncated"
            assert not plane.records[0].resumed

    play(scene())


def test_several_choices_are_not_continued() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab", **PREFIX)}) as plane:
            caller, (first, other) = called(plane, "ab", n=2)
            first.say(FIRST)
            first.leave()

            assert not other.got
            assert b'"upstream_stream_error"' in caller.got

    play(scene())


def test_an_error_event_of_the_upstream_is_a_break_too() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab", **PREFIX)}) as plane:
            caller, (first, other) = called(plane, "ab")
            error = say.event({"error": {"message": "CUDA", "code": 500}})
            first.say(FIRST + say.frame(error + say.DONE))
            assert first.wire.closed
            other.say(REST)

            assert text_of(caller.answers.only.body) == say.TEXT
            assert b"CUDA" not in caller.got
            caller.leave()

    play(scene())


def test_a_half_event_of_the_first_is_not_mixed_with_the_second() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab", **PREFIX)}) as plane:
            caller, (first, other) = called(plane, "ab")
            first.say(FIRST + say.frame(say.WORDS[2][:30]))
            first.leave()
            other.say(REST)

            assert text_of(caller.answers.only.body) == say.TEXT
            caller.leave()

    play(scene())


def test_a_stall_is_continued_elsewhere() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2, idle="60ms"), {"m": model("ab", **PREFIX)}) as plane:
            caller, (first, other) = called(plane, "ab")
            first.say(FIRST)
            await other.hears(b"POST ")
            assert first.wire.closed
            other.say(REST)

            assert text_of(caller.answers.only.body) == say.TEXT
            assert tries(plane.records[0]) == [("a", "idle_timeout"), ("b", "ok")]
            caller.leave()

    play(scene())


def test_the_client_sees_signs_of_life_meanwhile() -> None:
    async def scene() -> None:
        beat: Fields = {"heartbeat": {"interval": "30ms"}}
        async with Plane(upstreams(2), {"m": model("ab", **PREFIX, **beat)}) as plane:
            caller, (first, other) = called(plane, "ab")
            first.say(FIRST)
            first.leave()
            await caller.hears(b": keep-alive\n\n", 2)
            other.say(REST)

            assert text_of(caller.answers.only.body) == say.TEXT
            caller.leave()

    play(scene())


def test_without_another_upstream_the_same_may_go_on() -> None:
    async def scene() -> None:
        async with Plane(upstreams(1), {"m": model("a", **PREFIX)}) as plane:
            provider, successor = plane.provider("a"), plane.provider("a")
            caller = plane.caller()
            caller.ask()
            first, other = (provider, successor) if provider.got else (successor, provider)
            first.say(FIRST)
            first.leave()
            other.say(REST)

            assert text_of(caller.answers.only.body) == say.TEXT
            caller.leave()

    play(scene())


@pytest.mark.parametrize("status", [400, 422, 429, 500])
def test_when_nobody_can_go_on_the_end_is_the_honest_one(status: int) -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab", **PREFIX)}) as plane:
            caller, (first, other) = called(plane, "ab")
            first.say(FIRST)
            first.leave()
            other.say(fault(status))

            reply = caller.answers.only
            assert not reply.whole
            assert b"[DONE]" not in reply.body
            assert chunks(reply.body)[-1]["error"]["code"] == "upstream_stream_error"
            record = plane.records[0]
            assert (record.outcome, record.cause) == ("stream_truncated", "upstream_truncated")
            assert record.usage is not None
            assert plane.snapshot.routes["m"].memory.resumes == {"failed": 1}

    play(scene())


def test_a_second_break_is_told() -> None:
    async def scene() -> None:
        async with Plane(upstreams(3), {"m": model("abc", **PREFIX)}) as plane:
            caller, (first, other, third) = called(plane, "abc")
            first.say(FIRST)
            first.leave()
            other.say(say.SSE_HEAD + say.frame(say.WORDS[2]))
            other.leave()

            assert not third.got
            assert b'"upstream_stream_error"' in caller.got
            assert not caller.answers.only.whole

    play(scene())


def test_a_client_that_leaves_meanwhile_cancels_the_successor() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab", **PREFIX)}) as plane:
            caller, (first, other) = called(plane, "ab")
            first.say(FIRST)
            first.leave()
            assert other.got
            caller.leave()

            assert other.wire.closed
            assert plane.records[0].outcome == "client_cancelled"
            assert plane.records[0].cause == "client_gone"

    play(scene())


def test_without_retry_budget_nothing_is_continued() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab", budget="0%", **PREFIX)}) as plane:
            budget = plane.snapshot.routes["m"].pool.budget
            while budget.withdraw(0.0):
                pass
            caller, (first, other) = called(plane, "ab")
            while budget.withdraw(0.0):
                pass
            first.say(FIRST)
            first.leave()

            assert not other.got
            assert b'"upstream_stream_error"' in caller.got

    play(scene())


def test_an_answer_that_is_whole_is_not_continued() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab", **PREFIX)}) as plane:
            caller, (first, other) = called(plane, "ab")
            first.say(FIRST + say.frame(say.FINISH))
            first.leave()

            assert not other.got
            assert plane.records[0].cause == "done_missing"
            caller.leave()

    play(scene())


def test_a_route_without_resume_asks_nobody() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab")}) as plane:
            caller, (first, other) = called(plane, "ab")
            first.say(FIRST)
            first.leave()

            assert not other.got
            assert b'"upstream_stream_error"' in caller.got

    play(scene())
