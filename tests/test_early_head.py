"""Signs of life before the first token (`heartbeat.before_commit`): an early 200, and the truth all the same."""

from __future__ import annotations

import json

import pytest

from tests.calls import STREAM, answer, called, fault, model, tries, upstreams
from tests.plane import Plane, play
from tests.rig import scripts as say
from tests.rig.relay_process import Fields
from tests.wires import asked

EARLY: Fields = {"heartbeat": {"interval": "30ms", "before_commit": True}}
COMMENT = b": keep-alive\n\n"


def test_a_silent_upstream_is_bridged_by_comments() -> None:
    async def scene() -> None:
        async with Plane(models={"m": model("a", **EARLY)}) as plane:
            caller, (provider,) = called(plane)
            await caller.hears(COMMENT, 2)
            assert caller.got.startswith(b"HTTP/1.1 200 OK\r\n")
            provider.say(STREAM)
            await caller.hears(b"[DONE]")

            reply = caller.answers.only
            assert reply.whole
            assert reply.body.replace(COMMENT, b"") == b"".join(say.EVENTS)
            assert plane.records[0].outcome == "ok"
            assert (plane.records[0].ttft or 0) >= 0.06, "a comment is no token"
            caller.leave()

    play(scene())


def test_a_quick_answer_has_no_comment() -> None:
    async def scene() -> None:
        async with Plane(models={"m": model("a", **EARLY)}) as plane:
            caller, (provider,) = called(plane)
            provider.say(STREAM)

            assert caller.answers.only.body == b"".join(say.EVENTS)
            caller.leave()

    play(scene())


def test_another_upstream_still_takes_over() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab", **EARLY)}) as plane:
            caller, (first, second) = called(plane, "ab")
            await caller.hears(COMMENT)
            first.say(fault(500))
            second.say(STREAM)

            await caller.hears(b"[DONE]")
            assert caller.answers.only.body.replace(COMMENT, b"") == b"".join(say.EVENTS)
            assert tries(plane.records[0]) == [("a", "5xx"), ("b", "ok")]
            caller.leave()

    play(scene())


def test_when_nobody_is_left_the_error_is_an_event_and_the_transfer_breaks() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab", attempts=2, **EARLY)}) as plane:
            caller, (first, second) = called(plane, "ab")
            await caller.hears(COMMENT)
            first.say(fault(500))
            second.say(fault(502))

            reply = caller.answers.only
            assert not reply.whole, "no last chunk"
            assert caller.wire.closed
            event = reply.body.replace(COMMENT, b"")
            assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == "upstream_error"
            assert b"[DONE]" not in reply.body
            record = plane.records[0]
            assert (record.code, record.outcome, record.error) == (
                200,
                "upstream_error",
                "upstream_error",
            )
            assert plane.gate.leases[0].settled == [(0, 0)]

    play(scene())


def test_the_fallback_text_goes_on_under_the_head_that_is_out() -> None:
    async def scene() -> None:
        models = {"m": model("a", fallback=["n"], attempts=1, **EARLY), "n": {"static": "sorry"}}
        async with Plane(models=models) as plane:
            caller, (provider,) = called(plane)
            await caller.hears(COMMENT)
            provider.say(fault(500))

            reply = caller.answers.only
            assert reply.whole
            assert b"sorry" in reply.body
            assert reply.body.endswith(b"data: [DONE]\n\n")
            caller.leave()

    play(scene())


def test_a_client_that_leaves_between_comments_cancels() -> None:
    async def scene() -> None:
        async with Plane(models={"m": model("a", **EARLY)}) as plane:
            caller, (provider,) = called(plane)
            await caller.hears(COMMENT)
            caller.leave()

            assert provider.wire.closed
            assert plane.records[0].outcome == "client_cancelled"

    play(scene())


def test_plain_calls_have_no_room_for_comments() -> None:
    async def scene() -> None:
        async with Plane(models={"m": model("a", **EARLY)}) as plane:
            caller, (provider,) = called(plane, stream=False)
            for _ in range(4):
                await plane.tick()
            assert caller.got == b""
            provider.say(answer())
            assert caller.answers.only.status == 200
            caller.leave()

    play(scene())


def test_a_call_in_the_queue_gets_them_too() -> None:
    async def scene() -> None:
        places = {name: fields | {"max_concurrent": 1} for name, fields in upstreams(1).items()}
        async with Plane(places, {"m": model("a", **EARLY)}) as plane:
            first, (provider,) = called(plane)
            second = plane.caller()
            second.ask()
            await second.hears(COMMENT)
            provider.say(STREAM)
            await provider.hears(b"POST ", 2)
            provider.say(STREAM)
            await second.hears(b"[DONE]")
            first.leave()
            second.leave()

    play(scene())


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_framing_is_the_clients(version: str) -> None:
    async def scene() -> None:
        async with Plane(models={"m": model("a", **EARLY)}) as plane:
            provider = plane.provider("a")
            caller = plane.caller()
            caller.say(asked(version=version))
            await caller.hears(COMMENT)
            provider.say(STREAM)
            await caller.hears(b"[DONE]")

            assert (b"transfer-encoding" in caller.got) == (version == "1.1")
            assert caller.wire.closed == (version == "1.0")
            caller.leave()

    play(scene())
