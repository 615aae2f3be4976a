"""Whole calls over real sockets: connections that are kept, die, and fill up."""

from __future__ import annotations

import asyncio
import json

import pytest

from relay.upstream.attempt import connections_of
from tests.plane import Plane
from tests.rig import scripts as say
from tests.rig.deadlines import SCALE, scenario, within
from tests.rig.raw_client import End, RawClient
from tests.rig.scripts import Close, Flood, Gate, Reset, Script, Send, Stall
from tests.rig.upstream import Upstream
from tests.wires import asked

PLAIN = asked({"stream": False})
ANSWER = say.plain(200, say.completion())


@scenario
async def test_connections_are_kept_on_both_sides() -> None:
    async with Upstream() as upstream, Plane({"a": upstream}) as plane:
        address = await plane.listen()
        async with await RawClient.connect(address) as client:
            for _ in range(5):
                assert (await client.ask(PLAIN)).json()["object"] == "chat.completion"
                streamed = await client.ask(asked())
                assert streamed.end is End.CLEAN
                assert streamed.text == say.TEXT

        assert upstream.connections == 1
        assert len(plane.front.port.clients) <= 1


@pytest.mark.parametrize("end", [Close(), Reset()], ids=["fin", "rst"])
@scenario
async def test_an_upstream_that_closes_right_after_its_answer_costs_no_call(
    end: Close | Reset,
) -> None:
    """It announced nothing: whether the close or the next request is first is a race."""
    async with Upstream([*ANSWER, end]) as upstream, Plane({"a": upstream}) as plane:
        address = await plane.listen()
        async with await RawClient.connect(address) as client:
            for _ in range(40):
                answer = await client.ask(PLAIN)
                assert answer.status == 200

        assert {record.outcome for record in plane.records} == {"ok"}
        results = {a.result for record in plane.records for a in record.attempts}
        assert results <= {"ok", "stale_conn"}
        assert plane.endpoint().breaker.state.value == "closed"


@scenario
async def test_a_kept_connection_that_dies_under_a_request_is_replaced_once() -> None:
    async with Upstream(ANSWER) as upstream, Plane({"a": upstream}) as plane:
        address = await plane.listen()
        async with await RawClient.connect(address) as client:
            await client.ask(PLAIN)
            upstream.then([Reset()])
            answer = await client.ask(PLAIN)

        assert answer.status == 200
        assert [a.result for a in plane.records[1].attempts] == ["stale_conn", "ok"]
        assert upstream.connections == 2
        bodies = [exchange.request.body for exchange in upstream.exchanges]
        assert bodies[1] == bodies[2]


@scenario
async def test_an_upstream_that_says_close_is_dialled_anew() -> None:
    script = say.plain(200, say.completion(), headers=b"Connection: close\r\n")
    async with Upstream([*script, Close()]) as upstream, Plane({"a": upstream}) as plane:
        address = await plane.listen()
        async with await RawClient.connect(address) as client:
            for _ in range(3):
                assert (await client.ask(PLAIN)).status == 200

        assert upstream.connections == 3
        assert not connections_of(plane.endpoint()).open


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])
@scenario
async def test_bodies_that_end_with_the_connection_are_whole(stream: bool) -> None:
    if stream:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        script: Script = [Send(head), *map(Send, say.EVENTS), Close()]
    else:
        head = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n"
        script = [Send(head + json.dumps(say.completion()).encode()), Close()]
    async with Upstream(script) as upstream, Plane({"a": upstream}) as plane:
        address = await plane.listen()
        async with await RawClient.connect(address) as client:
            answer = await client.ask(asked({"stream": stream}))

        assert answer.end is End.CLEAN
        assert (answer.text == say.TEXT) if stream else (answer.json() == say.completion())
        assert plane.records[0].cause == "done"


@pytest.mark.parametrize("leave", ["close", "reset", "half close"])
@pytest.mark.parametrize("phase", ["waiting", "streaming"])
@scenario
async def test_a_client_that_leaves_frees_its_upstream_at_once(phase: str, leave: str) -> None:
    events = say.EVENTS[:2] if phase == "streaming" else say.EVENTS[:1]
    async with (
        Upstream(say.sse(events, Gate("here"), Stall())) as upstream,
        Plane({"a": upstream}) as plane,
    ):
        address = await plane.listen()
        async with await RawClient.connect(address) as client:
            await client.send(asked())
            exchange = await upstream.exchange()
            await exchange.reached("here")
            if phase == "streaming":
                await client.head()
            left = asyncio.get_running_loop().time()
            match leave:
                case "close":
                    await client.close()
                case "reset":
                    await client.reset()
                case _:
                    client.half_close()
            gone = await exchange.left()
            record = await plane.record()

        assert gone - left < 0.25 * SCALE
        assert record.outcome == "client_cancelled"
        assert not connections_of(plane.endpoint()).open
        await plane.hung_up()


@pytest.mark.parametrize("leave", ["close", "reset"])
@scenario
async def test_a_client_that_says_too_much_and_leaves_frees_its_upstream_too(leave: str) -> None:
    """What it pipelines behind its call is bounded; that it is gone must be noticed all the same."""
    async with Upstream([Gate("here"), Stall()]) as upstream, Plane({"a": upstream}) as plane:
        address = await plane.listen()
        async with await RawClient.connect(address) as client:
            await client.send(asked() + PLAIN * 2000)
            exchange = await upstream.exchange()
            await exchange.reached("here")
            left = asyncio.get_running_loop().time()
            await (client.close() if leave == "close" else client.reset())
            gone = await exchange.left()

        assert gone - left < 0.25 * SCALE
        assert [record.outcome for record in plane.records] == ["client_cancelled"]


@scenario
async def test_a_client_that_reads_nothing_bounds_what_is_read_and_is_cut() -> None:
    """64 MiB are there to be had: only buffers may fill."""
    piece = say.frame(say.delta({"content": "z" * 16_000}))
    flood: Script = [Send(say.SSE_HEAD + say.frame(say.WORDS[0])), Flood(piece, 4096)]
    async with (
        Upstream(flood) as upstream,
        Plane({"a": upstream}, server={"timeouts": {"write_stall": "150ms"}}) as plane,
    ):
        address = await plane.listen()
        async with await RawClient.connect(address, receive_buffer=8192) as client:
            await client.send(asked())
            exchange = await upstream.exchange()
            record = await plane.record()
            await exchange.left()
            await plane.hung_up()

        assert record.cause == "write_stall"
        assert exchange.sent < 24 << 20
        assert not plane.front.port.clients


@scenario
async def test_a_client_that_reads_slowly_gets_all_of_it() -> None:
    piece = say.frame(say.delta({"content": "z" * 16_000}))
    script: Script = [
        Send(say.SSE_HEAD + say.frame(say.WORDS[0])),
        Flood(piece, 400),
        Send(say.frame(say.FINISH) + say.frame(say.DONE) + say.LAST_CHUNK),
    ]
    async with Upstream(script) as upstream, Plane({"a": upstream}) as plane:
        address = await plane.listen()
        async with await RawClient.connect(address, receive_buffer=8192) as client:
            await client.send(asked())
            await client.head()
            answer = await client.rest()

        assert answer.end is End.CLEAN
        assert len(answer.events) == 403
        assert plane.records[0].outcome == "ok"


@scenario
async def test_many_calls_at_once_do_not_mix() -> None:
    def echo(request: object) -> Script:
        user = json.loads(request.body)["user"]  # type: ignore[attr-defined]
        return say.sse([say.delta({"content": f"{user}-{n}"}) for n in range(20)] + [say.DONE])

    async with Upstream(echo) as upstream, Plane({"a": upstream}) as plane:
        address = await plane.listen()

        async def call(number: int) -> str:
            async with await RawClient.connect(address) as client:
                return (await client.ask(asked({"user": f"u{number}"}))).text

        async with within():
            texts = await asyncio.gather(*map(call, range(60)))

        assert texts == ["".join(f"u{k}-{n}" for n in range(20)) for k in range(60)]
        assert len(plane.records) == 60


@scenario
async def test_a_call_that_breaks_off_leaves_other_calls_alone() -> None:
    async with (
        Upstream(say.sse(say.EVENTS[:3], Gate("go"), *map(Send, ()), Close())) as upstream,
        Plane({"a": upstream}) as plane,
    ):
        address = await plane.listen()
        async with (
            await RawClient.connect(address) as first,
            await RawClient.connect(address) as second,
        ):
            for client in (first, second):
                await client.send(asked())
                await client.head()
            (await upstream.exchange(0)).open("go")
            broken = await first.rest()
            await second.close()
            await plane.record(1)

        assert broken.end is End.BROKEN
        assert {record.outcome for record in plane.records} == {
            "stream_truncated",
            "client_cancelled",
        }
