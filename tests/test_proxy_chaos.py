"""Anything in any order: members, dials and clients that do what they like; every call ends once, whole or broken."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.calls import STREAM, Dials, answer, fault, model
from tests.plane import NOWHERE, Plane, play
from tests.rig import scripts as say
from tests.streams import cut, steps
from tests.wires import Caller, Provider

SAID = {
    "a stream": STREAM,
    "a stream that breaks": STREAM[:-150],
    "an error in a stream": STREAM.replace(
        say.frame(say.WORDS[2]), say.frame(say.event({"error": {"message": "x", "code": "y"}}))
    ),
    "no stream": say.SSE_HEAD + say.frame(b": c\n\n") + say.LAST_CHUNK,
    "an answer": answer(),
    "half an answer": answer()[:-20],
    "an error under 200": answer(200, {"error": {"message": "x", "code": None}}),
    "400": fault(400),
    "401": fault(401),
    "429": fault(429),
    "500": fault(500),
    "garbage": b"\x00\x01garbage\r\n\r\n",
}
DEEDS = ("says", "says", "says", "says", "leaves", "resets", "chokes", "drains", "goes", "drained")


def checked(plane: Plane, caller: Caller, *, left: bool, stream: bool) -> None:
    """What is true of every call that is over."""
    (record,) = plane.records
    plane.settled()
    assert not caller.wire.too_late
    assert record.duration > 0
    assert record.outcome != "ok" or record.code == 200
    if left:
        assert record.outcome in ("client_cancelled", "ok", "stream_truncated", *REFUSED)
        return
    reply = caller.answers.only
    assert reply.status == record.code
    if reply.status != 200:
        assert reply.whole
        assert set(reply.json()) == {"error"}
    elif record.outcome in ("ok", "degraded"):
        assert reply.whole
        assert (b"[DONE]" in reply.body) is stream
    else:
        assert not reply.whole
        assert caller.wire.closed
        assert b"[DONE]" not in reply.body
    assert bool(record.attempts) or record.code != 200 or record.outcome == "degraded"


REFUSED = ("upstream_error", "timeout", "client_error", "overloaded", "rate_limited", "degraded")


@settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.data())
def test_whatever_happens_a_call_ends_once_and_leaves_nothing(draw: st.DataObject) -> None:
    """Members that say anything in any pieces, dials that fail, clients that stall and leave."""
    stream = draw.draw(st.booleans())
    fallback = draw.draw(st.sampled_from(([], ["sorry"])))
    models = {"m": model("abc", fallback=fallback), "sorry": {"static": "sorry"}}

    async def scene() -> None:
        async with Plane({name: NOWHERE for name in "abc"}, models) as plane:
            dials = Dials.of(plane)
            caller = plane.caller()
            caller.ask(stream=stream)
            left = _perform(draw, plane, dials, caller)
            if plane.proxy.active:
                caller.leave()
                left = True
            checked(plane, caller, left=left, stream=stream)
            caller.leave()

    play(scene())


def _perform(draw: st.DataObject, plane: Plane, dials: Dials, caller: Caller) -> bool:
    """A few deeds of everybody; true when the client has left."""
    provider: Provider | None = None
    pieces: list[bytes] = []
    for _ in range(draw.draw(st.integers(1, 14))):
        if not plane.proxy.active:
            return False
        if dials.open:
            kept = draw.draw(st.integers(0, 4))
            if not kept:
                dials.open[0].fails(draw.draw(st.sampled_from(("connect_refused", "tls_error"))))
                continue
            provider = dials.open[0].connects()
            data = SAID[draw.draw(st.sampled_from(sorted(SAID)))]
            pieces = cut(data, draw.draw(steps(len(data))))
            continue
        if provider is None or not _deed(draw, plane, caller, provider, pieces):
            return caller.wire.lost
    return False


def _deed(
    draw: st.DataObject, plane: Plane, caller: Caller, provider: Provider, pieces: list[bytes]
) -> bool:
    """One deed; false when it ends the story."""
    match draw.draw(st.sampled_from(DEEDS)):
        case "says":
            many = draw.draw(st.integers(1, 1 + len(pieces)))
            said, pieces[:] = pieces[:many], pieces[many:]
            provider.say(*said)
        case "leaves":
            provider.leave()
        case "resets":
            provider.leave(ConnectionResetError())
        case "chokes":
            caller.protocol.pause_writing()
        case "drains":
            caller.protocol.resume_writing()
        case "goes":
            caller.leave()
            return False
        case "drained":
            for exchange in list(plane.proxy.active):
                exchange.drained()
    return True
