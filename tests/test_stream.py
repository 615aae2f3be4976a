"""Committed streams, by hand: whatever the upstream says and however it travels, one true end."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.usage import Usage
from tests.plane import Plane, play
from tests.rig import scripts as say
from tests.streams import bodies, cut, data, expected, so_far, split, steps, travels
from tests.wires import Caller, Provider, Reply, asked

ONE_TRY = {"m": {"pool": [{"upstream": "a"}], "retry": {"attempts": 1}}}
RUNS = settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


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


# --- the same stream, cut everywhere --------------------------------------------------------------

WHOLE = say.SSE_HEAD + b"".join(map(say.frame, say.EVENTS)) + say.LAST_CHUNK


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_a_stream_cut_at_any_byte_is_the_same_stream(end: bytes) -> None:
    events = [event.replace(b"\n", end) for event in say.EVENTS]
    events[2:2] = [b": comment" + end + end, say.usage_event().replace(b"\n", end)]
    wire = say.SSE_HEAD + b"".join(map(say.frame, events)) + say.LAST_CHUNK
    shown = b"".join(say.EVENTS).replace(b"\n", end).replace(events[1], events[1] + events[2])

    async def scene() -> None:
        async with Plane() as plane:
            for at in range(len(wire)):
                caller, provider = plane.caller(), plane.provider()
                caller.ask()
                provider.say(*cut(wire, [at]))
                caller.leave()
                provider.leave()

                assert caller.answers.only.body == shown, at
                assert caller.answers.only.whole, at
                assert plane.records[at].cause == "done"
                assert plane.records[at].usage == Usage(9, 12)

    play(scene())


def test_a_whole_chunk_of_whole_events_travels_as_it_is() -> None:
    chunk = say.frame(say.WORDS[1] + say.WORDS[2]).replace(b"\r\n", b"\r\n", 1)

    async def scene() -> None:
        async with Plane() as plane:
            caller, provider = plane.caller(), plane.provider()
            caller.ask()
            provider.say(say.SSE_HEAD + say.frame(say.WORDS[0]))

            before = len(caller.got)
            provider.say(chunk)

            assert caller.got[before:] == chunk
            caller.leave()

    play(scene())


@pytest.mark.parametrize("word", ["[DONE]", '"error"', '"usage"'])
def test_a_word_that_matters_is_seen_though_two_chunks_share_it(word: str) -> None:
    """Both chunks come in one segment, which begins and ends at the edge of an event."""
    event = {
        "[DONE]": say.DONE,
        '"error"': say.event({"error": {"message": "boom", "code": "x"}}),
        '"usage"': say.usage_event(),
    }[word]
    middle = event.index(word.encode()) + 3

    async def scene() -> None:
        async with Plane() as plane:
            caller, provider = plane.caller(), plane.provider()
            caller.ask()
            provider.say(say.SSE_HEAD + say.frame(say.WORDS[0]))
            provider.say(say.frame(event[:middle]) + say.frame(event[middle:]))
            provider.say(say.frame(say.FINISH) + say.LAST_CHUNK)

            record = await plane.record()
            causes = {"[DONE]": "done", '"error"': "error_event", '"usage"': "done_missing"}
            assert record.cause == causes[word]
            assert b'"total_tokens"' not in caller.got
            caller.leave()

    play(scene())


def test_an_event_of_two_lines_is_one_though_each_comes_in_a_chunk_of_its_own() -> None:
    """The second chunk begins and ends as a whole event does."""
    first, second = b'data: {"choices":\n', b'data: [{"index":0,"delta":{"content":"x"}}]}\n\n'

    async def scene() -> None:
        async with Plane() as plane:
            caller, provider = plane.caller(), plane.provider()
            caller.ask()
            provider.say(say.SSE_HEAD + say.frame(say.WORDS[0]))
            before = len(caller.got)
            provider.say(say.frame(first))
            assert len(caller.got) == before

            provider.say(say.frame(second))

            assert caller.answers[0].body == say.WORDS[0] + first + second
            caller.leave()

    play(scene())


def test_an_error_that_comes_with_the_first_words_follows_them() -> None:
    broken = say.event({"error": {"message": "out of memory", "code": "oom"}})

    async def scene() -> None:
        async with Plane() as plane:
            caller, provider = plane.caller(), plane.provider()
            caller.ask()

            provider.say(say.SSE_HEAD + say.frame(say.ROLE + say.WORDS[0] + broken + say.DONE))

            reply = caller.answers.only
            assert reply.status == 200
            assert split(reply.body)[:2] == [say.ROLE, say.WORDS[0]]
            assert data(split(reply.body)[2]) == {
                "error": {
                    "message": "out of memory",
                    "type": "server_error",
                    "param": None,
                    "code": "oom",
                }
            }
            assert len(split(reply.body)) == 3
            assert not reply.whole
            assert not caller.wire.too_late
            assert plane.records[0].cause == "error_event"
            caller.leave()

    play(scene())


# --- the end --------------------------------------------------------------------------------------


def finish(*indexes: int) -> bytes:
    choices = [{"index": i, "delta": {}, "finish_reason": "stop"} for i in indexes]
    return say.event({"id": "c", "choices": choices})


@pytest.mark.parametrize(
    ("n", "events", "cause"),
    [
        (1, [say.WORDS[0]], "upstream_truncated"),
        (1, [say.WORDS[0], finish(0)], "done_missing"),
        (1, [say.WORDS[0], finish(0), say.WORDS[1]], "done_missing"),
        (1, [say.WORDS[0], say.usage_event()], "done_missing"),
        (2, [say.WORDS[0], finish(0)], "upstream_truncated"),
        (2, [say.WORDS[0], finish(0), finish(0)], "upstream_truncated"),
        (2, [say.WORDS[0], finish(0), finish(1)], "done_missing"),
        (2, [say.WORDS[0], finish(0, 1)], "done_missing"),
    ],
)
def test_without_done_a_stream_is_whole_when_every_choice_has_finished(
    n: int, events: list[bytes], cause: str
) -> None:
    async def scene() -> None:
        async with Plane() as plane:
            for together in (False, True):
                caller, provider = plane.caller(), plane.provider()
                caller.ask(n=n)
                chunks = [say.SSE_HEAD, *map(say.frame, events), say.LAST_CHUNK]
                provider.say(*([b"".join(chunks)] if together else chunks))

                assert plane.records[-1].cause == cause
                assert caller.answers.only.whole is (cause == "done_missing")
                caller.leave()
                provider.leave()

    play(scene())


def test_the_client_does_not_wait_for_the_end_of_the_framing_after_done() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            caller, provider = plane.caller(), plane.provider()
            caller.ask()
            provider.say(WHOLE.removesuffix(say.LAST_CHUNK))
            assert caller.answers.only.whole

            provider.say(say.LAST_CHUNK)
            caller.ask()

            assert provider.got.count(b"POST ") == 2, "the connection serves again"
            provider.say(WHOLE)
            caller.leave()

    play(scene())


@pytest.mark.parametrize(
    "more", [say.frame(say.WORDS[0]), b"9\r\ndata", b"junk\r\n", say.LAST_CHUNK + b"x"]
)
def test_a_connection_that_says_more_after_done_is_not_used_again(more: bytes) -> None:
    async def scene() -> None:
        async with Plane() as plane:
            caller, provider = plane.caller(), plane.provider()
            caller.ask()
            provider.say(WHOLE.removesuffix(say.LAST_CHUNK), more)

            assert caller.answers.only.whole
            assert provider.wire.closed
            caller.leave()

    play(scene())


def test_a_client_that_asked_for_a_close_gets_it_after_its_stream() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            caller, provider = plane.caller(), plane.provider()
            caller.say(asked(headers={"Connection": "close"}))
            provider.say(WHOLE)

            assert caller.answers.only.whole
            assert caller.answers.only.headers["connection"] == "close"
            assert caller.wire.closed

    play(scene())


def test_an_event_of_mebibytes_passes_and_one_beyond_the_cap_ends_the_stream() -> None:
    large = say.delta({"content": "z" * (5 << 20)})
    endless = [b"data: " + b"z" * 262_138] + [b"z" * 262_144] * 64

    async def scene() -> None:
        async with Plane() as plane:
            caller, provider = plane.caller(), plane.provider()
            caller.ask()
            provider.say(say.SSE_HEAD + say.frame(say.WORDS[0]))
            provider.say(*cut(say.frame(large), range(65536, len(large), 65536)))
            assert caller.got.endswith(large + b"\r\n")

            provider.say(*map(say.frame, endless))

            record = await plane.record()
            assert record.cause == "line_too_long"
            reply = caller.answers.only
            assert not reply.whole
            assert len(split(reply.body)) == 3
            assert provider.wire.closed

    play(scene())


def test_a_compressed_stream_that_stops_early_is_an_error_end() -> None:
    events = say.EVENTS[:-2]
    head = say.SSE_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
    cut_short = gzip.compress(b"".join(events))[:-9]

    async def scene() -> None:
        async with Plane() as plane:
            caller, provider = plane.caller(), plane.provider()
            caller.ask()
            provider.say(head + say.frame(cut_short) + say.LAST_CHUNK)

            reply = caller.answers.only
            assert not reply.whole
            assert b"upstream_stream_error" in split(reply.body)[-1]
            assert plane.records[0].cause == "encoded"

    play(scene())
