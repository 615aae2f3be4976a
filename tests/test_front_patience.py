"""Connections of clients that are slow, silent, or send what nobody wants, by hand."""

from __future__ import annotations

from time import monotonic

import pytest

from tests.calls import answer
from tests.plane import Plane, play
from tests.rig import scripts as say
from tests.rig.deadlines import EARLY
from tests.rig.raw_client import RawClient, chat_body, request
from tests.wires import CHAT, asked

BODY = chat_body(stream=False)


# --- patience -------------------------------------------------------------------------------------


def impatient(**timeouts: str) -> dict[str, object]:
    return {"timeouts": timeouts}


@pytest.mark.parametrize(
    "said", [b"GET /", asked()[:60], b"POST /v1/chat/completions HTTP/1.1\r\n"]
)
def test_a_head_that_does_not_end_in_time_is_408_however_it_drips(said: bytes) -> None:
    async def scene() -> None:
        async with Plane(server=impatient(header="100ms")) as plane:
            caller = plane.caller()
            start = monotonic()
            caller.say(said)
            while not plane.records:
                await plane.tick()
                caller.say(b"x" if b"\r\n" not in said else b"a: b\r\n")

            assert 0.1 - EARLY <= monotonic() - start < 1.0
            assert caller.answers.only.status == 408
            assert caller.answers.only.headers["x-should-retry"] == "false"
            assert caller.answers.only.headers["connection"] == "close"
            assert [record.error for record in plane.records] == ["request_timeout"]
            caller.leave()

    play(scene())


@pytest.mark.parametrize("length", [len(BODY), 65536, 1 << 20])
@pytest.mark.parametrize("behind", [0, 5])
def test_a_body_that_does_not_end_in_time_is_408_and_the_connection_ends(
    length: int, behind: int
) -> None:
    """Also where the length is a number that means something to us."""
    head = request(
        "POST", CHAT, headers={"Content-Length": str(length), "Content-Type": "application/json"}
    )

    async def scene() -> None:
        async with Plane(server=impatient(body="80ms")) as plane:
            caller, provider = plane.caller(), plane.provider()
            caller.say(head, *([BODY[:behind]] if behind else []))
            record = await plane.record()

            assert caller.answers.only.status == record.code == 408
            assert record.key == "tester"
            assert caller.wire.half_closed
            caller.say(b"x" * 100)
            assert len(caller.answers) == 1
            assert not provider.got
            caller.leave()

    play(scene())


def test_a_connection_that_says_nothing_is_closed_without_a_word() -> None:
    async def scene() -> None:
        async with Plane(server=impatient(header="60ms", keep_alive="60ms")) as plane:
            silent, kept = plane.caller(), plane.caller()
            kept.say(request("GET", "/v1/models"))
            await silent.lost()
            await kept.lost()

            assert silent.got == b""
            assert len(kept.answers) == 1
            assert not silent.wire.aborted
            assert not plane.front.port.clients

    play(scene())


def test_a_new_request_has_its_own_time_whatever_the_idle_connection_had_left() -> None:
    async def scene() -> None:
        async with Plane(server=impatient(header="60ms", keep_alive="30s")) as plane:
            caller = plane.caller()
            caller.say(request("GET", "/v1/models"))
            caller.say(b"GET /")
            await caller.hears(b" 408 ")

            assert [reply.status for reply in caller.answers.all] == [200, 408]
            caller.leave()

    play(scene())


@pytest.mark.parametrize("choked", [True, False], ids=["above the mark", "below the mark"])
@pytest.mark.parametrize("after", ["an answer", "an error end"])
def test_a_client_that_never_reads_is_cut_in_the_end(after: str, choked: bool) -> None:
    """A close waits for its flush, and this one never comes."""
    times = impatient(write_stall="80ms", keep_alive="80ms")

    async def scene() -> None:
        async with Plane(server=times) as plane:
            caller, provider = plane.caller(), plane.provider()
            caller.ask(stream=after == "an error end")
            if after == "an answer":
                provider.say(answer(body=say.completion("x" * 100_000)))
            else:
                provider.say(say.SSE_HEAD + say.frame(say.WORDS[0]))
            caller.wire.stuck = True
            if choked:
                caller.choke()
            if after == "an error end":
                provider.leave()

            await caller.lost()

            assert caller.wire.aborted
            assert not plane.front.port.clients

    play(scene())


# --- bodies that are not wanted -------------------------------------------------------------------


def test_a_refusal_reaches_a_client_that_is_still_sending() -> None:
    """Closing at once would reset the connection, and the reset may overtake the answer."""
    body = chat_body(user="x" * 60_000)

    async def scene() -> None:
        async with Plane() as plane:
            address = await plane.listen()
            async with await RawClient.connect(address) as client:
                whole = request(
                    "POST", CHAT, body, key="wrong", headers={"Content-Length": "900000"}
                )
                await client.send(whole[:1000])
                await client.head()
                answer = await client.rest()
                await client.send(whole[1000:])
                assert await client.closed() == b""

            assert answer.status == 401
            assert answer.headers["connection"] == "close"
            await plane.hung_up()

    play(scene())


def test_of_an_unwanted_body_only_so_much_is_read() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            caller = plane.caller()
            head = request("POST", CHAT, key="wrong", headers={"Content-Length": "9000000"})
            caller.say(head)
            assert caller.answers.only.status == 401
            assert caller.wire.half_closed

            caller.say(b"x" * 65536)
            assert not caller.wire.closed
            caller.say(b"x")

            assert caller.wire.aborted
            await caller.lost()

    play(scene())


@pytest.mark.parametrize("how", ["announced", "in chunks"])
def test_a_body_over_the_limit_is_413_as_soon_as_that_is_known(how: str) -> None:
    async def scene() -> None:
        async with Plane(server={"max_body": "1KiB"}) as plane:
            caller = plane.caller()
            head = {"Content-Type": "application/json", "Expect": "100-continue"}
            if how == "announced":
                caller.say(request("POST", CHAT, headers=head | {"Content-Length": "1025"}))
            else:
                caller.say(request("POST", CHAT, headers=head | {"Transfer-Encoding": "chunked"}))
                assert caller.got == b"HTTP/1.1 100 Continue\r\n\r\n"
                caller.wire.sent.clear()
                caller.say(say.frame(b" " * 1000), b"1000000\r\n" + b" " * 25)

            assert caller.answers.only.status == 413
            assert caller.answers.only.code == "request_too_large"
            assert caller.wire.half_closed
            caller.leave()

    play(scene())


def test_100_continue_comes_when_the_head_has_passed_and_the_body_has_not_come() -> None:
    head = {"Expect": "100-continue"}
    data = asked({"stream": False}, headers=head)
    end = data.index(b"\r\n\r\n") + 4

    async def scene() -> None:
        async with Plane() as plane:
            for number in range(3):
                caller, provider = plane.caller(), plane.provider()
                caller.say(data[:end])
                assert caller.got == b"HTTP/1.1 100 Continue\r\n\r\n", number
                caller.say(data[end:])
                provider.say(answer())
                assert [reply.status for reply in caller.answers.all] == [100, 200]

                caller.say(data)
                provider.say(answer())
                assert [reply.status for reply in caller.answers.all] == [100, 200, 200]
                caller.leave()
                provider.leave()

            refused = plane.caller()
            refused.say(asked(key="wrong", headers=head)[:end])
            assert refused.answers.only.status == 401
            refused.leave()

    play(scene())


def test_a_client_that_leaves_while_it_sends_leaves_no_trace() -> None:
    data = asked()

    async def scene() -> None:
        async with Plane() as plane:
            provider = plane.provider()
            for size in (1, 50, data.index(b"\r\n\r\n") + 4, len(data) - 1):
                caller = plane.caller()
                caller.say(data[:size])
                caller.leave()

            assert plane.records == []
            assert not provider.got
            assert not plane.front.port.clients

    play(scene())
