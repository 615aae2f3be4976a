"""Connections of clients, by hand: any cutting of any requests is the same requests, answered in order."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.config.file import loads
from relay.snapshot import Snapshot
from tests.plane import NOWHERE, Plane, play, stage, turn
from tests.rig import scripts as say
from tests.rig.deadlines import within
from tests.rig.raw_client import KEY, RawClient, chat_body, request
from tests.rig.relay_process import config
from tests.streams import cut, steps
from tests.wires import CHAT, asked

STATIC = {"m": {"static": "hello"}}
"""Answered without an upstream, at once."""
RUNS = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
BODY = chat_body(stream=False)


def chunked(body: bytes, sizes: list[int]) -> bytes:
    """A chat call with its body in chunks."""
    parts = b"".join(map(say.frame, cut(body, sizes)))
    headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    return request("POST", CHAT, headers=headers) + parts + b"0\r\n\r\n"


WHOLE = {
    "a plain call": asked({"stream": False}),
    "a streamed call": asked(),
    "a call in chunks": chunked(BODY, [1, 7, 30]),
    "a call after blank lines": b"\r\n\r\n" + asked({"stream": False}),
    "bad JSON": request("POST", CHAT, b"{"),
    "models": request("GET", "/v1/models"),
    "one model": request("GET", "/v1/models/m"),
    "a missing model": request("GET", "/v1/models/nothing"),
    "health": request("GET", "/livez", key=None),
    "head": request("HEAD", "/v1/models"),
    "a preflight": request("OPTIONS", CHAT, key=None, headers={"Origin": "https://x.test"}),
}
"""Requests after which the connection goes on."""
LAST = {
    "nothing": b"",
    "half a request": asked()[:100],
    "a wrong key": request("GET", "/v1/models", key="wrong"),
    "a close": asked({"stream": False}, headers={"Connection": "close"}),
    "garbage": b"\x16\x03\x01 garbage\r\n\r\n",
    "a bad chunk": chunked(BODY, [])[:-10] + b"zz\r\n",
    "HTTP/1.0": asked({"stream": False}, version="1.0"),
}
"""What may follow them, and end it."""


def blanked(got: bytes) -> bytes:
    """What was sent, without the facts of the moment."""
    got = re.sub(rb"(x-request-id: )[^\r]+", rb"\1-", got)
    got = re.sub(rb"(date: )[^\r]+", rb"\1-", got)
    got = re.sub(rb"req_test[0-9a-f]+", b"-", got)
    return re.sub(rb'"created":\d+', b'"created":0', got)


async def alone(plane: Plane, data: bytes) -> bytes:
    """What is answered to a request on a connection of its own, in one segment."""
    caller = plane.caller()
    caller.say(data)
    await turn()
    caller.leave()
    return blanked(caller.got)


async def told(plane: Plane, pieces: list[bytes], *, waits: bool) -> bytes:
    """What is answered to these segments; `waits`: each comes after the answers to those before."""
    caller = plane.caller()
    for piece in pieces:
        caller.say(piece)
        if waits:
            await turn()
    for _ in range(len(WHOLE)):
        await turn()
    caller.leave()
    return blanked(caller.got)


def test_any_cutting_of_pipelined_requests_gets_the_answers_of_each_alone_in_order() -> None:
    with stage(models=STATIC) as (plane, run):

        async def all_alone() -> dict[str, bytes]:
            return {name: await alone(plane, data) for name, data in {**WHOLE, **LAST}.items()}

        answers = run(all_alone())

        @RUNS
        @given(st.data())
        def check(draw: st.DataObject) -> None:
            names = draw.draw(st.lists(st.sampled_from(sorted(WHOLE)), min_size=1, max_size=4))
            last = draw.draw(st.sampled_from(sorted(LAST)))
            data = b"".join(WHOLE[name] for name in names) + LAST[last]
            pieces = cut(data, draw.draw(steps(len(data))))
            plane.front.port.memo.clear() if draw.draw(st.booleans()) else None

            got = run(told(plane, pieces, waits=draw.draw(st.booleans())))

            wanted = b"".join(answers[name] for name in names)
            if "a missing model" not in names:
                assert got == wanted + answers[last]
            else:
                assert got.startswith(wanted[: len(got)])

        check()


@pytest.mark.parametrize("known", [False, True], ids=["a new head", "a known head"])
@pytest.mark.parametrize("name", ["plain", "chunked", "after a blank line"])
def test_a_request_cut_at_any_byte_is_the_same_call(name: str, known: bool) -> None:
    data = {
        "plain": asked({"stream": False}),
        "chunked": chunked(BODY, [1, 7, 30]),
        "after a blank line": b"\r\n\r\n" + asked({"stream": False}),
    }[name]

    async def scene() -> None:
        async with Plane() as plane:
            seen = set()
            for at in range(len(data)):
                caller, provider = plane.caller(), plane.provider()
                if not known:
                    plane.front.port.memo.clear()
                caller.say(*cut(data, [at]))
                seen.add(provider.got)
                provider.say(answer())
                assert caller.answers.only.status == 200, at
                caller.leave()
                provider.leave()

            assert len(seen) == 1
            assert seen.pop().endswith(b"\r\n\r\n" + BODY)

    play(scene())


def answer(text: str = "hello") -> bytes:
    """A whole plain answer of an upstream."""
    body = json.dumps(say.completion(text)).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


# --- order ----------------------------------------------------------------------------------------


def test_a_pipelined_request_waits_for_the_answer_before_it() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            caller, first, second = plane.caller(), plane.provider(), plane.provider()
            caller.say(
                asked({"stream": False, "user": "1"}) + asked({"stream": False, "user": "2"})
            )
            assert second.body()["user"] == "1"
            assert not first.got

            second.say(answer("one"))
            await turn()
            assert second.got.count(b"POST ") == 2, "the freshest connection serves again"
            second.say(answer("two"))

            texts = [
                reply.json()["choices"][0]["message"]["content"] for reply in caller.answers.all
            ]
            assert texts == ["one", "two"]
            caller.leave()

    play(scene())


def test_a_request_whose_second_half_comes_with_the_answer_before_it_keeps_its_place() -> None:
    """Both are events of one turn of the loop: the half that waits must not be overtaken."""
    second = asked({"stream": False, "user": "2"})

    async def scene() -> None:
        async with Plane() as plane:
            caller, provider = plane.caller(), plane.provider()
            caller.say(asked({"stream": False}) + second[:80])

            provider.say(answer("one"))
            caller.say(second[80:])
            await turn()
            provider.say(answer("two"))

            assert [reply.status for reply in caller.answers.all] == [200, 200]
            assert provider.got.count(b'"user": "2"') == 1
            caller.leave()

    play(scene())


def test_a_pipelined_request_with_a_wrong_key_starts_nothing() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            caller, provider = plane.caller(), plane.provider()
            caller.say(asked({"stream": False}) + asked({"stream": False}, key="wrong"))
            provider.say(answer())
            await turn()

            assert [reply.status for reply in caller.answers.all] == [200, 401]
            assert provider.got.count(b"POST ") == 1
            caller.leave()

    play(scene())


def test_garbage_behind_a_request_does_not_lose_its_answer() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            caller, provider = plane.caller(), plane.provider()
            caller.say(asked({"stream": False}) + b"GARBAGE\r\n\r\n")
            provider.say(answer())
            await turn()

            assert [reply.status for reply in caller.answers.all] == [200, 400]
            assert caller.wire.half_closed or caller.wire.closed
            caller.leave()

    play(scene())


def test_a_client_that_does_not_read_is_not_answered_on_and_on() -> None:
    one = request("GET", "/v1/models")

    async def scene() -> None:
        async with Plane() as plane:
            caller = plane.caller()
            caller.say(one)
            caller.choke()
            for _ in range(50):
                caller.say(one * 40)
                await turn()
            assert len(caller.answers) == 1
            assert not caller.wire.is_reading(), "what waits is bounded"

            caller.drain()
            for _ in range(50 * 40):
                await turn()

            assert len(caller.answers) == 1 + 50 * 40
            assert caller.wire.is_reading()
            caller.leave()

    play(scene())


# --- whose key ------------------------------------------------------------------------------------


def test_a_key_bound_to_addresses_is_judged_anew_though_its_head_is_known() -> None:
    keys = [{"id": "tester", "key": KEY, "allow_ips": ["10.0.0.1"]}]

    async def scene() -> None:
        async with Plane(models=STATIC, keys=keys) as plane:
            statuses = []
            for peer in ("10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.1"):
                caller = plane.caller(peer)
                caller.ask(stream=False)
                statuses.append(caller.answers.only.status)
                caller.leave()

            assert statuses == [200, 200, 401, 200]

    play(scene())


def test_a_key_that_a_reload_took_away_is_refused_on_an_open_connection() -> None:
    async def scene() -> None:
        async with Plane(models=STATIC) as plane:
            caller = plane.caller()
            caller.ask(stream=False)
            caller.ask(stream=False)
            fields = config(
                {"a": NOWHERE}, STATIC, [{"id": "other", "key": "sk-other-0123456789abcdef"}]
            )
            new = loads(json.dumps(fields).encode(), {})
            plane.reception.snapshot = Snapshot(new, plane.memory)
            plane.gate.reload(plane.reception.snapshot.principals, new.groups)

            caller.ask(stream=False)

            assert [reply.status for reply in caller.answers.all] == [200, 200, 401]
            caller.leave()

    play(scene())


# --- the end of the process -----------------------------------------------------------------------


def test_shutdown_lets_what_was_written_leave_and_closes_every_connection() -> None:
    async def scene() -> None:
        async with Plane(models=STATIC) as plane:
            address = await plane.listen()
            async with (
                await RawClient.connect(address) as idle,
                await RawClient.connect(address) as half,
            ):
                answer = await idle.ask(asked({"stream": False}))
                await half.send(asked()[:50])
                async with within():
                    await asyncio.gather(plane.front.shutdown(), idle.closed(), half.closed())

            assert answer.status == 200
            assert not plane.front.port.clients

    play(scene())
