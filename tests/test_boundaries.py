"""A bug of ours stays where it is: its call ends with an error, all others and every deadline go on.

Bugs are put in by hand: an endpoint whose prepared head is no bytes makes the attempt on it raise as it begins, whoever
called it: a connection's data or its end, a dial, a deadline.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from relay.admission.principals import Principals
from relay.timers import NEVER, TICK, Wheel
from tests.calls import STREAM, Dials, answer, fault, model, upstreams
from tests.plane import Plane, play, turn
from tests.rig import scripts as say
from tests.rig.deadlines import within
from tests.rig.raw_client import request
from tests.wires import Caller, Provider


def stumbling(names: str = "ab") -> Plane:
    """A plane whose second member makes whoever asks it raise."""
    times = {"first_token": "60ms"}
    return Plane(upstreams(len(names), **times), {"m": model(names, attempts=9)})


def trap(plane: Plane, name: str = "b") -> None:
    plane.endpoint(name).request_head = cast(bytes, object())


async def ended(plane: Plane, caller: Caller) -> None:
    """The call got its answer, once, and nothing is left of it."""
    record = await plane.record()
    await turn()
    assert record.code == caller.answers[0].status == 500
    assert caller.answers[0].code == record.error == "internal_error"
    assert len(plane.records) == 1
    assert plane.bugs
    plane.bugs.clear()
    plane.settled()


@pytest.mark.parametrize("way", ["an answer", "a close", "a reset", "silence", "a dial"])
def test_a_bug_in_a_further_attempt_ends_its_call_whatever_led_to_it(way: str) -> None:
    async def scene() -> None:
        async with stumbling() as plane:
            trap(plane)
            plane.provider("b")
            dials = Dials.of(plane)
            provider = None if way == "a dial" else plane.provider("a")
            caller = plane.caller()
            caller.ask()
            match way, provider:
                case "an answer", Provider():
                    provider.say(fault(500))
                case "a close", Provider():
                    provider.leave()
                case "a reset", Provider():
                    provider.leave(ConnectionResetError())
                case "a dial", _:
                    dials.open[0].fails("connect_refused")
                case _:
                    pass

            await ended(plane, caller)
            caller.leave()

    play(scene())


def test_a_bug_in_the_first_attempt_ends_its_call() -> None:
    async def scene() -> None:
        async with stumbling("a") as plane:
            trap(plane, "a")
            plane.provider("a")
            caller = plane.caller()
            caller.ask()

            await ended(plane, caller)
            caller.leave()

    play(scene())


def test_a_bug_on_a_new_connection_ends_its_call() -> None:
    async def scene() -> None:
        async with stumbling("a") as plane:
            trap(plane, "a")
            dials = Dials.of(plane)
            caller = plane.caller()
            caller.ask()
            dials.open[0].connects()

            await ended(plane, caller)
            caller.leave()

    play(scene())


def test_a_bug_after_a_rest_ends_its_call() -> None:
    """The second try of the only member is begun by the wheel."""

    async def scene() -> None:
        async with stumbling("a") as plane:
            caller, provider = plane.caller(), plane.provider("a")
            caller.ask()
            provider.say(fault(500))
            trap(plane, "a")

            await ended(plane, caller)
            caller.leave()

    play(scene())


class Forgetful(Principals):
    """Keys whose look-up has a bug."""

    def __init__(self) -> None:
        pass

    def authenticate(self, *args: Any, **more: Any) -> Any:
        raise ZeroDivisionError


@pytest.mark.parametrize("pipelined", [False, True], ids=["alone", "pipelined"])
def test_a_bug_in_judging_a_head_is_a_500_wherever_the_request_stands(pipelined: bool) -> None:
    async def scene() -> None:
        async with Plane() as plane:
            plane.snapshot.principals = Forgetful()
            caller = plane.caller()
            before = request("GET", "/livez", key=None) if pipelined else b""
            caller.say(before + request("GET", "/v1/models"))
            await turn()

            assert caller.answers[-1].status == 500
            assert caller.answers[-1].code == "internal_error"
            assert caller.wire.closed or caller.wire.half_closed
            assert [record.code for record in plane.records] == [500]
            assert len(plane.bugs) == 1
            plane.bugs.clear()
            caller.leave()

    play(scene())


def test_a_bug_in_one_call_does_not_touch_the_others() -> None:
    async def scene() -> None:
        async with stumbling() as plane:
            trap(plane)
            plane.provider("b")
            good, other = plane.caller(), plane.provider("a")
            good.ask()
            other.say(STREAM[:-200])
            bad, provider = plane.caller(), plane.provider("a")
            bad.ask()
            provider.say(fault(500))
            await plane.record()
            other.say(STREAM[-200:])

            assert good.answers.only.whole
            assert good.answers.only.body == b"".join(say.EVENTS)
            assert bad.answers[0].status == 500
            plane.bugs.clear()
            good.leave()
            bad.leave()

    play(scene())


# --- deadlines ------------------------------------------------------------------------------------


class Item:
    """Something with a deadline, and perhaps a bug."""

    def __init__(self, bug: bool = False) -> None:
        self.slot = NEVER
        self.bug = bug
        self.told = asyncio.Event()

    def expired(self, now: float) -> None:
        if self.bug:
            raise ZeroDivisionError
        self.told.set()


@pytest.mark.parametrize("lag", [False, True], ids=["an item", "the watcher of the lag"])
def test_a_bug_at_one_deadline_stops_no_other(lag: bool) -> None:
    """Also those in the same slot, and those that are set later."""

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        seen: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: seen.append(context))
        wheel = Wheel(loop)
        if lag:
            wheel.on_lag = lambda _: 1 / 0  # type: ignore[assignment]
        items = [Item() for _ in range(6)]
        due = loop.time() + 2 * TICK
        for item in (items[0], Item(bug=True), items[1], Item(bug=True), items[2]):
            wheel.add(item, due)
        wheel.add(items[3], due + 3 * TICK)
        async with within(2.0):
            await items[3].told.wait()
        wheel.add(items[4], loop.time())
        async with within(2.0):
            await items[4].told.wait()
        wheel.close()

        assert all(item.told.is_set() for item in items[:5])
        assert seen, "it is reported"

    play(scene())


def test_after_a_bug_at_a_deadline_the_next_call_still_has_its_own() -> None:
    async def scene() -> None:
        async with stumbling("a") as plane:
            caller, provider = plane.caller(), plane.provider("a")
            caller.ask()
            provider.say(fault(500))
            trap(plane, "a")
            await plane.record()
            plane.bugs.clear()
            caller.leave()

            plane.endpoint("a").request_head = b"POST / HTTP/1.1\r\n"
            plane.provider("a")
            caller = plane.caller()
            caller.ask()
            record = await plane.record(1)

            assert record.code == 504
            caller.leave()

    play(scene())


# --- what is left to be done ----------------------------------------------------------------------


def test_a_whole_answer_outlives_a_bug_in_who_watches_calls() -> None:
    """Records are emitted last: the client has its answer by then, and the lease is given back."""

    async def scene() -> None:
        async with Plane() as plane:
            emit = plane.proxy.emit

            def broken(record: Any) -> None:
                emit(record)
                raise ZeroDivisionError

            plane.proxy.emit = broken
            caller, provider = plane.caller(), plane.provider()
            caller.ask(stream=False)
            provider.say(answer())
            await turn()

            assert caller.answers[0].json() == say.completion()
            assert len(caller.answers) == 1
            assert len(plane.records) == 1
            plane.bugs.clear()
            plane.proxy.emit = emit
            plane.settled()
            caller.leave()

    play(scene())
