"""The built-in upstream, over its socket: a model's manners, and a door that only the relay can open."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from relay.sse import Kind, classify
from relay.upstream.demo import ANSWER, DemoServer
from relay.usage import Usage, parse_usage
from tests.rig.deadlines import scenario, within
from tests.rig.raw_client import Answer, RawClient, chat_body, request

CHAT = "/v1/chat/completions"


@asynccontextmanager
async def demo(first_token: float = 0.0) -> AsyncIterator[DemoServer]:
    server = DemoServer(first_token=first_token, gap=(0.0, 0.0))
    await server.start()
    try:
        yield server
    finally:
        await server.close()


async def ask(server: DemoServer, data: bytes) -> Answer:
    async with await RawClient.connect(("127.0.0.1", server.port)) as client:
        return await client.ask(data)


def call(server: DemoServer, **fields: object) -> bytes:
    return request("POST", CHAT, chat_body(**fields), key=server.credential)


def deltas(answer: Answer) -> list[dict[str, Any]]:
    return [
        choice
        for event in answer.events
        if (data := classify(event).data) and data != b"[DONE]"
        for choice in json.loads(data)["choices"]
    ]


@scenario
async def test_a_stream_is_a_role_the_words_the_end_and_done() -> None:
    async with demo() as server:
        answer = await ask(server, call(server, model="deepseek-chat"))

    kinds = [classify(event).kind for event in answer.events]
    words = kinds.count(Kind.CONTENT)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert kinds == [Kind.EMPTY, *[Kind.CONTENT] * words, Kind.FINAL, Kind.DONE]
    assert 20 <= words <= 40
    assert answer.text == ANSWER
    assert json.loads(answer.events[0][6:])["model"] == "deepseek-chat"


@scenario
async def test_the_usage_comes_when_it_is_asked_for() -> None:
    async with demo() as server:
        answer = await ask(server, call(server, stream_options={"include_usage": True}))

    last = classify(answer.events[-2])
    words = sum(classify(event).kind == Kind.CONTENT for event in answer.events)
    assert last.kind == Kind.USAGE
    assert last.usage is not None
    assert last.usage.output == words
    assert last.usage.input > 0


@scenario
async def test_a_plain_call_gets_the_whole_answer_with_its_usage() -> None:
    async with demo() as server:
        answer = await ask(server, call(server, stream=None))

    completion = answer.json()
    assert answer.status == 200
    assert completion["object"] == "chat.completion"
    assert completion["choices"][0]["message"]["content"] == ANSWER
    assert isinstance(parse_usage(answer.body), Usage)


@scenario
async def test_every_choice_asked_for_is_answered() -> None:
    async with demo() as server:
        streamed = await ask(server, call(server, n=2))
        plain = await ask(server, call(server, n=2, stream=None))

    finished = [c["index"] for c in deltas(streamed) if c["finish_reason"] == "stop"]
    assert finished == [0, 1]
    assert len(plain.json()["choices"]) == 2


@scenario
async def test_an_answer_that_is_cut_short_says_so() -> None:
    async with demo() as server:
        answer = await ask(server, call(server, max_tokens=2))

    assert ANSWER.startswith(answer.text)
    assert len(answer.text) < len(ANSWER)
    assert deltas(answer)[-1]["finish_reason"] == "length"


@scenario
async def test_the_answer_says_how_to_connect_a_provider() -> None:
    assert "HOLYSHEEP_API_KEY" in ANSWER
    assert "config.yaml" in ANSWER


@scenario
async def test_nobody_without_the_credential_gets_in() -> None:
    async with demo() as server:
        secret = server.credential
        for key in (None, "", "x", secret[:-1], secret + "x", "\xff"):
            answer = await ask(server, request("POST", CHAT, chat_body(), key=key))

            assert answer.status == 401
            assert secret not in answer.body.decode()


@scenario
async def test_each_start_has_a_credential_of_its_own() -> None:
    async with demo() as first, demo() as second:
        answer = await ask(second, call(first))

    assert len(first.credential) >= 32
    assert first.credential != second.credential
    assert answer.status == 401


@scenario
async def test_its_model_is_listed() -> None:
    async with demo() as server:
        answer = await ask(server, request("GET", "/v1/models", key=server.credential))

    assert [entry["id"] for entry in answer.json()["data"]] == ["demo"]


@pytest.mark.parametrize(
    ("method", "path", "data", "status"),
    [
        ("POST", CHAT, b"{", 400),
        ("POST", CHAT, b'{"model":"m","messages":[],"stream":"yes"}', 400),
        ("GET", CHAT, None, 405),
        ("POST", "/v1/embeddings", b"{}", 404),
    ],
)
def test_what_it_does_not_serve_is_refused_as_a_provider_would(
    method: str, path: str, data: bytes | None, status: int
) -> None:
    @scenario
    async def scene() -> None:
        async with demo() as server:
            answer = await ask(server, request(method, path, data, key=server.credential))

        assert answer.status == status
        assert answer.json()["error"]["type"] == "invalid_request_error"

    scene()


@scenario
async def test_a_large_prompt_is_no_problem() -> None:
    messages = [{"role": "user", "content": "x" * 3_000_000}]

    async with demo() as server:
        answer = await ask(server, call(server, messages=messages))

    assert answer.status == 200
    assert answer.text == ANSWER


@scenario
async def test_a_client_that_leaves_ends_the_work_for_it() -> None:
    async with demo(first_token=3600.0) as server:
        before = asyncio.all_tasks()
        client = await RawClient.connect(("127.0.0.1", server.port))
        await client.send(call(server))
        await client.head()
        await client.event()
        serving = asyncio.all_tasks() - before

        await client.close()

        assert serving
        async with within():
            await asyncio.wait(serving)


@scenario
async def test_closing_breaks_running_streams_off() -> None:
    async with demo(first_token=3600.0) as server:
        client = await RawClient.connect(("127.0.0.1", server.port))
        await client.send(call(server))
        await client.head()
        await client.event()

        async with within():
            await server.close()

        assert b"[DONE]" not in await client.closed()
        await client.close()


@scenario
async def test_closing_twice_or_before_a_start_is_harmless() -> None:
    server = DemoServer()

    await server.close()
    await server.start()
    await server.close()
    await server.close()
