"""Committed streams, by hand: whatever the upstream says and however it travels, one true end."""

from __future__ import annotations

import json
import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.usage import Usage
from tests.plane import Caller, Plane, Provider, Reply, asked, play
from tests.streams import bodies, cut, expected, so_far, steps, travels

ONE_TRY = {"m": {"pool": [{"upstream": "a"}], "retry": {"attempts": 1}}}
BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r")
RUNS = settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def split(body: bytes) -> list[bytes]:
    """The events of a client's body, which never ends inside one."""
    events, at = [], 0
    for match in BLANK_LINE.finditer(body):
        events.append(body[at : match.end()])
        at = match.end()
    assert at == len(body), f"half an event: {body[at:]!r}"
    return events


def data(event: bytes) -> object:
    return json.loads(event.partition(b"data:")[2])


def same(found: list[bytes], wanted: tuple[bytes, ...]) -> bool:
    """Byte for byte; an event out of which a null was cut may have kept a blank."""
    return len(found) == len(wanted) and all(
        a == b or (b"null" in b and data(a) == data(b)) for a, b in zip(found, wanted, strict=True)
    )


def opened(caller: Caller, n: int, asked_usage: bool, version: str) -> Reply:
    """Asks; the answer so far is `caller.answers[0]`."""
    options = {"stream_options": {"include_usage": True}} if asked_usage else {}
    caller.say(asked({"n": n, **options}, version=version))
    return caller.answers[0] if caller.answers.all else Reply(b"HTTP/1.1 0 none")


def end_transfer(provider: Provider, transfer: str) -> None:
    if transfer in ("cut", "close"):
        provider.leave()
    elif transfer == "reset":
        provider.leave(ConnectionResetError())


def test_any_stream_however_it_travels_reaches_the_client_whole_event_by_whole_event() -> None:
    """The same events, the same usage, at once, never a part of one, and one true end."""

    async def scene() -> None:
        async with Plane(models=ONE_TRY) as plane:

            @RUNS
            @given(st.data())
            def check(draw: st.DataObject) -> None:
                n = draw.draw(st.sampled_from((1, 1, 1, 2)))
                wants_usage = draw.draw(st.booleans())
                version = draw.draw(st.sampled_from(("1.1", "1.1", "1.0")))
                events, rest = draw.draw(bodies(n))
                body = b"".join(event.raw for event in events) + rest
                travel = draw.draw(travels(body))
                pieces = cut(travel.wire, draw.draw(steps(len(travel.wire))))
                wanted = expected(events, n, asked=wants_usage, transfer=travel.transfer)
                caller, provider = plane.caller(), plane.provider()
                number = len(plane.records)

                opened(caller, n, wants_usage, version)
                size = 0
                for piece in pieces:
                    provider.say(piece)
                    size += len(piece)
                    known = so_far(events, travel.known(size), asked=wants_usage)
                    if known:
                        found = split(caller.answers[0].body)
                        assert same(found[: len(known)], known)
                end_transfer(provider, travel.transfer)

                assert not caller.wire.too_late
                reply = caller.answers.only
                record = plane.records[number]
                assert len(plane.records) == number + 1
                if not wanted.committed:
                    assert reply.whole
                    assert reply.status == 502
                    assert record.outcome == "upstream_error"
                    caller.leave()
                    return
                assert reply.status == record.code == 200
                assert record.cause == wanted.cause
                found = split(reply.body)
                if wanted.end == "clean":
                    assert same(found, wanted.shown)
                    assert reply.whole is (version == "1.1")
                    assert caller.wire.closed is (version == "1.0")
                    assert record.outcome == "ok"
                else:
                    assert same(found[:-1], wanted.shown)
                    assert set(data(found[-1])["error"]) == {"message", "type", "param", "code"}  # type: ignore[index]
                    assert not reply.whole
                    assert caller.wire.closed
                    assert not caller.wire.aborted
                    assert record.outcome == "stream_truncated"
                comments = sum(event.startswith(b":") for event in wanted.shown)
                assert record.events == len(wanted.shown) - comments
                if wanted.usage is not None:
                    assert record.usage == Usage(*wanted.usage)
                else:
                    assert record.usage is not None
                    assert record.usage.source == "estimated"
                caller.leave()

            check()

    play(scene())
