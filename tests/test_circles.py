"""A call's objects die with it: none hold each other in a circle, for the garbage collector to find later."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.calls import STREAM, answer, called, fault
from tests.plane import Plane, play

NAMES = {"Attempt", "Bill", "Call", "CallRecord", "Exchange", "Failover", "Limits", "Stream"}


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
            plane.records.clear()
            plane.gate.leases.clear()

            gc.collect()

            found = {type(item).__name__ for item in saved}
            assert not found & NAMES

    play(scene())
