"""A call's objects die with it: none hold each other in a circle, for the garbage collector to find later."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.calls import STREAM, answer, called, fault, model, upstreams
from tests.plane import Plane, play
from tests.rig import scripts as say
from tests.rig.relay_process import Fields

NAMES = {
    *("Attempt", "Bill", "Call", "CallRecord", "Exchange", "Failover", "Limits", "Stream"),
    *("ResumableStream", "Ticket", "Transcript"),
}


@pytest.fixture
def saved() -> Iterator[list[object]]:
    """What the collector finds from here on."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield gc.garbage
    gc.set_debug(0)
    gc.enable()
    gc.garbage.clear()


def in_circles(plane: Plane, saved: list[object]) -> set[str]:
    """What of ended calls only the collector finds."""
    plane.records.clear()
    plane.gate.leases.clear()
    gc.collect()
    return {type(item).__name__ for item in saved} & NAMES


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("end", ["whole", "error", "left"])
def test_an_ended_call_leaves_no_circle(saved: list[object], stream: bool, end: str) -> None:
    async def scene() -> None:
        async with Plane() as plane:
            caller, (provider,) = called(plane, stream=stream)
            if end == "whole":
                provider.say(STREAM if stream else answer())
            elif end == "error":
                provider.say(fault(400))
            if end != "left":
                assert caller.answers.only.status in (200, 400)
            caller.leave()
            assert len(plane.records) == 1

            assert not in_circles(plane, saved)

    play(scene())


def test_neither_does_one_that_was_hedged_that_waited_and_that_was_resumed(
    saved: list[object],
) -> None:
    async def scene() -> None:
        ways: Fields = {"hedge": {"after": "20ms", "budget": "100%"}, "resume": "deepseek-prefix"}
        places = {name: fields | {"max_concurrent": 1} for name, fields in upstreams(2).items()}
        async with Plane(places, {"m": model("ab", **ways)}) as plane:
            hedges = plane.snapshot.routes["m"].pool.hedges
            assert hedges is not None
            hedges.deposit(0.0)
            caller, (_, second) = called(plane, "ab")
            await second.hears(b"POST ")
            waiting = plane.caller()
            waiting.ask()
            assert waiting.got == b""
            cut = say.SSE_HEAD + b"".join(map(say.frame, say.EVENTS[:3]))
            second.say(cut)
            second.leave()
            for each in (caller, waiting):
                each.leave()
            assert len(plane.records) == 2

            assert not in_circles(plane, saved)

    play(scene())
