"""A client leaves whose key is billed for all of the answer: its upstream is read on, up to a cap."""

from __future__ import annotations

import pytest

from relay import leaving
from relay.usage import Usage
from tests.calls import answer, fault, model, tries, upstreams
from tests.plane import Plane, play
from tests.rig import scripts as say
from tests.rig.raw_client import KEY
from tests.rig.relay_process import Fields
from tests.wires import Caller, Provider, asked

DRAINING: list[Fields] = [
    {"id": "tester", "key": KEY, "abort_billing": "drain", "limits": {"concurrent": 1}}
]
BEGUN = say.SSE_HEAD + b"".join(map(say.frame, say.EVENTS[:3]))
REST = b"".join(map(say.frame, (*say.EVENTS[3:-1], say.usage_event(), say.DONE))) + say.LAST_CHUNK
REPORTED = Usage(9, 12)


def left(plane: Plane, said: bytes = b"", **body: object) -> tuple[Caller, Provider]:
    """A call whose client has left when its upstream had said so much."""
    provider = plane.provider()
    caller = plane.caller()
    caller.ask(**body)
    if said:
        provider.say(said)
    caller.leave()
    assert plane.records == [], "it is still read"
    assert not provider.wire.aborted
    return caller, provider


def test_what_a_stream_reports_after_its_client_left_is_billed() -> None:
    async def scene() -> None:
        async with Plane(keys=DRAINING) as plane:
            caller, provider = left(plane, BEGUN)
            heard = caller.got

            provider.say(REST)

            (record,) = plane.records
            plane.settled()
            assert caller.got == heard, "nothing is sent to nobody"
            assert (record.outcome, record.cause, record.code) == (
                "client_cancelled",
                "client_gone",
                200,
            )
            assert record.usage == REPORTED
            assert plane.gate.leases[0].settled == [(21, 0)]
            assert tries(record) == [("a", "ok")]
            assert not provider.wire.aborted, "its connection can serve again"

    play(scene())


def test_a_call_that_was_sent_goes_on_to_its_answer() -> None:
    async def scene() -> None:
        for stream, said in ((True, BEGUN + REST), (False, answer())):
            async with Plane(keys=DRAINING) as plane:
                caller, provider = left(plane, stream=stream)

                provider.say(said)

                (record,) = plane.records
                plane.settled()
                assert caller.got == b""
                assert (record.outcome, record.code) == ("client_cancelled", 499)
                assert record.ttft is None, "nobody saw a first token"
                assert record.usage == REPORTED

    play(scene())


def test_a_large_answer_is_read_to_its_usage() -> None:
    text = "x" * 1_200_000
    whole = answer(body=say.completion(text))

    async def scene() -> None:
        async with Plane(keys=DRAINING) as plane:
            _, provider = left(plane, whole[:1_100_000], stream=False)

            provider.say(whole[1_100_000:])

            assert plane.records[0].usage == REPORTED

    play(scene())


def test_its_permit_is_held_as_long_as_the_upstream_works() -> None:
    async def scene() -> None:
        async with Plane(keys=DRAINING) as plane:
            _, provider = left(plane, BEGUN)
            second = plane.caller()
            second.ask()
            provider.say(REST)
            third = plane.caller()
            third.ask()

            assert second.answers.only.status == 429
            assert third.got == b"", "admitted"
            provider.say(BEGUN + REST)

    play(scene())


def test_a_reader_that_was_slow_and_left_holds_nothing_up() -> None:
    async def scene() -> None:
        async with Plane(keys=DRAINING) as plane:
            provider = plane.provider()
            caller = plane.caller()
            caller.ask()
            provider.say(BEGUN)
            caller.choke()
            assert provider.wire.paused

            caller.leave()

            assert provider.wire.is_reading()
            provider.say(REST)
            assert plane.records[0].usage == REPORTED

    play(scene())


@pytest.mark.parametrize("phase", ["sent", "streaming"])
def test_nothing_new_is_begun_for_a_client_that_left(phase: str) -> None:
    async def scene() -> None:
        async with Plane(upstreams(2), {"m": model("ab")}, DRAINING) as plane:
            other = plane.provider("b")
            caller, provider = left(plane, BEGUN if phase == "streaming" else b"")

            if phase == "sent":
                provider.say(fault(500))
            else:
                provider.wire.lose(None)

            (record,) = plane.records
            plane.settled()
            assert bytes(other.wire.sent) == b""
            assert record.outcome == "client_cancelled"
            ((tokens, _),) = plane.gate.leases[0].settled
            assert (tokens > 0) is (phase == "streaming"), "what was delivered, or nothing"
            caller.leave()

    play(scene())


def test_where_nothing_was_sent_there_is_nothing_to_read() -> None:
    fields = upstreams(1) | {"a": upstreams(1)["a"] | {"max_concurrent": 1}}

    async def scene() -> None:
        async with Plane(fields, {"m": model("a")}, [*DRAINING, OTHER]) as plane:
            provider = plane.provider()
            first = plane.caller()
            first.say(asked({}, key=OTHER["key"]))
            provider.say(BEGUN)
            queued = plane.caller()
            queued.ask()

            queued.leave()

            assert plane.records[0].outcome == "client_cancelled"
            assert plane.records[0].usage is None
            provider.say(REST)

    play(scene())


OTHER: Fields = {"id": "other", "key": "sk-other-0123456789abcdef"}


@pytest.mark.parametrize("phase", ["sent", "streaming"])
def test_after_the_cap_in_time_the_upstream_is_let_go(
    phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaving, "LONGEST", 0.05)

    async def scene() -> None:
        async with Plane(keys=DRAINING) as plane:
            _, provider = left(plane, BEGUN if phase == "streaming" else b"")

            record = await plane.record()

            assert provider.wire.aborted
            assert record.outcome == "client_cancelled"
            assert record.usage is not None and record.usage.source == "estimated"
            assert tries(record) == [("a", "cancelled")]

    play(scene())


def test_after_the_cap_in_tokens_the_upstream_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "MOST_EVENTS", 10)

    async def scene() -> None:
        async with Plane(keys=DRAINING) as plane:
            _, provider = left(plane, BEGUN)
            provider.say(*[say.frame(say.WORDS[1])] * 20)

            record = await plane.record()

            assert provider.wire.aborted
            assert record.usage is not None and record.usage.output == 23
            assert record.events == 23

    play(scene())


def test_a_relay_that_stops_reads_nothing_on() -> None:
    async def scene() -> None:
        async with Plane(keys=DRAINING) as plane:
            _, running = left(plane, BEGUN)
            plane.proxy.draining = True
            for exchange in list(plane.proxy.active):
                exchange.drained()
            assert running.wire.aborted
            provider = plane.provider()
            caller = plane.caller()
            caller.ask()
            provider.say(BEGUN)

            caller.leave()

            assert provider.wire.aborted
            assert [record.cause for record in plane.records] == ["client_gone"] * 2

    play(scene())
