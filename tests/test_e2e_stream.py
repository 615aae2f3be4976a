"""Streams and plain answers through a whole relay: whole, unbuffered, untouched."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.rig import End, Gate, RawClient, RelayProcess, Send, Upstream, config, scenario
from tests.rig import scripts as say
from tests.rig.raw_client import chat_body, request
from tests.rig.scripts import Close, Script


def joined(events: Sequence[bytes]) -> bytes:
    return b"".join(events)


# --- unbuffered -------------------------------------------------------------------------------


@scenario
async def test_each_event_reaches_the_client_before_the_upstream_writes_the_next(
    tmp_path: Path,
) -> None:
    steps: Script = [Send(say.SSE_HEAD)]
    for number, item in enumerate(say.EVENTS):
        steps = [*steps, Send(say.frame(item)), Gate(str(number))]
    async with (
        Upstream([*steps, Send(say.LAST_CHUNK)]) as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        await client.send(request("POST", "/v1/chat/completions", chat_body()))
        exchange = await upstream.exchange()

        exchange.open("0")  # the role alone does not commit
        await exchange.reached("1")
        await client.head()
        seen = [await client.event(), await client.event()]
        for number in range(1, len(say.EVENTS) - 1):
            exchange.open(str(number))
            seen.append(await client.event())
        exchange.open(str(len(say.EVENTS) - 1))

        assert seen == list(say.EVENTS)
        assert (await client.rest()).end is End.CLEAN


@scenario
async def test_nothing_is_sent_before_the_first_event_with_content(tmp_path: Path) -> None:
    steps = [Send(say.SSE_HEAD), Send(say.frame(b": queued\n\n")), Send(say.frame(say.ROLE))]
    rest = [Send(say.frame(joined(say.EVENTS[1:]))), Send(say.LAST_CHUNK)]
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        upstream.then([*steps, Gate("commit"), *rest])
        await client.send(request("POST", "/v1/chat/completions", chat_body()))
        exchange = await upstream.exchange()
        await exchange.reached("commit")

        # Two whole calls later, what the relay had read of the first would have been passed on.
        for _ in range(2):
            assert (await relay.chat()).text == say.TEXT
        early = await client.arrived()
        exchange.open("commit")
        await client.head()
        answer = await client.rest()

        assert early == b""
        assert answer.body == joined(say.EVENTS), "comments before the commit are swallowed"


@scenario
async def test_a_silent_stream_is_kept_alive_by_comments(tmp_path: Path) -> None:
    script: Script = [
        Send(say.SSE_HEAD + say.frame(joined(say.EVENTS[:2]))),
        Gate("silence"),
        Send(say.frame(joined(say.EVENTS[2:])) + say.LAST_CHUNK),
    ]
    model = {"pool": [{"upstream": "a"}], "heartbeat": {"interval": "100ms"}}
    async with (
        Upstream(script) as upstream,
        RelayProcess(config({"a": upstream}, {"m": model}), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        await client.send(request("POST", "/v1/chat/completions", chat_body()))
        await client.head()
        first = [await client.event() for _ in range(4)]
        (await upstream.exchange()).open("silence")
        answer = await client.rest()

        assert first[:2] == list(say.EVENTS[:2])
        assert all(re.fullmatch(rb":[^\n]*\n\n", item) for item in first[2:]), first
        told = [item for item in answer.events if not item.startswith(b":")]
        assert told == list(say.EVENTS[2:])


# --- byte-identical ---------------------------------------------------------------------------

TOOL_CALLS = (
    say.ROLE,
    say.delta(
        {
            "tool_calls": [
                {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather"}}
            ]
        }
    ),
    say.delta({"tool_calls": [{"index": 0, "function": {"arguments": '{"city": "Par'}}]}),
    say.delta({"tool_calls": [{"index": 0, "function": {"arguments": 'is"}'}}]}),
    say.delta({}, finish="tool_calls"),
    say.DONE,
)
REASONING = (
    say.delta({"role": "assistant", "content": None, "reasoning_content": "Let me think"}),
    say.delta({"reasoning_content": " about it."}),
    say.delta({"reasoning": "as newer servers spell it"}),
    *say.EVENTS[1:],
)
LOGPROBS = (
    say.event(
        {
            "id": "chatcmpl-1",
            "choices": [
                {
                    "index": 0,
                    "delta": {"content": "Hi"},
                    "logprobs": {"content": [{"token": "Hi", "logprob": -1e-07, "bytes": [72]}]},
                    "finish_reason": None,
                }
            ],
        }
    ),
    *say.EVENTS[-2:],
)
SEVERAL = (
    *(say.delta({"content": word}, index=n) for n, word in enumerate(("one", "two", "three"))),
    *(say.delta({}, finish="stop", index=n) for n in range(3)),
    say.DONE,
)
UNKNOWN = (
    b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"a"}}],"latency_ms": 1.50e+1}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"\\u00e9\\ud83d"},"x":[1,{"y":null}]}]}\n\n',
    b'event: message\nid: 7\ndata: {"choices":[{"index":0,"delta":{"content":"named"}}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":\ndata: {"content":"two lines"}}]}\n\n',
    b'data:{"choices":[{"index":0,"delta":{"refusal":"no"}}]}\n\n',
    b'data: {"choices":[],"obfuscation":"aX9","prompt_filter_results":[]}\n\n',
    *say.EVENTS[-2:],
)
CR_LF = tuple(item.replace(b"\n", b"\r\n") for item in say.EVENTS)
CR = tuple(item.replace(b"\n", b"\r") for item in say.EVENTS)
BIG = (
    say.delta({"content": "x" * (4_000_000)}),
    *say.EVENTS[1:4],
    say.delta({"content": "y" * 4_000_000}),
    *say.EVENTS[4:],
)
NOT_JSON = (say.WORDS[0], b"data: this is no JSON\n\n", b"data: \xff\xfe\n\n", *say.EVENTS[-2:])

SHAPES = {
    "text": say.EVENTS,
    "tool calls": TOOL_CALLS,
    "reasoning": REASONING,
    "logprobs": LOGPROBS,
    "n of 3": SEVERAL,
    "unknown fields": UNKNOWN,
    "CRLF line ends": CR_LF,
    "CR line ends": CR,
    "events of 4 MB": BIG,
    "data that is no JSON": NOT_JSON,
}


@pytest.mark.parametrize("shape", SHAPES)
@scenario
async def test_a_stream_arrives_byte_for_byte(tmp_path: Path, shape: str) -> None:
    events = SHAPES[shape]
    async with (
        Upstream(say.sse(events)) as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        answer = await relay.chat()

        assert answer.body == joined(events)
        assert answer.end is End.CLEAN
        assert (await relay.call_of(answer))["outcome"] == "ok"


@scenario
async def test_how_the_upstream_cuts_its_bytes_does_not_matter(tmp_path: Path) -> None:
    events = (*REASONING[:3], *say.EVENTS)
    whole = joined(events)
    wire = say.SSE_HEAD + joined([say.frame(item) for item in events]) + say.LAST_CHUNK
    sized = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"
    closing = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    scripts: list[Script] = [
        [Send(bytes([byte])) for byte in wire],
        [Send(wire[at : at + 7]) for at in range(0, len(wire), 7)],
        [Send(wire)],
        [Send(wire[:-40]), Send(wire[-40:])],
        [Send(say.SSE_HEAD), *(Send(say.frame(bytes([b]))) for b in whole), Send(say.LAST_CHUNK)],
        [Send(say.SSE_HEAD + say.frame(whole[:100]) + say.frame(whole[100:]) + say.LAST_CHUNK)],
        [Send(say.SSE_HEAD + b"%X;ext=1\r\n%s\r\n" % (len(whole), whole) + say.LAST_CHUNK)],
        [Send(sized % len(whole) + whole)],
        [Send(closing), *(Send(item) for item in events), Close()],
        [Send(say.SSE_HEAD + say.frame(b"\xef\xbb\xbf" + whole) + say.LAST_CHUNK)],
        [Send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3), Send(wire)],
    ]
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        upstream.then(*scripts)

        answers = [await relay.chat() for _ in scripts]

        for answer in answers:
            assert answer.body == whole
            assert answer.end is End.CLEAN


@scenario
async def test_what_an_upstream_compresses_against_our_wish_is_unpacked(tmp_path: Path) -> None:
    packed = gzip.compress(joined(say.EVENTS))
    pieces = [packed[at : at + 50] for at in range(0, len(packed), 50)]
    head = say.SSE_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
    stream = [Send(head), *(Send(say.frame(item)) for item in pieces), Send(say.LAST_CHUNK)]
    body = gzip.compress(json.dumps(say.completion()).encode())
    plain = say.plain(200, body, headers=b"Content-Encoding: gzip\r\n")
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        upstream.then(stream, plain)
        streamed = await relay.chat()
        whole = await relay.chat(stream=False)

        assert streamed.body == joined(say.EVENTS)
        assert "content-encoding" not in streamed.headers
        assert whole.json() == say.completion()
        assert "content-encoding" not in whole.headers


@scenario
async def test_a_plain_answer_arrives_byte_for_byte(tmp_path: Path) -> None:
    odd = b'\n\n {"id": "x",  "choices":[{"index":0,"message":{"content":"\\u00e9"}}], "z": 1e2}'
    large = json.dumps(say.completion("y" * (3 << 20))).encode()
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        upstream.then(say.plain(200, odd), say.plain(200, large))

        first = await relay.chat(stream=None)
        second = await relay.chat(stream=False)

        assert first.body.strip() == odd.strip()
        assert first.headers["content-type"].startswith("application/json")
        assert second.body == large
        assert {first.end, second.end} == {End.CLEAN}
