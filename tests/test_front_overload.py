"""Connections and calls for which there is no room, by hand: who goes, who is answered, who goes on."""

from __future__ import annotations

from time import monotonic

import pytest

from relay.connection import ClientConnection
from relay.overload import LEAST_IDLE, PRESSED_IDLE
from tests.calls import answer, called
from tests.plane import Plane, play
from tests.rig import scripts as say
from tests.rig.raw_client import chat_body, request
from tests.wires import CHAT, Caller, Reply, asked

MODELS = request("GET", "/v1/models")
LIVEZ = request("GET", "/livez", key=None)
PLAIN = asked({"stream": False})


def short(plane: Plane, *, cap: int = 3) -> None:
    """Room for so many connections."""
    plane.front.port.overload.cap = cap


def idled(plane: Plane, caller: Caller, seconds: float) -> None:
    """It has idled for so long."""
    assert isinstance(caller.protocol, ClientConnection)
    waiting = plane.front.port.waiting
    assert caller.protocol in waiting
    waiting[caller.protocol] = monotonic() - seconds
    order = sorted(waiting, key=waiting.__getitem__)
    for each in order:
        waiting[each] = waiting.pop(each)


def refused(reply: Reply) -> None:
    """The whole answer of one that is overloaded."""
    assert (reply.status, reply.code) == (503, "server_is_overloaded")
    assert reply.json()["error"]["type"] == "service_unavailable_error"
    assert reply.headers["x-should-retry"] == "true"
    assert 1 <= int(reply.headers["retry-after"]) <= 2
    assert 1000 <= int(reply.headers["retry-after-ms"]) < 2000
    assert reply.headers["x-request-id"].startswith("req_")


def busy(plane: Plane, count: int = 1) -> list[Caller]:
    """Connections with a stream under way."""
    callers = []
    for _ in range(count):
        caller, (provider,) = called(plane)
        provider.say(say.SSE_HEAD + b"".join(map(say.frame, say.EVENTS[:3])))
        callers.append(caller)
    return callers


# --- connections ----------------------------------------------------------------------------------


def test_when_full_the_one_that_idled_longest_goes_and_the_new_one_is_served() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            short(plane)
            callers = [plane.caller() for _ in range(3)]
            for caller in callers:
                caller.say(MODELS)
            for caller, seconds in zip(callers, (5.0, 9.0, 7.0), strict=True):
                idled(plane, caller, seconds)

            new = plane.caller()
            new.say(MODELS)
            assert [caller.wire.closed for caller in callers] == [False, True, False]
            newer = plane.caller()
            newer.say(MODELS)

            assert [caller.wire.closed for caller in callers] == [False, True, True]
            assert [reply.status for reply in (*new.answers.all, *newer.answers.all)] == [200, 200]
            assert callers[1].got.count(b"HTTP/1.1") == 1, "closed without a word"
            for caller in (callers[0], new, newer):
                caller.leave()

    play(scene())


@pytest.mark.parametrize("how", ["busy", "just answered", "just come"])
def test_who_works_or_was_just_served_is_not_closed_for_a_new_one(how: str) -> None:
    async def scene() -> None:
        async with Plane() as plane:
            short(plane, cap=1)
            if how == "busy":
                (old,) = busy(plane)
            else:
                old = plane.caller()
                old.say(*([MODELS] if how == "just answered" else []))
            new = plane.caller()
            new.say(PLAIN)

            refused(new.answers.only)
            assert new.answers.only.headers["connection"] == "close"
            assert new.wire.closed or new.wire.half_closed
            assert not old.wire.closed
            assert [record.reason for record in plane.records][-1:] == ["overload"]
            assert plane.records[-1].outcome == "overloaded"
            new.leave()
            old.leave()
            again = plane.caller()
            again.say(MODELS)
            assert again.answers.only.status == 200, "there is room again"
            again.leave()

    play(scene())


def test_without_room_health_is_told_and_a_wrong_key_is_a_wrong_key() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            short(plane, cap=1)
            (old,) = busy(plane)
            statuses = []
            for asks in (LIVEZ, request("GET", "/readyz", key=None), MODELS, asked(key="wrong")):
                caller = plane.caller()
                caller.say(asks)
                statuses.append(caller.answers.only.status)
                assert caller.wire.closed or caller.wire.half_closed
                caller.leave()

            assert statuses == [200, 200, 503, 401]
            old.leave()

    play(scene())


def test_one_without_room_that_says_little_or_nothing_is_told_so_in_the_end() -> None:
    async def scene() -> None:
        async with Plane(server={"timeouts": {"header": "60ms"}}) as plane:
            short(plane, cap=1)
            (old,) = busy(plane)
            for said in (b"", b"POST /v1/chat"):
                caller = plane.caller()
                caller.say(*([said] if said else []))
                await caller.hears(b"server_is_overloaded")

                refused(caller.answers.only)
                assert caller.wire.half_closed
                caller.leave()
            old.leave()

    play(scene())


def test_a_body_that_finds_no_room_is_refused_before_it_comes() -> None:
    body = chat_body(user="x" * 60_000)
    whole = request("POST", CHAT, body, headers={"Content-Type": "application/json"})

    async def scene() -> None:
        async with Plane() as plane:
            short(plane, cap=1)
            (old,) = busy(plane)
            caller = plane.caller()
            caller.say(whole[:1000])

            refused(caller.answers.only)
            assert caller.wire.half_closed, (
                "the rest is read away, or a reset would overtake the answer"
            )
            caller.leave()
            old.leave()

    play(scene())


def test_of_those_without_room_only_so_many_are_there_and_the_first_is_hurried() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            port = plane.front.port
            port.overload.reserved = 12
            short(plane, cap=1)
            (old,) = busy(plane)
            turned = [plane.caller() for _ in range(3)]
            assert [len(caller.answers) for caller in turned] == [0, 0, 0]

            last = plane.caller()
            refused(turned[0].answers.only)
            assert turned[0].wire.closed
            assert [len(caller.answers) for caller in (*turned[1:], last)] == [0, 0, 0]
            await turned[0].lost()
            assert len(port.leaving) == 3

            for caller in (*turned[1:], last):
                caller.leave()
            old.leave()
            assert not port.leaving
            assert not port.waiting

    play(scene())


def test_half_a_head_that_takes_its_time_makes_room_and_is_told_why() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            short(plane, cap=1)
            slow = plane.caller()
            slow.say(PLAIN[:30])
            idled(plane, slow, LEAST_IDLE)
            new = plane.caller()
            new.say(MODELS)

            refused(slow.answers.only)
            assert new.answers.only.status == 200
            slow.leave()
            new.leave()

    play(scene())


def test_under_pressure_only_those_that_idle_for_long_are_closed() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            (stream,) = busy(plane)
            callers = [plane.caller() for _ in range(3)]
            for caller, seconds in zip(callers, (20.0, 16.0, 5.0), strict=True):
                caller.say(MODELS)
                idled(plane, caller, seconds)
            callers[1].say(PLAIN[:30])
            port = plane.front.port
            port.trim(monotonic())
            assert not any(caller.wire.closed for caller in callers)

            port.overload.idle_limit = PRESSED_IDLE
            port.trim(monotonic())

            assert [caller.wire.closed for caller in callers] == [True, False, False]
            assert not stream.wire.closed
            for caller in (*callers[1:], stream):
                caller.leave()

    play(scene())


# --- calls ----------------------------------------------------------------------------------------


def test_while_time_is_short_new_calls_are_refused_and_old_streams_go_on() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            old, (provider,) = called(plane)
            provider.say(say.SSE_HEAD + b"".join(map(say.frame, say.EVENTS[:3])))
            overload = plane.front.port.overload
            overload.shedding, overload.share, overload._credit = True, 0.0, 0.0

            new = plane.caller()
            new.say(PLAIN)
            refused(new.answers.only)
            assert "connection" not in new.answers.only.headers, "it may ask again on this one"
            assert not new.wire.closed
            new.say(MODELS, LIVEZ)
            assert [reply.status for reply in new.answers.all] == [503, 200, 200]
            provider.say(b"".join(map(say.frame, say.EVENTS[3:])) + say.LAST_CHUNK)
            assert old.answers.only.status == 200
            assert old.got.endswith(say.LAST_CHUNK)

            overload.shedding = False
            ready = plane.provider()
            new.say(PLAIN)
            ready.say(answer())

            assert new.answers[3].status == 200
            assert [record.reason for record in plane.records].count("overload") == 1
            assert all(lease.open is False or lease.settled for lease in plane.gate.leases)
            for caller in (old, new):
                caller.leave()

    play(scene())


def test_a_refused_call_reserves_nothing_and_reaches_no_upstream() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            provider = plane.provider()
            overload = plane.front.port.overload
            overload.shedding, overload.share, overload._credit = True, 0.0, 0.0
            caller = plane.caller()
            caller.say(PLAIN)

            refused(caller.answers.only)
            assert plane.gate.leases == []
            assert not provider.got
            assert plane.records[0].key == "tester"
            caller.leave()

    play(scene())
