"""One try of one member, by hand: each fault has its label and its class, however it is cut."""

from __future__ import annotations

import gzip
import json

import pytest

from relay.upstream.failures import Retry
from tests.plane import Plane, play
from tests.rig import scripts as say
from tests.streams import cut
from tests.trial import FREE, NEVER, PAID, Trial, answer, error, play_trial, sse

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
        assert trial.attempt.record(0.0).result == label
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
