"""One try of one member, by hand: what commits, what fails and how, and that giving up leaves nothing."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from relay.sse import Event
from relay.timers import Wheel
from relay.upstream.attempt import MAX_HELD, Attempt, Request, Tools
from relay.upstream.dial import Dialer, Target
from relay.upstream.failures import Failure, Retry
from relay.upstream.pool import Member
from relay.upstream.wire import Connection, Connections
from relay.usage import Usage
from tests.plane import Plane, Provider, play, turn
from tests.rig import scripts as say
from tests.streams import cut

FREE, PAID, NEVER = Retry.FREE, Retry.PAID, Retry.NEVER


class Judge:
    """Whom the attempt reports to: remembers every word."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.failure: Failure | None = None
        self.events: list[bytes] = []
        self.body = b""
        self.usage: Usage | None = None
        self.news = asyncio.Event()

    def _say(self, word: str) -> None:
        self.words.append(word)
        self.news.set()

    def attempt_failed(self, attempt: Attempt, failure: Failure) -> None:
        self.failure = failure
        self._say("failed")

    def connection_was_stale(self, member: Member) -> None:
        self._say("stale")

    def stream_committed(self, attempt: Attempt, events: list[Event]) -> None:
        self.events = [event.raw for event in events]
        self._say("committed")

    def answer_complete(self, attempt: Attempt, body: bytes, usage: Usage | None) -> None:
        self.body, self.usage = body, usage
        self._say("complete")

    def answer_large(self, attempt: Attempt, body: bytes) -> None:
        self.body = body
        self._say("large")


class HeldDialer:
    """Dials that the test answers."""

    def __init__(self) -> None:
        self.waiters: list[Callable[[Connection | None, str], None]] = []
        self.cancelled = 0

    def dial(
        self, target: Target, pool: Connections, waiter: Callable[[Connection | None, str], None]
    ) -> HeldDialer:
        self.waiters.append(waiter)
        return self

    def cancel(self) -> None:
        self.cancelled += 1


class Trial:
    """An attempt on a member of a plane, over a connection the test plays."""

    def __init__(self, plane: Plane, *, stream: bool, kept: bool = True) -> None:
        self.plane = plane
        self.judge = Judge()
        self.dialer = HeldDialer()
        tools = Tools(cast(Dialer, self.dialer), plane.wheel)
        self.member = plane.snapshot.routes["m"].pool.members[0]
        self.request = Request(b"x-forwarded: 1\r\n", b'{"prompt":1}', stream)
        self.provider: Provider | None = plane.provider() if kept else None
        self.attempt = Attempt(tools, self.judge, self.member, self.request, plane.snapshot.scrub)

    def start(self, patience: float = 30.0) -> Provider:
        now = asyncio.get_running_loop().time()
        self.attempt.start(now, now + patience)
        return cast(Provider, self.provider)

    def fresh(self) -> Provider:
        """A connection that has just been made, as a dial would give it."""
        pool = cast(Connections, self.member.endpoint.connections)
        connection = Connection(pool, asyncio.get_running_loop().time())
        pool.made(connection)
        return Provider(connection)

    def label(self) -> str | None:
        return None if self.judge.failure is None else self.judge.failure.result

    def clean(self) -> None:
        """Nothing of it is left."""
        assert self.attempt.over
        assert self.member.endpoint.inflight == 0
        assert self.plane.waiting() == []


def play_trial(test: Callable[[Trial], None], *, stream: bool = True) -> None:
    async def scene() -> None:
        async with Plane() as plane:
            trial = Trial(plane, stream=stream)
            test(trial)
            await turn()
            connection = trial.attempt.take()[0]
            if connection is not None:
                connection.close()
                trial.attempt.close("ok", None)

    play(scene())


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


# --- what fails, and how --------------------------------------------------------------------------


def answer(
    status: int, body: object, kind: bytes = b"application/json", more: bytes = b""
) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = b"HTTP/1.1 %d X\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n"
    return head % (status, kind, len(raw), more) + raw


def error(code: object = None, kind: str = "x") -> dict[str, Any]:
    return {"error": {"message": "m", "type": kind, "param": None, "code": code}}


def sse(*events: bytes) -> bytes:
    return say.SSE_HEAD + b"".join(map(say.frame, events)) + say.LAST_CHUNK


GZIPPED = say.SSE_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
CHUNKED_JSON = say.SSE_HEAD.replace(b"text/event-stream", b"application/json")
COMPLETION = say.completion()
FIN, RST = None, ConnectionResetError()

BOTH: dict[str, tuple[bytes, str, Retry]] = {
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", "bad_status", PAID),
    "205": (b"HTTP/1.1 205 Reset Content\r\n\r\n", "bad_status", PAID),
    "304": (b"HTTP/1.1 304 Not Modified\r\n\r\n", "bad_status", PAID),
    "201": (answer(201, COMPLETION), "bad_status", PAID),
    "301": (answer(301, b"", more=b"Location: http://127.0.0.1:1/\r\n"), "redirect", FREE),
    "400": (answer(400, error()), "client_error", NEVER),
    "401": (answer(401, error()), "auth_failed", FREE),
    "402": (answer(402, error()), "payment", FREE),
    "403": (answer(403, error()), "forbidden", FREE),
    "404 of the model": (answer(404, error("model_not_found")), "model_missing", FREE),
    "429": (answer(429, error()), "rate_limited", FREE),
    "429 of the account": (answer(429, error("insufficient_quota")), "payment", FREE),
    "500": (answer(500, error()), "5xx", PAID),
    "503": (answer(503, error(), more=b"Retry-After: 3\r\n"), "5xx", PAID),
    "500 in HTML": (answer(500, b"<html>", b"text/html"), "5xx", PAID),
    "an error under 200": (answer(200, error()), "error_in_200", PAID),
    "429 under 200": (answer(200, error(429)), "error_in_200", FREE),
    "HTML under 200": (answer(200, b"<html>hi</html>", b"text/html"), "bad_content_type", PAID),
    "nothing under 200": (answer(200, b""), "bad_content_type", PAID),
    "blank lines only": (answer(200, b"\n\n\n"), "bad_content_type", PAID),
    "JSON that is none": (answer(200, b"{ not JSON"), "upstream_truncated", PAID),
    "JSON of something else": (answer(200, {"hello": 1}), "bad_content_type", PAID),
    "a bad chunk": (CHUNKED_JSON + b"zz\r\n", "bad_framing", PAID),
    "an unknown coding": (answer(200, b"x", more=b"Content-Encoding: br\r\n"), "encoded", PAID),
    "a corrupt coding": (answer(200, b"xxxx", more=b"Content-Encoding: gzip\r\n"), "encoded", PAID),
}
STREAMED: dict[str, tuple[bytes, str, Retry]] = BOTH | {
    "a completion": (answer(200, COMPLETION), "bad_content_type", PAID),
    "a bad chunk of a stream": (say.SSE_HEAD + b"zz\r\n", "bad_framing", PAID),
    "no event": (sse(), "upstream_truncated", PAID),
    "comments": (sse(b": c\n\n"), "upstream_truncated", PAID),
    "the role": (sse(say.ROLE), "upstream_truncated", PAID),
    "the usage": (sse(say.usage_event()), "upstream_truncated", PAID),
    "half an event": (sse(say.WORDS[0][:-1]), "upstream_truncated", PAID),
    "an error event": (sse(say.event(error())), "error_event", PAID),
    "an error after the role": (sse(say.ROLE, say.event(error(503))), "error_event", PAID),
    "429 as an event": (sse(say.event(error(429))), "error_event", FREE),
    "400 as an event": (sse(say.event(error(400))), "error_event", NEVER),
    "gzip that stops": (
        GZIPPED + say.frame(gzip.compress(say.ROLE)[:-4]) + say.LAST_CHUNK,
        "upstream_truncated",
        PAID,
    ),
}
PLAIN: dict[str, tuple[bytes, str, Retry]] = BOTH | {
    "a stream": (sse(*say.EVENTS), "bad_content_type", PAID),
    "two answers": (answer(200, json.dumps(COMPLETION).encode() * 2), "upstream_truncated", PAID),
}
ALL = [("stream", name) for name in STREAMED] + [("plain", name) for name in PLAIN]


@pytest.mark.parametrize("step", [0, 1], ids=["whole", "bytes"])
@pytest.mark.parametrize(("mode", "name"), ALL)
def test_each_fault_has_its_label_and_class_however_it_is_cut(
    mode: str, name: str, step: int
) -> None:
    data, label, retry = (STREAMED if mode == "stream" else PLAIN)[name]

    def test(trial: Trial) -> None:
        provider = trial.start()
        provider.say(*cut(data, range(step, len(data), step) if step else []))

        assert trial.judge.words == ["failed"]
        assert trial.label() == label
        assert trial.judge.failure is not None
        assert trial.judge.failure.retry is retry
        assert trial.attempt.record().result == label
        trial.clean()

    play_trial(test, stream=mode == "stream")


@pytest.mark.parametrize("end", [FIN, RST], ids=["fin", "rst"])
@pytest.mark.parametrize(
    ("mode", "data", "label"),
    [
        ("stream", b"", "reset_before_headers"),
        ("stream", b"HTTP/1.1 200 OK\r\nConte", "reset_before_headers"),
        ("stream", say.SSE_HEAD, "reset_before_first_event"),
        ("stream", say.SSE_HEAD + say.frame(say.ROLE), "reset_before_first_event"),
        ("plain", b"", "reset_before_headers"),
        ("plain", answer(200, COMPLETION)[:-1], "upstream_truncated"),
        ("plain", answer(500, error())[:-1], "5xx"),
        ("plain", answer(429, error())[:-9], "rate_limited"),
        ("plain", answer(400, error())[:-9], "client_error"),
    ],
)
def test_a_connection_that_breaks_has_its_label(
    mode: str, data: bytes, label: str, end: Exception | None
) -> None:
    async def scene() -> None:
        async with Plane() as plane:
            trial = Trial(plane, stream=mode == "stream", kept=False)
            trial.start()
            provider = trial.fresh()
            trial.dialer.waiters[0](provider.connection, "")
            provider.say(*([data] if data else []))
            provider.leave(end)

            assert trial.judge.words == ["failed"]
            assert trial.label() == label
            trial.clean()

    play(scene())


def test_a_close_delimited_answer_is_whole_only_if_its_json_is() -> None:
    body = json.dumps(COMPLETION).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"

    async def scene() -> None:
        async with Plane() as plane:
            for said, word in ((body, "complete"), (body[:-1], "failed")):
                trial = Trial(plane, stream=False)
                provider = trial.start()
                provider.say(head, said)
                provider.leave()

                assert trial.judge.words == [word]
                trial.attempt.close("ok", None)

    play(scene())


def test_of_an_error_only_so_much_is_read() -> None:
    def test(trial: Trial) -> None:
        provider = trial.start()
        provider.say(answer(500, b"x" * 10_000_000)[:70_000])

        assert trial.label() == "5xx"
        assert provider.wire.aborted

    play_trial(test)


def test_a_stream_of_comments_without_end_is_ended() -> None:
    def test(trial: Trial) -> None:
        provider = trial.start()
        provider.say(say.SSE_HEAD)
        comment = say.frame(b":" + b"x" * (1 << 20) + b"\n\n")
        provider.say(*[comment] * 17)

        assert trial.label() == "line_too_long"
        assert provider.wire.aborted

    play_trial(test)


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (True, b""),
        (True, say.SSE_HEAD),
        (True, say.SSE_HEAD + say.frame(say.ROLE) + say.frame(b": c\n\n")),
        (False, b""),
        (
            False,
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n\n",
        ),
    ],
)
def test_silence_ends_it_whatever_signs_of_life_came(stream: bool, said: bytes) -> None:
    async def scene() -> None:
        async with Plane() as plane:
            trial = Trial(plane, stream=stream)
            provider = trial.start(patience=0.06)
            provider.say(*([said] if said else []))
            await trial.judge.news.wait()

            assert trial.label() == "first_token_timeout"
            assert trial.judge.failure is not None
            assert trial.judge.failure.error.status == 504
            assert provider.wire.aborted
            trial.clean()

    play(scene())


def test_a_dial_that_takes_all_its_time_may_be_tried_again_for_free() -> None:
    async def scene() -> None:
        async with Plane() as plane:
            trial = Trial(plane, stream=True, kept=False)
            trial.start(patience=0.06)
            await trial.judge.news.wait()

            assert trial.label() == "connect_timeout"
            assert trial.dialer.cancelled == 1
            assert not trial.attempt.sent
            trial.clean()

    play(scene())


@pytest.mark.parametrize("fault", ["connect_refused", "connect_timeout", "dns_error", "tls_error"])
def test_a_dial_that_fails_cost_nothing(fault: str) -> None:
    async def scene() -> None:
        async with Plane() as plane:
            trial = Trial(plane, stream=True, kept=False)
            trial.start()
            trial.dialer.waiters[0](None, fault)

            assert trial.label() == fault
            assert trial.judge.failure is not None
            assert trial.judge.failure.retry is FREE
            assert not trial.attempt.sent
            trial.clean()

    play(scene())


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
            assert trial.attempt.record().result == "cancelled"
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

        assert trial.attempt.record().result == "ok"
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
