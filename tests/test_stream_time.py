"""Committed streams in time, by hand: silences, stalls, signs of life, and what is remembered of them."""

from __future__ import annotations

from time import monotonic

from tests.plane import NOWHERE, Plane, play
from tests.rig import scripts as say
from tests.rig.deadlines import EARLY
from tests.rig.relay_process import Fields
from tests.streams import data, split
from tests.wires import Caller, Provider

WHOLE = say.SSE_HEAD + b"".join(map(say.frame, say.EVENTS)) + say.LAST_CHUNK


def patient(**timeouts: str) -> dict[str, Fields]:
    return {"a": NOWHERE | {"timeouts": timeouts}}


def begun(plane: Plane) -> tuple[Caller, Provider]:
    """A stream of which the client has the first event."""
    caller, provider = plane.caller(), plane.provider()
    caller.ask()
    provider.say(say.SSE_HEAD + say.frame(say.WORDS[0]))
    assert caller.got.endswith(say.WORDS[0] + b"\r\n")
    return caller, provider


def test_comments_are_passed_on_but_do_not_keep_a_silent_stream_alive() -> None:
    async def scene() -> None:
        async with Plane(patient(idle="150ms")) as plane:
            caller, provider = begun(plane)
            start = monotonic()

            while not plane.records:
                provider.say(say.frame(b": still there\n\n"))
                await plane.tick()

            assert plane.records[0].cause == "slow_stream"
            assert 0.15 - EARLY <= monotonic() - start < 1.0
            found = split(caller.answers.only.body)
            assert found[1] == b": still there\n\n"
            assert data(found[-1])["error"]["code"] == "timeout"  # type: ignore[index]

    play(scene())


def test_a_stream_that_goes_on_too_long_is_ended_though_it_talks() -> None:
    async def scene() -> None:
        async with Plane(patient(total="100ms")) as plane:
            caller, provider = begun(plane)
            while not plane.records:
                provider.say(say.frame(say.WORDS[1]))
                await plane.tick()

            assert plane.records[0].cause == "total_timeout"
            assert plane.records[0].attempts[0].result == "cancelled"
            assert data(split(caller.answers.only.body)[-1])["error"]["code"] == "timeout"  # type: ignore[index]
            assert provider.wire.closed

    play(scene())


def heart(interval: str) -> dict[str, dict[str, object]]:
    return {"m": {"pool": [{"upstream": "a"}], "heartbeat": {"interval": interval}}}


def test_a_silent_stream_is_kept_alive_between_events_and_only_there() -> None:
    half = say.frame(say.WORDS[1])[:-20]

    async def scene() -> None:
        async with Plane(models=heart("50ms")) as plane:
            caller, provider = begun(plane)
            await caller.hears(b": keep-alive\n\n", times=2)
            provider.say(half)
            await caller.hears(b": keep-alive\n\n", times=3)
            provider.say(say.frame(say.WORDS[1])[len(half) :])
            provider.say(say.frame(say.FINISH) + say.frame(say.DONE) + say.LAST_CHUNK)

            reply = caller.answers.only
            assert reply.whole
            assert [e for e in split(reply.body) if not e.startswith(b":")] == [
                *say.WORDS[:2],
                say.FINISH,
                say.DONE,
            ]
            assert plane.records[0].events == 4
            caller.leave()

    play(scene())


def test_a_client_that_reads_again_gives_the_upstream_its_whole_time_and_no_more() -> None:
    """The pause may move a deadline, but not away."""

    async def scene() -> None:
        stall = {"timeouts": {"write_stall": "30s"}}
        async with Plane(patient(idle="100ms"), heart("60ms"), server=stall) as plane:
            caller, _ = begun(plane)
            start = monotonic()
            caller.choke()
            caller.drain()

            await caller.hears(b": keep-alive\n\n")
            record = await plane.record()

            assert record.cause == "idle_timeout"
            assert monotonic() - start < 2.0

    play(scene())


def test_a_client_that_does_not_read_pauses_the_upstream_and_is_cut_after_write_stall() -> None:
    async def scene() -> None:
        stall = {"timeouts": {"write_stall": "100ms"}}
        async with Plane(patient(idle="40ms"), server=stall) as plane:
            caller, provider = begun(plane)
            start = monotonic()
            caller.choke()
            assert provider.wire.paused

            record = await plane.record()

            assert record.cause == "write_stall"
            assert record.outcome == "client_cancelled"
            assert 0.1 - EARLY <= monotonic() - start < 1.0, (
                "idle does not run while the client reads nothing"
            )
            assert caller.wire.aborted
            assert provider.wire.closed
            assert [attempt.result for attempt in record.attempts] == ["cancelled"]
            await caller.lost()

    play(scene())


def test_a_client_that_reads_again_in_time_gets_everything() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            caller, provider = begun(plane)
            caller.choke()
            caller.drain()
            assert not provider.wire.paused
            provider.say(WHOLE[WHOLE.index(say.frame(say.WORDS[1])) :])

            assert caller.answers.only.whole
            assert not provider.wire.closed
            caller.leave()

    play(scene())


def test_a_paused_upstream_reads_again_before_it_serves_the_next_call() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            caller, provider = begun(plane)
            caller.choke()
            # These bytes were on their way when reading stopped.
            provider.say(WHOLE[WHOLE.index(say.frame(say.WORDS[1])) :])
            caller.drain()
            caller.ask()

            assert not provider.wire.paused
            assert provider.got.count(b"POST ") == 2 or provider.wire.closed
            caller.leave()

    play(scene())


# --- what is remembered ---------------------------------------------------------------------------


def test_the_record_of_a_stream_in_one_segment_lacks_nothing_when_it_is_emitted() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            caller, provider = plane.caller(), plane.provider()
            caller.ask()
            provider.say(WHOLE)

            record = plane.records[0]
            assert record.overhead is not None
            assert record.ttft is not None
            assert 0 <= record.overhead <= record.duration
            assert 0 < record.ttft <= record.duration
            assert record.max_gap is not None
            assert record.events == len(say.EVENTS)
            caller.leave()

    play(scene())


def test_the_gaps_of_a_stream_are_counted_by_model_and_upstream() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            counts = plane.snapshot.gaps("m", "a")
            caller, provider = plane.caller(), plane.provider()
            caller.ask()
            provider.say(say.SSE_HEAD, *map(say.frame, say.EVENTS), say.LAST_CHUNK)

            assert sum(counts.counts) == len(say.EVENTS) - 2, "from the first token on"
            caller.leave()

    play(scene())
