"""After the first token a failure is told: one error event, no `[DONE]`, no final chunk.

A stream that merely stops looks like a success to every SDK, so each way in which an upstream can stop is
played here, and none may end silently.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.rig import (
    Close,
    End,
    Gate,
    Models,
    Pause,
    RawClient,
    RelayProcess,
    Reset,
    Send,
    Stall,
    Upstream,
    Upstreams,
    config,
    scenario,
)
from tests.rig import scripts as say
from tests.rig.raw_client import Answer, chat_body, request
from tests.rig.scripts import Script

SEEN = say.EVENTS[:3]
"""What the client has got when the upstream fails."""

UPSTREAM_ERROR = say.event({"error": {"message": "CUDA out of memory", "type": "x", "code": 500}})
TRICKLE = [step for _ in range(20) for step in (Send(say.frame(b": ping\n\n")), Pause(0.1))]
HALF = say.WORDS[2][:25]

ENDS: dict[str, tuple[Script, str, str]] = {
    "reset between events": (say.sse(SEEN, Reset()), "upstream_stream_error", "upstream_reset"),
    "reset inside an event": (
        say.sse([*SEEN, HALF], Reset()),
        "upstream_stream_error",
        "upstream_reset",
    ),
    "closed between chunks": (
        say.sse(SEEN, Close()),
        "upstream_stream_error",
        "upstream_truncated",
    ),
    "closed inside a chunk": (
        say.sse(SEEN, Send(b"ff\r\n" + HALF), Close()),
        "upstream_stream_error",
        "upstream_truncated",
    ),
    "clean end inside an event": (
        say.sse([*SEEN, HALF]),
        "upstream_stream_error",
        "upstream_truncated",
    ),
    "clean end without an end of the answer": (
        say.sse(SEEN),
        "upstream_stream_error",
        "upstream_truncated",
    ),
    "close-delimited and cut": (
        [
            Send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + b"".join(SEEN)),
            Close(),
        ],
        "upstream_stream_error",
        "upstream_truncated",
    ),
    "content length short": (
        [
            Send(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 99999\r\n\r\n"
            ),
            Send(b"".join(SEEN)),
            Close(),
        ],
        "upstream_stream_error",
        "upstream_truncated",
    ),
    "bad chunk size": (
        say.sse(SEEN, Send(b"-5\r\nhello\r\n"), Close()),
        "upstream_stream_error",
        "bad_framing",
    ),
    "an error event": (say.sse([*SEEN, UPSTREAM_ERROR]), "500", "error_event"),
    "an error event, then DONE": (
        say.sse([*SEEN, UPSTREAM_ERROR, say.DONE]),
        "500",
        "error_event",
    ),
    "silence": (say.sse(SEEN, Stall()), "timeout", "idle_timeout"),
    "comments but no data": (say.sse(SEEN, *TRICKLE, Stall()), "timeout", "idle_timeout"),
    "an event that never ends": (
        say.sse(SEEN, Send(say.frame(b"data: ")), *[Send(say.frame(b"x" * (1 << 20)))] * 18),
        "upstream_stream_error",
        "line_too_long",
    ),
}


def error_of(answer: Answer) -> dict[str, object]:
    """The error object of the last event."""
    last = answer.events[-1]
    assert last.startswith(b"data: {"), last
    payload = json.loads(last[6:])
    assert list(payload) == ["error"]
    found = payload["error"]
    assert isinstance(found, dict)
    return found


def check_broken(answer: Answer, seen: tuple[bytes, ...] = SEEN) -> None:
    """The failure rule: whole events, one error event, no DONE, no final chunk."""
    told = [item for item in answer.events if not item.startswith(b":")]
    assert told[:-1] == list(seen)
    assert answer.end is End.BROKEN
    assert b"[DONE]" not in answer.body
    error = error_of(answer)
    assert sorted(error) == ["code", "message", "param", "type"]
    assert error["message"]


@pytest.mark.parametrize("way", ENDS)
@scenario
async def test_a_stream_cut_after_the_first_token_ends_broken_and_says_so(
    tmp_path: Path, way: str
) -> None:
    script, code, cause = ENDS[way]
    async with Upstream(script) as upstream:
        fields = {"base_url": upstream.base_url, "timeouts": {"idle": "500ms"}}
        async with RelayProcess(config({"a": fields}), tmp_path) as relay:
            answer = await relay.chat()

            check_broken(answer)
            assert error_of(answer)["code"] == code
            line = await relay.call_of(answer)
            assert (line["outcome"], line["cause"]) == ("stream_truncated", cause)
            assert line["code"] == 200


@scenario
async def test_a_second_member_is_not_asked_after_the_commit(tmp_path: Path) -> None:
    async with (
        Upstream(say.sse(SEEN, Reset())) as bad,
        Upstream() as good,
        RelayProcess(config({"bad": bad, "good": good}), tmp_path) as relay,
    ):
        answer = await relay.chat()

        check_broken(answer)
        assert not good.exchanges


@scenario
async def test_a_stream_has_a_total_time(tmp_path: Path) -> None:
    words = [step for _ in range(100) for step in (Send(say.frame(say.WORDS[0])), Pause(0.05))]
    script: Script = [Send(say.SSE_HEAD), *words, Send(say.LAST_CHUNK)]
    async with Upstream(script) as upstream:
        fields = {"base_url": upstream.base_url, "timeouts": {"total": "1s", "idle": "30s"}}
        async with RelayProcess(config({"a": fields}), tmp_path) as relay:
            answer = await relay.chat()

            assert answer.end is End.BROKEN
            assert error_of(answer)["code"] == "timeout"
            line = await relay.call_of(answer)
            assert line["cause"] == "total_timeout"
            assert 900 <= line["duration_ms"] < 3000


@scenario
async def test_an_event_within_the_idle_time_keeps_a_slow_stream_alive(tmp_path: Path) -> None:
    slow = [step for item in say.EVENTS for step in (Send(say.frame(item)), Pause(0.2))]
    async with Upstream([Send(say.SSE_HEAD), *slow, Send(say.LAST_CHUNK)]) as upstream:
        fields = {"base_url": upstream.base_url, "timeouts": {"idle": "600ms"}}
        async with RelayProcess(config({"a": fields}), tmp_path) as relay:
            answer = await relay.chat()

            assert answer.text == say.TEXT
            assert answer.end is End.CLEAN


@scenario
async def test_a_stream_that_finished_without_done_is_whole(tmp_path: Path) -> None:
    async with (
        Upstream(say.sse(say.EVENTS[:-1])) as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        answer = await relay.chat()

        assert answer.body == b"".join(say.EVENTS[:-1]), "nothing is invented"
        assert answer.end is End.CLEAN
        line = await relay.call_of(answer)
        assert (line["outcome"], line["cause"]) == ("ok", "done_missing")


@scenario
async def test_the_answer_ends_at_done_though_the_upstream_lingers(tmp_path: Path) -> None:
    async with (
        Upstream(say.sse(say.EVENTS, Stall())) as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        answer = await relay.chat()

        assert answer.body == b"".join(say.EVENTS)
        assert answer.end is End.CLEAN


@scenario
async def test_a_large_plain_answer_that_is_cut_is_never_completed(tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9000000\r\n\r\n"
    script: Script = [Send(head), *[Send(b"x" * 65536)] * 48, Close()]
    async with (
        Upstream(script) as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        answer = await relay.chat(stream=False)

        assert answer.status == 200
        assert answer.end in (End.BROKEN, End.RESET)


@scenario
async def test_a_client_of_http_1_0_gets_the_error_event_and_the_close(tmp_path: Path) -> None:
    whole = request("POST", "/v1/chat/completions", chat_body(), version="1.0")
    async with (
        Upstream(say.sse(SEEN, Reset())) as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        answer = await client.ask(whole)

        assert answer.end is End.EOF
        assert answer.headers.get("connection", "close") == "close"
        assert error_of(answer)["code"] == "upstream_stream_error"


@scenario
async def test_events_before_a_failure_are_delivered_to_a_slow_reader(tmp_path: Path) -> None:
    large = [say.delta({"content": "y" * 30_000}) for _ in range(64)]
    script: Script = say.sse([say.ROLE, *large], Gate("cut"), Reset())
    async with (
        Upstream(script) as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        await RawClient.connect(relay.address, receive_buffer=8192) as client,
    ):
        await client.send(request("POST", "/v1/chat/completions", chat_body()))
        await client.head()
        exchange = await upstream.exchange()
        await exchange.reached("cut")
        exchange.open("cut")
        answer = await client.rest()

        assert answer.end is End.BROKEN
        assert error_of(answer)["code"] == "upstream_stream_error"


@scenario
async def test_two_members_that_stall_in_turn_cost_one_wait_each(tmp_path: Path) -> None:
    pool = [{"upstream": name, "tier": tier} for tier, name in enumerate(("x", "y"))]
    models: Models = {"m": {"pool": pool, "retry": {"attempts": 3, "budget": "100%"}}}
    async with Upstream([Stall()]) as x, Upstream([Stall()]) as y:
        short = {"first_token": "200ms"}
        upstreams: Upstreams = {
            "x": {"base_url": x.base_url, "timeouts": short},
            "y": {"base_url": y.base_url, "timeouts": short},
        }
        async with RelayProcess(config(upstreams, models), tmp_path) as relay:
            answer = await relay.chat()

            assert (answer.status, answer.error["code"]) == (504, "timeout")
            line = await relay.call_of(answer)
            assert [item["upstream"] for item in line["attempts"]] == ["x", "y"]
            for exchange in (x.exchanges[0], y.exchanges[0]):
                await exchange.left()
