"""Several calls at once at upstreams with few places, hedged, resumed, with early heads: anything in any order.

Time is a deed, too: patience ends when the story says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.exchange import Exchange
from relay.records import CallRecord
from relay.upstream.queue import Queue
from tests.calls import STREAM, Dials, answer, fault, model
from tests.plane import NOWHERE, Plane, play, turn
from tests.rig import scripts as say
from tests.streams import cut, steps
from tests.wires import Caller, Provider, Reply

T = TypeVar("T")

ENOUGH = 30
"""Rounds in which every call comes to its end."""

COMMENT = b": keep-alive\n\n"
SAID = {
    "a stream": STREAM,
    "a stream that breaks": STREAM[:-150],
    "a stream that is cut": STREAM[:-300],
    "a stream that is broken off": say.SSE_HEAD + b"".join(map(say.frame, say.EVENTS[:3])),
    "an error in a stream": STREAM.replace(
        say.frame(say.WORDS[2]), say.frame(say.event({"error": {"message": "x", "code": "y"}}))
    ),
    "a role, and no more": say.SSE_HEAD + say.frame(say.ROLE),
    "an answer": answer(),
    "400": fault(400),
    "429": fault(429),
    "500": fault(500),
    "503": fault(503),
}
DEEDS = (
    *("asks", "asks", "asks", "connects", "connects", "connects", "says", "says", "says", "says"),
    *("refuses", "leaves", "resets", "goes", "silence", "silence", "beats", "turns"),
)


class Story:
    """What happens, as it is drawn."""

    def __init__(self, draw: st.DataObject, plane: Plane) -> None:
        self.draw = draw
        self.plane = plane
        self.dials = Dials.of(plane)
        self.most = draw.draw(st.integers(1, 6))
        self.callers: list[tuple[Caller, bool]] = []
        self.providers: list[tuple[Provider, list[bytes]]] = []

    async def deed(self) -> None:
        name = self.draw.draw(st.sampled_from(DEEDS))
        if name == "turns":
            await turn()
        else:
            getattr(self, name)()

    def asks(self) -> None:
        if len(self.callers) < self.most:
            stream = self.draw.draw(st.sampled_from((True, True, True, False)))
            caller = self.plane.caller()
            self.callers.append((caller, stream))
            caller.ask(stream=stream)

    def connects(self) -> None:
        dial = self._one(self.dials.open)
        if dial is not None:
            provider = dial.connects()
            data = SAID[self.draw.draw(st.sampled_from(sorted(SAID)))]
            self.providers.append((provider, cut(data, self.draw.draw(steps(len(data))))))

    def refuses(self) -> None:
        dial = self._one(self.dials.open)
        if dial is not None:
            dial.fails("connect_refused")

    def says(self) -> None:
        found = self._one(self.providers)
        if found is not None:
            provider, pieces = found
            many = self.draw.draw(st.integers(1, 1 + len(pieces)))
            many = self.draw.draw(st.sampled_from((many, len(pieces))))
            said, pieces[:] = pieces[:many], pieces[many:]
            provider.say(*said)

    async def ends(self) -> None:
        """Everybody says what is left to say, and who is still asked answers well."""
        for _ in range(ENOUGH):
            if not self.plane.proxy.active:
                return
            for dial in list(self.dials.open):
                provider = dial.connects()
                self.providers.append(
                    (provider, [STREAM if b'"stream": true' in provider.got else answer()])
                )
            for provider, pieces in self.providers:
                said, pieces[:] = list(pieces), []
                if not said and not provider.wire.closed:
                    provider.leave()
                provider.say(*said)
            await turn()
            self.silence()

    def leaves(self) -> None:
        found = self._one(self.providers)
        if found is not None:
            found[0].leave()

    def resets(self) -> None:
        found = self._one(self.providers)
        if found is not None:
            found[0].leave(ConnectionResetError())

    def goes(self) -> None:
        found = self._one(self.callers)
        if found is not None:
            found[0].leave()

    def silence(self) -> None:
        """A rest, a wait for a place, the patience with a silent attempt: over."""
        self._over(lambda exchange: exchange._wake < inf, "_wake")

    def beats(self) -> None:
        self._over(lambda exchange: exchange._beat < inf, "_beat")

    def _over(self, due: Callable[[Exchange], bool], clock: str) -> None:
        waiting = [exchange for exchange in self.plane.proxy.active if due(exchange)]
        if waiting:
            exchange = min(waiting, key=lambda each: each.call.request_id)
            setattr(exchange, clock, 0.0)
            exchange.expired(monotonic())

    def _one(self, things: list[T]) -> T | None:
        return things[self.draw.draw(st.integers(0, len(things) - 1))] if things else None


def checked(record: CallRecord, reply: Reply | None, stream: bool) -> None:
    """What is true of every call whose client stayed."""
    if reply is None:
        return
    assert reply.status == record.code
    if reply.status != 200:
        assert reply.whole
        assert set(reply.json()) == {"error"}
    elif record.outcome in ("ok", "degraded"):
        assert reply.whole
        assert reply.body.count(b"data: [DONE]") == stream
        if stream and record.outcome == "ok":
            events = [e for e in reply.body.replace(COMMENT, b"").split(b"\n\n") if b"{" in e]
            chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
            text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
            # A successor in this story does not know what was said: it says all of it again.
            assert text.endswith(say.TEXT) if record.resumed else text == say.TEXT
            assert len({chunk["id"] for chunk in chunks}) == 1
    elif stream or record.cause is not None:
        assert not reply.whole
        assert b"[DONE]" not in reply.body


@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.data())
def test_whatever_happens_to_a_crowd_nothing_is_lost_mixed_or_left(draw: st.DataObject) -> None:
    few = NOWHERE | {"max_concurrent": 1, "queue": {"max_wait": "1h", "max_calls": 2}}
    upstreams = {name: few for name in "abc"}
    ways: dict[str, object] = {
        "hedge": {"after": "1h", "budget": "100%"},
        "resume": "continue-final-message",
        "heartbeat": {"interval": "1h", "before_commit": True},
        "first_token": "1h",
        "fallback": draw.draw(st.sampled_from(([], ["sorry"]))),
    }
    models = {"m": model("abc", **ways), "sorry": {"static": "sorry"}}  # type: ignore[arg-type]

    async def scene() -> None:
        async with Plane(upstreams, models) as plane:
            hedges = plane.snapshot.routes["m"].pool.hedges
            assert hedges is not None
            story = Story(draw, plane)
            for _ in range(draw.draw(st.integers(5, 40))):
                hedges.deposit(0.0)
                await story.deed()
                for endpoint in plane.endpoints():
                    queue = endpoint.account.queue
                    assert isinstance(queue, Queue)
                    assert endpoint.inflight <= endpoint.account.inflight <= 1
                    assert queue.waiting <= 2
            if draw.draw(st.sampled_from((True, True, False))):
                await story.ends()
                assert not plane.proxy.active
            stayed = [not caller.wire.lost for caller, _ in story.callers]
            replies = [caller.answers.all for caller, _ in story.callers]
            for caller, _ in story.callers:
                caller.leave()
            await turn()
            plane.settled()
            records = sorted(plane.records, key=lambda record: record.request_id)
            assert len(records) == len(story.callers)
            for record, reply, (caller, stream), stays in zip(
                records, replies, story.callers, stayed, strict=True
            ):
                assert not caller.wire.too_late
                over = record.outcome != "client_cancelled"
                checked(record, reply[0] if stays and over and reply else None, stream)

    play(scene())
