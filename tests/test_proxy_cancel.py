"""Clients that leave, deadlines that pass, drains: in every phase one record, one settlement, nothing in flight."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from tests.calls import STREAM, Dials, answer, fault, model, tries, upstreams
from tests.plane import Plane, play
from tests.rig import scripts as say
from tests.rig.raw_client import KEY
from tests.rig.relay_process import Fields
from tests.wires import Caller, Provider, asked

LARGE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999999\r\n\r\n"

PHASES: dict[str, tuple[bool, list[bytes], int]] = {
    "dialling": (True, [], 499),
    "waiting": (True, [], 499),
    "headed": (True, [say.SSE_HEAD], 499),
    "held": (True, [say.SSE_HEAD + say.frame(say.ROLE)], 499),
    "streaming": (True, [say.SSE_HEAD + say.frame(say.WORDS[0])], 200),
    "inside an event": (True, [say.SSE_HEAD + say.frame(say.WORDS[0]), b"20\r\ndata: {"], 200),
    "waiting for an answer": (False, [], 499),
    "inside an answer": (False, [answer()[:-5]], 499),
    "inside a large answer": (False, [LARGE, b"x" * 1_100_000], 200),
    "resting": (False, [fault(500)], 499),
}
"""Streamed or plain, what the upstream has said by then, the code of the record."""

Leave = Callable[[Caller], None]


def reached(plane: Plane, phase: str) -> tuple[Caller, Provider | None]:
    """A call that stands in this phase."""
    stream, said, _ = PHASES[phase]
    dials = Dials.of(plane)
    caller = plane.caller()
    provider = None if phase == "dialling" else plane.provider()
    caller.ask(stream=stream)
    assert len(dials.open) == (phase == "dialling")
    if provider is not None:
        provider.say(*said)
    assert len(plane.proxy.active) == 1
    assert plane.records == []
    return caller, provider


def billed(rule: str) -> list[Fields]:
    return [{"id": "tester", "key": KEY, "abort_billing": rule, "limits": {"concurrent": 1}}]


@pytest.mark.parametrize("rule", ["delivered", "waive"])
@pytest.mark.parametrize("how", [None, ConnectionResetError()], ids=["close", "reset"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_client_that_leaves_takes_everything_with_it(
    phase: str, how: Exception | None, rule: str
) -> None:
    async def scene() -> None:
        async with Plane(keys=billed(rule)) as plane:
            caller, provider = reached(plane, phase)

            caller.leave(how)

            (record,) = plane.records
            plane.settled()
            assert (record.outcome, record.code) == ("client_cancelled", PHASES[phase][2])
            assert record.cause == ("client_gone" if record.code == 200 else None)
            if phase != "resting":
                assert tries(record) == [("a", "cancelled")]
            if provider is not None and phase != "resting":
                assert provider.wire.aborted, "the upstream stops working"
            assert plane.endpoint().breaker.state.value == "closed"
            ((tokens, _),) = plane.gate.leases[0].settled
            paid = phase not in ("dialling", "resting") and (
                rule == "delivered" or record.code == 200
            )
            if "large" not in phase:
                assert (tokens > 0) is paid
            again = plane.caller()
            plane.provider()
            again.ask()
            assert again.got == b"", "its permit is free"
            again.leave()

    play(scene())


@pytest.mark.parametrize("phase", PHASES)
def test_at_the_drain_limit_every_call_gets_an_honest_end(phase: str) -> None:
    async def scene() -> None:
        async with Plane() as plane:
            caller, provider = reached(plane, phase)
            plane.proxy.draining = True
            for exchange in list(plane.proxy.active):
                exchange.drained()

            (record,) = plane.records
            plane.settled()
            reply = caller.answers.only
            assert caller.wire.closed
            if PHASES[phase][2] == 200:
                assert not reply.whole
                assert record.cause == "drain"
                assert record.outcome == "stream_truncated"
                assert PHASES[phase][0] is (b"server_shutting_down" in reply.body)
            else:
                assert reply.whole
                assert reply.status == record.code >= 500
            if phase == "resting":
                assert tries(record) == [("a", "5xx")]
            else:
                assert tries(record) == [("a", "cancelled")]
                assert provider is None or provider.wire.aborted

    play(scene())


@pytest.mark.parametrize("phase", PHASES)
def test_a_call_whose_key_was_revoked_ends_honestly_in_any_phase(phase: str) -> None:
    async def scene() -> None:
        async with Plane() as plane:
            caller, provider = reached(plane, phase)
            (exchange,) = plane.proxy.active

            exchange.revoked()

            (record,) = plane.records
            plane.settled()
            reply = caller.answers.only
            if PHASES[phase][2] == 200:
                assert caller.wire.closed
                assert not reply.whole
                assert (record.cause, record.outcome) == ("revoked", "stream_truncated")
                assert PHASES[phase][0] is (b"key_revoked" in reply.body)
            else:
                assert reply.whole
                assert (reply.status, record.code) == (401, 401)
                assert (record.error, record.outcome) == ("key_revoked", "client_error")
            if phase != "resting":
                assert tries(record) == [("a", "cancelled")]
                assert provider is None or provider.wire.aborted
            assert plane.endpoint().breaker.state.value == "closed"

    play(scene())


def test_a_dial_that_succeeds_too_late_is_not_used() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            dials = Dials.of(plane)
            caller = plane.caller()
            caller.ask()
            (dial,) = dials.open
            caller.leave()
            dials.open.append(dial)
            late = dial.connects()

            assert late.got == b""
            assert late.wire.aborted
            assert len(plane.records) == 1

    play(scene())


def test_a_client_that_leaves_with_the_last_bytes_changes_nothing() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            caller, provider = plane.caller(), plane.provider()
            caller.ask()
            provider.say(STREAM)
            caller.leave()

            assert [record.outcome for record in plane.records] == ["ok"]
            assert not provider.wire.closed

    play(scene())


# --- deadlines before the commit ------------------------------------------------------------------


def silent(plane: Plane, names: str, data: bytes) -> Caller:
    """A call to upstreams that take it and say nothing."""
    for name in names:
        plane.provider(name)
    caller = plane.caller()
    caller.say(data)
    return caller


def patience(ms: str, **more: str) -> dict[str, Any]:
    return {"first_token": ms, "idle": "20s", **more}


def test_each_attempt_has_the_whole_of_its_time() -> None:
    async def scene() -> None:
        async with Plane(upstreams(3, **patience("80ms")), {"m": model("abc")}) as plane:
            caller = silent(plane, "abc", asked())
            record = await plane.record()

            assert tries(record) == [(name, "first_token_timeout") for name in "abc"]
            assert all(70 <= attempt.ms < 1000 for attempt in record.attempts)
            assert caller.answers.only.status == record.code == 504
            assert record.outcome == "timeout"
            caller.leave()

    play(scene())


@pytest.mark.parametrize(("asked_for", "longest"), [("60", 2.0), ("99999", 2.0)])
def test_a_client_may_shorten_the_time_to_the_first_token_and_not_lengthen_it(
    asked_for: str, longest: float
) -> None:
    own = "5s" if asked_for == "60" else "120ms"

    async def scene() -> None:
        models = {"m": model("a", attempts=1)}
        async with Plane(upstreams(1, **patience(own)), models) as plane:
            start = monotonic()
            data = asked(headers={"x-relay-first-token-ms": asked_for})
            caller = silent(plane, "a", data)
            record = await plane.record()

            assert record.code == 504
            assert monotonic() - start < longest
            assert b"x-relay-first-token" not in caller.got
            caller.leave()

    play(scene())


def test_the_models_patience_replaces_the_upstreams() -> None:
    async def scene() -> None:
        models = {"m": model("a", attempts=1, first_token="60ms")}
        async with Plane(upstreams(1, **patience("20s")), models) as plane:
            caller = silent(plane, "a", asked())

            assert (await plane.record()).code == 504
            caller.leave()

    play(scene())


def test_a_plain_call_has_answer_and_not_first_token() -> None:
    async def scene() -> None:
        models = {"m": model("a", attempts=1)}
        times = patience("30ms", answer="120ms")
        async with Plane(upstreams(1, **times), models) as plane:
            start = monotonic()
            caller = silent(plane, "a", asked({"stream": False}))
            record = await plane.record()

            assert monotonic() - start >= 0.11
            assert tries(record) == [("a", "first_token_timeout")]
            assert caller.answers.only.status == 504
            caller.leave()

    play(scene())


def test_when_total_is_over_nobody_else_is_asked() -> None:
    async def scene() -> None:
        async with Plane(upstreams(2, total="60ms"), {"m": model("ab")}) as plane:
            caller = silent(plane, "ab", asked())
            record = await plane.record()

            assert tries(record) == [("a", "first_token_timeout")]
            assert caller.answers.only.status == 504
            caller.leave()

    play(scene())


def test_a_dial_that_takes_too_long_is_made_good_by_the_next_member() -> None:
    async def scene() -> None:
        models = {"m": model("ab", attempts=1)}
        async with Plane(upstreams(2, **patience("60ms")), models) as plane:
            Dials.of(plane)
            caller = plane.caller()
            provider = plane.provider("b")
            caller.ask()
            await provider.hears(b"POST ")
            provider.say(STREAM)

            assert caller.answers.only.whole
            assert tries(plane.records[0]) == [("a", "connect_timeout"), ("b", "ok")]
            caller.leave()

    play(scene())
