"""Answers too large to hold: passed on as they come; a missing end is never made up for."""

from __future__ import annotations

import json
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.usage import Usage
from tests.plane import NOWHERE, Plane, play
from tests.rig import scripts as say
from tests.rig.deadlines import EARLY
from tests.streams import cut
from tests.wires import Caller, Provider, asked

LARGE = json.dumps(say.completion("z" * 1_500_000)).encode()
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
HEADS = {
    "a length": JSON + b"Content-Length: %d\r\n\r\n" % len(LARGE),
    "chunks": JSON + b"Transfer-Encoding: chunked\r\n\r\n",
    "a close": JSON + b"\r\n",
}
ENOUGH = 1_100_000
"""Bytes after which an answer is on its way."""


def framed(framing: str) -> bytes:
    """The answer on the wire."""
    if framing == "chunks":
        chunks = b"".join(map(say.frame, cut(LARGE, range(60_000, len(LARGE), 60_000))))
        return HEADS[framing] + chunks + say.LAST_CHUNK
    return HEADS[framing] + LARGE


def called(plane: Plane, version: str = "1.1", keep: str = "keep-alive") -> tuple[Caller, Provider]:
    caller, provider = plane.caller(), plane.provider()
    caller.say(asked({"stream": False}, headers={"Connection": keep}, version=version))
    return caller, provider


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("framing", HEADS)
def test_a_large_answer_arrives_byte_for_byte_however_it_is_framed_and_cut(
    framing: str, version: str
) -> None:
    wire = framed(framing)

    async def scene() -> None:
        async with Plane() as plane:

            @settings(max_examples=8, deadline=None, derandomize=True)
            @given(st.lists(st.integers(0, len(wire)), max_size=20))
            def check(cuts: list[int]) -> None:
                caller, provider = called(plane, version)
                number = len(plane.records)
                provider.say(*cut(wire, cuts))
                if framing == "a close":
                    provider.leave()

                reply = caller.answers.only
                assert reply.status == 200
                assert reply.body == LARGE
                delimited = version == "1.0" and framing != "a length"
                assert reply.whole is not delimited
                record = plane.records[number]
                assert record.cause == "done"
                assert record.usage == Usage(9, 12)
                caller.leave()
                provider.leave()

            check()

    play(scene())


def test_it_is_on_its_way_before_it_is_whole() -> None:
    wire = framed("a length")

    async def scene() -> None:
        async with Plane() as plane:
            caller, provider = called(plane)
            provider.say(wire[:1_000_000])
            assert caller.got == b"", "a short, cut or wrong answer could still be made good"

            provider.say(wire[1_000_000:ENOUGH])

            assert len(caller.answers[0].body) == ENOUGH - len(HEADS["a length"])
            caller.leave()
            assert provider.wire.closed

    play(scene())


@pytest.mark.parametrize("fault", ["fin", "rst", "bad framing"])
@pytest.mark.parametrize("framing", HEADS)
def test_one_that_breaks_never_looks_whole(framing: str, fault: str) -> None:
    async def scene() -> None:
        async with Plane() as plane:
            caller, provider = called(plane)
            provider.say(framed(framing)[: ENOUGH + 60_000])
            if fault == "bad framing" and framing == "chunks":
                provider.say(
                    framed(framing)[ENOUGH + 60_000 : ENOUGH + 120_000], b"zz\r\n" * 99_999
                )
            else:
                provider.leave(ConnectionResetError() if fault == "rst" else None)

            reply = caller.answers.only
            assert not reply.whole
            assert len(reply.body) < len(LARGE)
            assert b"error" not in reply.body, "there is no room for an error inside of JSON"
            assert caller.wire.closed
            assert plane.records[0].outcome == "stream_truncated"
            assert plane.records[0].cause in ("upstream_truncated", "upstream_reset", "bad_framing")
            assert len(plane.records) == 1

    play(scene())


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("keep", ["keep-alive", "close"])
def test_what_is_said_of_the_connection_is_what_is_done(keep: str, version: str) -> None:
    async def scene() -> None:
        async with Plane() as plane:
            caller, provider = called(plane, version, keep)
            provider.say(*cut(framed("a length"), [ENOUGH]))

            said = caller.answers.only.headers.get("connection", "keep-alive")
            assert (said == "close") is caller.wire.closed
            assert keep != "close" or said == "close"
            caller.leave()

    play(scene())


# --- time -----------------------------------------------------------------------------------------


def test_a_reader_that_stalls_pauses_the_upstream_and_is_cut_after_write_stall() -> None:
    upstream = {"a": NOWHERE | {"timeouts": {"idle": "20s"}}}

    async def scene() -> None:
        async with Plane(upstream, server={"timeouts": {"write_stall": "80ms"}}) as plane:
            caller, provider = called(plane)
            provider.say(framed("a length")[:ENOUGH])
            start = monotonic()
            caller.choke()
            assert not provider.wire.is_reading()

            record = await plane.record()

            assert record.cause == "write_stall"
            assert record.outcome == "client_cancelled"
            assert 0.08 - EARLY <= monotonic() - start < 1.0
            assert caller.wire.aborted
            assert provider.wire.closed

    play(scene())


def test_a_reader_that_goes_on_gets_the_rest_and_the_upstream_its_whole_time() -> None:
    upstream = {"a": NOWHERE | {"timeouts": {"idle": "80ms"}}}

    async def scene() -> None:
        async with Plane(upstream, server={"timeouts": {"write_stall": "20s"}}) as plane:
            caller, provider = called(plane)
            provider.say(framed("a length")[:ENOUGH])
            caller.choke()
            caller.drain()
            assert provider.wire.is_reading()
            start = monotonic()

            record = await plane.record()

            assert record.cause == "idle_timeout"
            assert 0.07 <= monotonic() - start < 1.0
            assert caller.wire.closed

    play(scene())


def test_one_that_goes_on_too_long_is_cut() -> None:
    upstream = {"a": NOWHERE | {"timeouts": {"total": "80ms"}}}

    async def scene() -> None:
        async with Plane(upstream) as plane:
            caller, provider = called(plane)
            wire = framed("a length")
            provider.say(wire[:ENOUGH])
            size = ENOUGH
            while not plane.records:
                provider.say(wire[size : size + 100])
                size += 100
                await plane.tick()

            assert plane.records[0].cause == "total_timeout"
            assert not caller.answers.only.whole

    play(scene())


def test_at_the_drain_limit_it_is_cut() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            caller, provider = called(plane)
            provider.say(framed("chunks")[:ENOUGH])
            for exchange in list(plane.proxy.active):
                exchange.drained()

            assert plane.records[0].cause == "drain"
            assert not caller.answers.only.whole
            assert caller.wire.closed
            assert provider.wire.closed

    play(scene())
