"""What the relay changes of a call, and what it leaves as it is: usage, edits of the body, heads both ways, paths."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.rig import RawClient, RelayProcess, Send, Upstream, config, get, scenario
from tests.rig import scripts as say
from tests.rig.raw_client import chat_body, request
from tests.rig.scripts import Script

USAGE_ASKED = {"stream_options": {"include_usage": True}}


# --- usage ------------------------------------------------------------------------------------


def null_usage(item: bytes) -> bytes:
    return item if item == say.DONE else item.replace(b'"choices"', b'"usage":null,"choices"', 1)


@scenario
async def test_usage_is_asked_for_and_withheld_from_a_client_that_did_not_ask(
    tmp_path: Path,
) -> None:
    loud = [*(null_usage(item) for item in say.EVENTS[:-1]), say.usage_event(), say.DONE]
    with_usage = say.delta({}, finish="stop", usage=say.USAGE)
    deepseek = [*say.EVENTS[:-2], with_usage, say.DONE]
    async with (
        Upstream(say.sse(loud)) as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        silent = await relay.chat()
        refused = await relay.chat(stream_options={"include_usage": False})
        upstream.then(say.sse(deepseek))
        on_the_last = await relay.chat()
        upstream.then(
            [Send(say.SSE_HEAD + b"".join([say.frame(item) for item in loud]) + say.LAST_CHUNK)]
        )
        at_once = await relay.chat()

        for exchange in upstream.exchanges:
            assert exchange.request.json()["stream_options"] == {"include_usage": True}
        for answer in (silent, refused, on_the_last, at_once):
            # What a server reports unasked, on an event with content, is as much its answer as the content.
            told = deepseek if answer is on_the_last else say.EVENTS
            assert answer.body == b"".join(told)
            line = await relay.call_of(answer)
            assert (line["input_tokens"], line["output_tokens"]) == (9, 12)
            assert line["source"] == "reported"


@scenario
async def test_usage_passes_untouched_to_a_client_that_asked(tmp_path: Path) -> None:
    loud = [*(null_usage(item) for item in say.EVENTS[:-1]), say.usage_event(), say.DONE]
    async with (
        Upstream(say.sse(loud)) as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        answer = await relay.chat(**USAGE_ASKED)

        assert answer.body == b"".join(loud)


# --- the request ------------------------------------------------------------------------------


@scenario
async def test_the_clients_bytes_go_upstream_but_for_the_edits_we_own(tmp_path: Path) -> None:
    rest = (
        b'"messages": [{"role":"user","content":[{"type":"text","text":"\\u00fc \\"model\\": "},'
        b'{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}],\n'
        b'\t"temperature": 1.0e-1, "big": 12345678901234567890123, "unknown": {"stream": "no"},'
        b' "tools": [{"type":"function","function":{"name":"f","parameters":{"model":"x"}}}]'
    )
    ours = b'{ "model" : "m", "stream": true, "stream_options": {"include_usage":true}, %s }' % rest
    short = b'{ "model" : "m", "stream": true, %s }' % rest
    models = {"m": {"pool": [{"upstream": "a"}]}, "alias": {"pool": [{"upstream": "a"}]}}
    models["alias"]["pool"][0]["model"] = "vendor/real-name"
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, models), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        for body in (ours, short, short.replace(b'"m"', b'"alias"', 1)):
            answer = await client.ask(request("POST", "/v1/chat/completions", body))
            assert answer.status == 200

        same, injected, renamed = [exchange.request.body for exchange in upstream.exchanges]
        assert same == ours
        assert rest in injected
        assert json.loads(injected) == json.loads(ours)
        assert rest in renamed
        assert json.loads(renamed) == json.loads(ours) | {"model": "vendor/real-name"}


@scenario
async def test_request_headers_go_upstream_by_allow_list(tmp_path: Path) -> None:
    sent = {
        "OpenAI-Organization": "org-x",
        "OpenAI-Project": "proj-x",
        "Cookie": "session=1",
        "Accept-Encoding": "gzip, br",
        "X-Forwarded-For": "10.0.0.1",
        "X-Real-IP": "10.0.0.1",
        "Origin": "https://app.example",
        "Referer": "https://app.example/x",
        "X-Api-Key": "sk-other-0123456789abcdef",
        "Api-Key": "sk-other-0123456789abcdef",
        "Connection": "keep-alive, X-Private",
        "X-Private": "1",
        "OpenAI-Beta": "assistants=v2",
        "Idempotency-Key": "abc",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "x-relay-first-token-ms": "5000",
        "x-request-id": "mine",
    }
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        answer = await relay.chat(headers=sent)

        got = upstream.exchanges[0].request.headers
        assert answer.status == 200
        assert got["authorization"] == "Bearer sk-upstream-a"
        assert got["accept-encoding"] == "identity"
        assert got["content-type"] == "application/json"
        assert got["host"] == f"127.0.0.1:{upstream.port}"
        assert "relay" in got["via"]
        assert got["openai-beta"] == "assistants=v2"
        assert got["idempotency-key"] == "abc"
        assert got["traceparent"] == sent["traceparent"]
        allowed = {
            *("authorization", "accept", "accept-encoding", "connection", "content-length"),
            *("content-type", "host", "user-agent", "via", "openai-beta", "idempotency-key"),
            *("traceparent",),
        }
        assert set(got) <= allowed
        line = await relay.call_of(answer)
        assert line["client_request_id"] == "mine"
        assert line["request_id"] != "mine"


@pytest.mark.parametrize("stream", [True, False])
@scenario
async def test_response_headers_are_ours_and_an_allow_list(tmp_path: Path, stream: bool) -> None:
    extra = (
        b"x-request-id: up-1\r\nSet-Cookie: __cf_bm=1\r\nServer: cloudflare\r\nAlt-Svc: h3\r\n"
        b"x-ratelimit-limit-requests: 9\r\ncf-ray: 1\r\nopenai-organization: org\r\n"
        b"openai-processing-ms: 12\r\nopenai-version: 2020-10-01\r\nStrict-Transport-Security: x\r\n"
        b"Access-Control-Allow-Origin: https://evil.example\r\nX-Unknown: 1\r\n"
    )
    script: Script = say.plain(200, say.completion(), headers=extra)
    if stream:
        head = say.SSE_HEAD.removesuffix(b"\r\n") + extra + b"\r\n"
        script = [Send(head), *say.sse(say.EVENTS)[1:]]
    async with (
        Upstream(script) as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        answer = await relay.chat(stream=stream)

        head_of = answer.headers
        assert head_of["x-upstream-request-id"] == "up-1"
        assert head_of["x-request-id"] not in ("", "up-1")
        assert head_of["openai-processing-ms"] == "12"
        assert head_of["openai-version"] == "2020-10-01"
        if stream:
            assert head_of["content-type"] == "text/event-stream; charset=utf-8"
            assert head_of["cache-control"] == "no-cache, no-transform"
            assert head_of["x-accel-buffering"] == "no"
            assert "content-length" not in head_of
        banned = {"set-cookie", "alt-svc", "cf-ray", "openai-organization", "x-unknown"}
        banned |= {"strict-transport-security", "x-ratelimit-limit-requests"}
        assert not banned & set(head_of)
        assert head_of.get("server", "relay") != "cloudflare"
        assert head_of.get("access-control-allow-origin") != "https://evil.example"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/chat/completions",
        "/beta/chat/completions",
        "//v1//chat/completions",
        "/v1/chat/completions?api-version=1",
    ],
)
@scenario
async def test_chat_is_served_at_every_path_that_sdks_use(tmp_path: Path, path: str) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        answer = await client.ask(request("POST", path, chat_body()))

        assert answer.text == say.TEXT
        assert upstream.exchanges[0].request.target == "/v1/chat/completions"


@scenario
async def test_connections_are_kept_on_both_sides(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        for stream in (True, False, True):
            body = chat_body(stream=stream)
            answer = await client.ask(request("POST", "/v1/chat/completions", body))
            assert answer.status == 200

        assert upstream.connections == 1


@scenario
async def test_models_are_those_that_the_callers_key_may_use(tmp_path: Path) -> None:
    pool = {"pool": [{"upstream": "a"}]}
    models = {name: pool for name in ("deep-chat", "deep-think", "gpt-x")}
    keys: list[dict[str, object]] = [
        {"id": "all", "key": "sk-all-0123456789abcdef"},
        {"id": "some", "key": "sk-some-0123456789abcdef", "models": ["deep-*"]},
    ]
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, models, keys), tmp_path) as relay,
    ):
        everything = await get(relay.address, "/v1/models", key="sk-all-0123456789abcdef")
        some = await get(relay.address, "/models", key="sk-some-0123456789abcdef")
        one = await get(relay.address, "/v1/models/deep-chat", key="sk-some-0123456789abcdef")
        hidden = await get(relay.address, "/v1/models/gpt-x", key="sk-some-0123456789abcdef")
        none = await get(relay.address, "/v1/models", key=None)

        assert everything.json()["object"] == "list"
        assert {item["id"] for item in everything.json()["data"]} == set(models)
        assert {item["id"] for item in some.json()["data"]} == {"deep-chat", "deep-think"}
        assert one.json()["id"] == "deep-chat"
        assert one.json()["object"] == "model"
        assert (hidden.status, hidden.error["code"]) == (404, "model_not_found")
        assert none.status == 401
