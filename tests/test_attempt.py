"""One try of one member, by hand: what commits, what fails and how, and that giving up leaves nothing."""

from __future__ import annotations

import gzip
import json
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from relay.timers import Wheel
from relay.upstream.attempt import MAX_HELD
from relay.upstream.connections import Connections
from relay.usage import Usage
from tests.plane import Plane, play
from tests.rig import scripts as say
from tests.streams import cut
from tests.trial import Trial, answer, play_trial, sse

COMPLETION = say.completion()
FIN, RST = None, ConnectionResetError()

# --- what commits ---------------------------------------------------------------------------------


def delta(**fields: object) -> bytes:
    return say.delta(fields)


COMMITS = {
    "content": delta(content="x"),
    "a blank": delta(content=" "),
    "reasoning of one kind": delta(reasoning_content="x"),
    "reasoning of another": delta(reasoning="x"),
    "a tool call": delta(tool_calls=[{"index": 0, "id": "a", "function": {"name": "f"}}]),
    "a function call": delta(function_call={"name": "f"}),
    "a refusal": delta(refusal="no"),
    "audio": delta(audio={"data": "AA=="}),
    "the end of a choice": say.FINISH,
    "the end": say.DONE,
    "no JSON": b"data: hello\n\n",
    "invalid UTF-8": b"data: \xff\xfe\n\n",
}
HELD = {
    "the role": say.ROLE,
    "an empty delta": delta(),
    "null content": delta(content=None),
    "empty reasoning": delta(reasoning_content="", content=""),
    "no choice": say.event({"id": "c", "choices": []}),
    "filter results": say.event({"choices": [], "prompt_filter_results": []}),
    "the usage": say.usage_event(),
    "another object": say.event({"hello": 1}),
}
SWALLOWED = {"a comment": b": keep-alive\n\n", "an event without data": b"event: ping\n\n"}


@pytest.mark.parametrize("name", COMMITS)
def test_an_event_that_says_something_commits(name: str) -> None:
    def test(trial: Trial) -> None:
        provider = trial.start()
        provider.say(say.SSE_HEAD + say.frame(say.ROLE), say.frame(COMMITS[name]))

        assert trial.judge.words == ["committed"]
        assert trial.judge.events == [say.ROLE, COMMITS[name]]
        assert trial.attempt.first_event > 0
        assert trial.member.endpoint.inflight == 1, "load is held until the stream ends"
        assert trial.request.body == b"", "a prompt is not held for the minutes of an answer"

    play_trial(test)


@pytest.mark.parametrize("name", HELD)
def test_an_event_that_says_nothing_is_held(name: str) -> None:
    def test(trial: Trial) -> None:
        provider = trial.start()
        provider.say(say.SSE_HEAD + say.frame(HELD[name]))
        assert trial.judge.words == []

        provider.say(say.frame(say.WORDS[0]))

        assert trial.judge.events == [HELD[name], say.WORDS[0]]

    play_trial(test)


@pytest.mark.parametrize("name", SWALLOWED)
def test_signs_of_life_are_swallowed(name: str) -> None:
    def test(trial: Trial) -> None:
        provider = trial.start()
        provider.say(say.SSE_HEAD, *[say.frame(SWALLOWED[name])] * 3)
        assert trial.judge.words == []

        provider.say(say.frame(say.WORDS[0]))

        assert trial.judge.events == [say.WORDS[0]]

    play_trial(test)


def test_what_comes_behind_the_first_words_is_handed_on_with_them() -> None:
    def test(trial: Trial) -> None:
        provider = trial.start()
        provider.say(
            say.SSE_HEAD + say.frame(say.WORDS[0] + say.WORDS[1] + b": c\n\n" + b"data: {")
        )

        connection, splitter, _ = trial.attempt.take()
        assert trial.judge.events == [say.WORDS[0], say.WORDS[1], b": c\n\n"]
        assert connection is provider.connection
        assert splitter is not None
        assert splitter.pending == len(b"data: {")

    play_trial(test)


@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_a_plain_answer_is_held_until_it_is_whole(coding: str) -> None:
    body = b"\n\n" + json.dumps(say.completion()).encode()
    wire = gzip.compress(body) if coding == "gzip" else body
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: %b\r\n"
    data = head % coding.encode() + b"Content-Length: %d\r\n\r\n" % len(wire) + wire

    async def scene() -> None:
        async with Plane() as plane:
            for step in (1, 7, len(data)):
                trial = Trial(plane, stream=False)
                provider = trial.start()
                provider.say(*cut(data, range(step, len(data), step)))

                assert trial.judge.words == ["complete"]
                assert trial.judge.body == body
                assert trial.judge.usage == Usage(9, 12)
                trial.attempt.close("ok", None)
                trial.clean()
                provider.leave()

    play(scene())


def test_a_plain_answer_that_grows_too_large_goes_on_as_it_comes() -> None:
    def test(trial: Trial) -> None:
        provider = trial.start()
        head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999999\r\n\r\n"
        )
        provider.say(head, b"x" * MAX_HELD)
        assert trial.judge.words == []

        provider.say(b"x")

        assert trial.judge.words == ["large"]
        assert trial.judge.body == b"x" * (MAX_HELD + 1)

    play_trial(test, stream=False)


# --- a kept connection that was dead --------------------------------------------------------------


def test_a_stale_connection_is_replaced_once_and_nobody_is_blamed() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            trial = Trial(plane, stream=True)
            await keep(trial)
            old = trial.start()
            sent = old.got
            old.leave(RST)
            assert trial.judge.words == ["stale"]
            assert trial.member.endpoint.inflight == 1

            fresh = trial.fresh()
            trial.dialer.waiters[0](fresh.connection, "")
            assert sent.endswith(fresh.got)
            fresh.leave(RST)

            assert trial.judge.words == ["stale", "failed"]
            assert trial.label() == "reset_before_headers"
            assert len(trial.dialer.waiters) == 1
            trial.clean()

    play(scene())


async def keep(trial: Trial) -> None:
    """Lets its connection have served before: only such a one can be stale."""
    first = Trial(trial.plane, stream=False)
    assert trial.provider is not None
    first.provider = trial.provider
    cast(Connections, trial.member.endpoint.connections).put(trial.provider.connection)
    first.start()
    trial.provider.say(answer(200, COMPLETION))
    assert first.judge.words == ["complete"]
    first.attempt.close("ok", None)


def test_the_time_of_an_attempt_goes_on_over_a_stale_connection() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            trial = Trial(plane, stream=True)
            await keep(trial)
            trial.start(patience=0.06).leave()
            trial.judge.news.clear()
            fresh = trial.fresh()
            trial.dialer.waiters[0](fresh.connection, "")
            await trial.judge.news.wait()

            assert trial.label() == "first_token_timeout"
            assert fresh.wire.aborted
            trial.clean()

    play(scene())


# --- giving up ------------------------------------------------------------------------------------


@asynccontextmanager
async def given_up(phase: str) -> Any:
    """A trial that was cancelled in this phase, and its connection."""
    async with Plane() as plane:
        trial = Trial(plane, stream=True, kept=phase != "dialling")
        provider = trial.start()
        if phase in ("headed", "held"):
            provider.say(say.SSE_HEAD)
        if phase == "held":
            provider.say(say.frame(say.ROLE))
        trial.attempt.cancel()
        yield trial, provider


@pytest.mark.parametrize("phase", ["dialling", "waiting", "headed", "held"])
def test_an_attempt_given_up_in_any_phase_leaves_nothing_and_blames_nobody(phase: str) -> None:
    async def scene() -> None:
        async with given_up(phase) as (trial, provider):
            assert trial.judge.words == []
            trial.clean()
            assert trial.attempt.record(0.0).result == "cancelled"
            assert trial.member.endpoint.breaker.state.value == "closed"
            if provider is not None:
                assert provider.wire.aborted
                assert provider.connection not in provider.connection.pool.open
            else:
                assert trial.dialer.cancelled == 1
            trial.attempt.cancel()
            assert trial.member.endpoint.inflight == 0, "twice is once"

    play(scene())


def test_a_connection_that_comes_too_late_is_closed() -> None:
    async def scene() -> None:
        async with given_up("dialling") as (trial, _):
            late = trial.fresh()
            trial.dialer.waiters[0](late.connection, "")

            assert late.wire.aborted
            assert late.got == b""
            assert not late.connection.pool.open

    play(scene())


def test_a_verdict_is_given_once() -> None:
    def test(trial: Trial) -> None:
        provider = trial.start()
        provider.say(sse(*say.EVENTS))
        trial.attempt.close("ok", None)
        trial.attempt.close("upstream_reset", None)
        trial.attempt.cancel()

        assert trial.attempt.record(0.0).result == "ok"
        assert trial.member.endpoint.inflight == 0
        assert trial.member.endpoint.ttft > 0

    play_trial(test)


# --- what is sent ---------------------------------------------------------------------------------


def test_a_request_is_the_endpoints_head_the_forwarded_lines_and_the_body() -> None:
    def test(trial: Trial) -> None:
        provider = trial.start()

        head, _, body = provider.got.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert lines[0] == b"POST /v1/chat/completions HTTP/1.1"
        assert b"authorization: Bearer sk-upstream-a" in lines
        assert b"x-forwarded: 1" in lines
        assert b"content-length: 12" in lines
        assert b"accept-encoding: identity" in lines
        assert body == b'{"prompt":1}'
        trial.attempt.cancel()

    play_trial(test)


def test_the_wheel_forgets_an_attempt_that_committed() -> None:
    def test(trial: Trial) -> None:
        assert isinstance(trial.plane.wheel, Wheel)
        trial.start().say(sse(*say.EVENTS))

        assert trial.plane.waiting() == []

    play_trial(test)
