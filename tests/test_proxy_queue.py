"""Calls that wait for a place at a full upstream: how they go on, and how they are refused."""

from __future__ import annotations

import json

from relay.upstream.queue import Queue
from tests.calls import STREAM, answer, called, fault, model, tries
from tests.plane import NOWHERE, Plane, play, turn
from tests.rig.relay_process import Fields
from tests.wires import Caller, Provider, asked


def limited(most: int = 1, **queue: object) -> dict[str, Fields]:
    return {"a": NOWHERE | {"max_concurrent": most, "queue": queue or {"max_wait": "5s"}}}


def queue_of(plane: Plane, name: str = "a") -> Queue:
    queue = plane.endpoint(name).account.queue
    assert isinstance(queue, Queue)
    return queue


def waits(plane: Plane, **body: object) -> Caller:
    """A call that stands in line."""
    before = queue_of(plane).waiting
    caller = plane.caller()
    caller.ask(**body)
    assert caller.got == b""
    assert queue_of(plane).waiting == before + 1
    return caller


def test_a_call_waits_for_a_place_and_goes_on_when_one_falls_free() -> None:
    async def scene() -> None:
        async with Plane(limited(), {"m": model("a")}) as plane:
            first, (provider,) = called(plane)
            second = waits(plane)
            provider.say(STREAM)
            await provider.hears(b"POST ", 2)
            provider.say(STREAM)

            await second.hears(b"[DONE]")
            assert queue_of(plane).waiting == 0
            record = await plane.record(1)
            assert record.queue is not None
            assert record.queue > 0
            assert record.outcome == "ok"
            assert plane.records[0].queue is None
            first.leave()
            second.leave()

    play(scene())


def test_calls_wait_in_order_and_one_place_serves_one() -> None:
    async def scene() -> None:
        async with Plane(limited(), {"m": model("a")}) as plane:
            first, (provider,) = called(plane)
            second, third = waits(plane, user="second"), waits(plane, user="third")
            provider.say(STREAM)
            await provider.hears(b"POST ", 2)
            assert b'"second"' in provider.got
            assert b'"third"' not in provider.got
            provider.say(STREAM)
            await provider.hears(b"POST ", 3)
            provider.say(STREAM)
            await third.hears(b"[DONE]")
            for caller in (first, second, third):
                caller.leave()

    play(scene())


def test_who_has_waited_long_enough_is_told_to_come_back() -> None:
    async def scene() -> None:
        async with Plane(limited(max_wait="40ms"), {"m": model("a")}) as plane:
            first, (provider,) = called(plane)
            second = waits(plane)
            await second.hears(b"\r\n\r\n")

            reply = second.answers.only
            assert reply.status == 503
            assert reply.code == "server_is_overloaded"
            assert int(reply.headers["retry-after"]) >= 1
            assert reply.headers["x-should-retry"] == "true"
            record = plane.records[0]
            assert (record.outcome, record.reason) == ("overloaded", "queue")
            assert record.queue is not None
            assert record.queue >= 0.04
            assert tries(record) == []
            assert plane.gate.leases[1].settled == [(0, 0)]
            provider.say(STREAM)
            first.leave()
            second.leave()

    play(scene())


def test_a_full_queue_refuses_at_once() -> None:
    async def scene() -> None:
        async with Plane(limited(max_calls=1), {"m": model("a")}) as plane:
            first, (provider,) = called(plane)
            second = waits(plane)
            third = plane.caller()
            third.ask()

            assert third.answers.only.status == 503
            assert third.answers.only.code == "server_is_overloaded"
            provider.say(STREAM)
            await provider.hears(b"POST ", 2)
            provider.say(STREAM)
            await second.hears(b"[DONE]")
            for caller in (first, second, third):
                caller.leave()

    play(scene())


def test_a_call_that_could_not_bring_its_first_token_in_time_does_not_wait() -> None:
    async def scene() -> None:
        models = {"m": model("a", first_token="30s")}
        async with Plane(limited(max_wait="60s"), models) as plane:
            first, (provider,) = called(plane)
            queue = queue_of(plane)
            queue._pause = 31.0  # as if every call took so long
            second = plane.caller()
            second.ask()

            assert second.answers.only.status == 503
            assert second.answers.only.headers["retry-after"] == "31"
            patient = waits(plane, stream=False)
            provider.say(STREAM)
            await provider.hears(b"POST ", 2)
            provider.say(answer())
            assert patient.answers.only.status == 200
            for caller in (first, second, patient):
                caller.leave()

    play(scene())


def test_the_callers_own_deadline_counts_in_the_queue() -> None:
    async def scene() -> None:
        async with Plane(limited(), {"m": model("a")}) as plane:
            first, (provider,) = called(plane)
            second = plane.caller()
            second.say(asked(headers={"x-relay-first-token-ms": "50"}))
            assert queue_of(plane).waiting == 1
            await second.hears(b"\r\n\r\n")

            assert second.answers.only.status == 503
            record = plane.records[0]
            assert record.queue is not None
            assert record.queue < 1.0
            provider.say(STREAM)
            first.leave()
            second.leave()

    play(scene())


def test_the_fallback_answers_for_a_queue_that_took_too_long() -> None:
    async def scene() -> None:
        models = {"m": model("a", fallback=["n"]), "n": {"static": "sorry"}}
        async with Plane(limited(max_wait="40ms"), models) as plane:
            first, (provider,) = called(plane)
            second = waits(plane)
            await second.hears(b"[DONE]")

            assert second.answers.only.headers["x-relay-fallback"] == "static"
            assert plane.records[0].outcome == "degraded"
            provider.say(STREAM)
            first.leave()
            second.leave()

    play(scene())


def test_a_client_that_leaves_leaves_the_line() -> None:
    async def scene() -> None:
        async with Plane(limited(), {"m": model("a")}) as plane:
            first, (provider,) = called(plane)
            second = waits(plane)
            second.leave()

            assert queue_of(plane).waiting == 0
            record = plane.records[0]
            assert (record.outcome, record.code) == ("client_cancelled", 499)
            assert record.queue is not None
            assert plane.gate.leases[1].settled == [(0, 0)], "no upstream was asked"
            provider.say(STREAM)
            first.leave()

    play(scene())


def test_after_a_failure_a_call_waits_for_the_member_that_is_full() -> None:
    async def scene() -> None:
        both = limited() | {"b": NOWHERE}
        models = {"m": model("ba"), "other": model("a")}
        async with Plane(both, models) as plane:
            busy, free = plane.provider("a"), plane.provider("b")
            taken = plane.caller()
            taken.ask(model="other")
            caller = plane.caller()
            caller.ask()
            free.say(fault(500))
            assert caller.got == b""
            assert queue_of(plane).waiting == 1
            busy.say(STREAM)
            await busy.hears(b"POST ", 2)
            busy.say(STREAM)

            await caller.hears(b"[DONE]")
            assert tries(await plane.record(1)) == [("b", "5xx"), ("a", "ok")]
            taken.leave()
            caller.leave()

    play(scene())


def test_the_first_of_two_full_upstreams_that_has_a_place_serves() -> None:
    async def scene() -> None:
        both = limited() | {"b": limited()["a"]}
        async with Plane(both, {"m": model("ab")}) as plane:
            one, other = plane.provider("a"), plane.provider("b")
            callers = []
            for _ in range(2):
                callers.append(plane.caller())
                callers[-1].ask()
            third = waits(plane)
            assert queue_of(plane, "b").waiting == 1
            other.say(STREAM)
            await other.hears(b"POST ", 2)
            other.say(STREAM)
            await third.hears(b"[DONE]")

            assert queue_of(plane).waiting == 0
            one.say(STREAM)
            for caller in (*callers, third):
                caller.leave()

    play(scene())


def test_keys_take_turns_in_the_line() -> None:
    async def scene() -> None:
        keys = [
            {"id": "busy", "key": "sk-busy-0123456789"},
            {"id": "quiet", "key": "sk-quiet-0123456789"},
        ]
        async with Plane(limited(), {"m": model("a")}, keys) as plane:
            provider = plane.provider("a")
            callers = []

            def ask(key: str, user: str) -> None:
                callers.append(plane.caller())
                callers[-1].say(asked({"user": user}, key=key))

            for number in range(20):
                ask("sk-busy-0123456789", f"busy{number}")
            ask("sk-quiet-0123456789", "quiet")
            provider.say(STREAM)
            await provider.hears(b"POST ", 2)
            provider.say(STREAM)
            await provider.hears(b"POST ", 3)

            users = [
                json.loads(b"{" + request.partition(b"{")[2])["user"]
                for request in provider.got.split(b"POST ")[1:]
            ]
            assert users == ["busy0", "busy1", "quiet"] or users == ["busy0", "quiet", "busy1"]
            for caller in callers:
                caller.leave()

    play(scene())


def test_a_place_whose_model_was_paused_meanwhile_is_not_used() -> None:
    async def scene() -> None:
        async with Plane(limited(), {"m": model("a")}) as plane:
            first, (provider,) = called(plane)
            second = waits(plane)
            provider.say(fault(429))
            await second.hears(b"\r\n\r\n")

            assert second.answers.only.status == 429
            assert second.answers.only.code == "upstream_rate_limited"
            assert plane.endpoint().account.inflight == 0
            first.leave()
            second.leave()

    play(scene())


def providers(plane: Plane, count: int) -> list[Provider]:
    return [plane.provider("a") for _ in range(count)]


def test_a_crowd_is_served_whole_and_never_more_than_allowed_at_once() -> None:
    async def scene() -> None:
        async with Plane(limited(3), {"m": model("a")}) as plane:
            ready = providers(plane, 3)
            callers = [plane.caller() for _ in range(60)]
            for caller in callers:
                caller.ask()
            assert queue_of(plane).waiting == 57
            asked_for = [1, 1, 1]
            done = 0
            while done < 60:
                for number, provider in enumerate(ready):
                    if provider.got.count(b"POST ") >= asked_for[number]:
                        assert plane.endpoint().inflight <= 3
                        asked_for[number] += 1
                        done += 1
                        provider.say(STREAM)
                await turn()

            for caller in callers:
                await caller.hears(b"[DONE]")
                caller.leave()
            assert sum(record.queue is not None for record in plane.records) == 57

    play(scene())
