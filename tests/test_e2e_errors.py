"""Every error is OpenAI's object, with the status, type, param and code of its case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.rig import RawClient, RelayProcess, Send, Upstream, config, get, scenario
from tests.rig.raw_client import Answer, chat_body, request

CHAT = "/v1/chat/completions"
OK = b'{"model":"m","messages":[{"role":"user","content":"x"}]%s}'


def check(
    answer: Answer,
    status: int,
    code: str | None,
    param: str | None,
    kind: str = "invalid_request_error",
) -> None:
    error = answer.error
    assert (answer.status, error["type"], error["code"], error["param"]) == (
        status,
        kind,
        code,
        param,
    )
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]


BAD_JSON = {
    "empty": b"",
    "blank": b"  \n",
    "not JSON": b"hello",
    "cut short": b'{"model":"m","messages":[{"role":"us',
    "two documents": OK % b"" + b"{}",
    "an array": b"[]",
    "a string": b'"model"',
    "a number": b"17",
    "null": b"null",
    "NaN": OK % b',"temperature":NaN',
    "Infinity": OK % b',"temperature":-Infinity',
    "deep": OK % (b',"x":' + b"[" * 100_000 + b"]" * 100_000),
    "deep and open": b"[" * 200_000,
    "deep objects": OK % (b',"x":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "bad UTF-8": OK % b',"x":"\xff\xfe"',
    "an overlong UTF-8": OK % b',"x":"\xc0\xaf"',
    "UTF-16": (OK % b"").decode().encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + OK % b"",
    "single quotes": b"{'model':'m'}",
    "a trailing comma": OK % b",",
    "a comment": OK % b"/* x */",
    "a leading zero": OK % b',"x":007',
    "a control character": OK % b',"x":"a\nb"',
    "a NUL": OK % b',"x":"a\x00b"',
}


@scenario
async def test_what_is_not_a_json_object_is_400_and_names_no_field(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        for name, body in BAD_JSON.items():
            async with await RawClient.connect(relay.address) as client:
                answer = await client.ask(request("POST", CHAT, body))
            try:
                check(answer, 400, None, None)
            except AssertionError as error:
                error.add_note(f"case {name}: {answer.status} {answer.body[:200]!r}")
                raise

        assert not upstream.exchanges


FIELDS: dict[str, tuple[bytes, str]] = {
    "stream is a string": (OK % b',"stream":"true"', "stream"),
    "stream is a number": (OK % b',"stream":1', "stream"),
    "model is missing": (b'{"messages":[{"role":"user","content":"x"}]}', "model"),
    "model is null": (b'{"model":null,"messages":[]}', "model"),
    "model is empty": (b'{"model":"","messages":[]}', "model"),
    "model is a number": (b'{"model":4,"messages":[]}', "model"),
    "messages are missing": (b'{"model":"m"}', "messages"),
    "messages are a string": (b'{"model":"m","messages":"hi"}', "messages"),
    "messages hold a string": (b'{"model":"m","messages":["hi"]}', "messages"),
    "messages are an object": (b'{"model":"m","messages":{}}', "messages"),
    "stream_options are a list": (
        OK % b',"stream":true,"stream_options":[]',
        "stream_options",
    ),
    "include_usage is a string": (
        OK % b',"stream":true,"stream_options":{"include_usage":"yes"}',
        "stream_options",
    ),
    "stream_options without a stream": (
        OK % b',"stream_options":{"include_usage":true}',
        "stream_options",
    ),
    "max_tokens is zero": (OK % b',"max_tokens":0', "max_tokens"),
    "max_tokens is negative": (OK % b',"max_tokens":-1', "max_tokens"),
    "max_tokens is a float": (OK % b',"max_tokens":1.0', "max_tokens"),
    "max_tokens is true": (OK % b',"max_tokens":true', "max_tokens"),
    "max_tokens is a string": (OK % b',"max_tokens":"9"', "max_tokens"),
    "max_completion_tokens is zero": (
        OK % b',"max_completion_tokens":0',
        "max_completion_tokens",
    ),
    "n is zero": (OK % b',"n":0', "n"),
    "n is 129": (OK % b',"n":129', "n"),
    "n is a float": (OK % b',"n":2.0', "n"),
    "user is a number": (OK % b',"user":1', "user"),
    "prompt_cache_key is a list": (OK % b',"prompt_cache_key":[]', "prompt_cache_key"),
    "model twice": (b'{"model":"m","model":"m","messages":[]}', "model"),
    "stream twice": (OK % b',"stream":true,"stream":false', "stream"),
    "max_tokens twice": (OK % b',"max_tokens":1,"max_tokens":2', "max_tokens"),
    "max_tokens twice, once escaped": (
        OK % b',"max_tokens":1,"max_\\u0074okens":99999',
        "max_tokens",
    ),
}


@scenario
async def test_a_bad_field_is_400_and_named(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        for name, (body, param) in FIELDS.items():
            answer = await client.ask(request("POST", CHAT, body))
            try:
                assert answer.error["param"] in (param, f"{param}.include_usage")
                check(answer, 400, None, answer.error["param"])
            except AssertionError as error:
                error.add_note(f"case {name}: {answer.status} {answer.body[:200]!r}")
                raise

        first = await client.ask(request("POST", CHAT, OK % b',"stream":"true"'))
        assert first.error["message"] == "stream must be a boolean"
        assert not upstream.exchanges


@scenario
async def test_values_at_their_limits_and_null_fields_pass(tmp_path: Path) -> None:
    bodies = [
        OK % b',"stream":null,"max_tokens":null,"n":null,"user":null,"stream_options":null',
        OK % b',"n":128,"max_tokens":1,"max_completion_tokens":2',
        OK % b',"x":123456789012345678901234567890,"y":-1.5e-7',
        OK % b',"metadata":{"model":"x","stream":"true"},"tools":[{"model":1,"model":2}]',
        b'{"\\u006dodel":"m","messages":[]}',
    ]
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        for body in bodies:
            answer = await client.ask(request("POST", CHAT, body))
            assert answer.status == 200, (body, answer.body)

        assert [item.request.body for item in upstream.exchanges] == bodies


HEADS: dict[str, tuple[bytes, int, str | None]] = {
    "another content type": (
        request("POST", CHAT, chat_body(), headers={"Content-Type": "text/plain"}),
        400,
        "unsupported_content_type",
    ),
    "no content type": (
        request("POST", CHAT, chat_body(), headers={"Content-Type": ""}),
        400,
        "unsupported_content_type",
    ),
    "a compressed body": (
        request("POST", CHAT, chat_body(), headers={"Content-Encoding": "gzip"}),
        415,
        "unsupported_content_encoding",
    ),
    "an unknown URL": (request("POST", "/v1/nothing", b"{}"), 404, None),
    "the root": (request("GET", "/"), 404, None),
    "a path that climbs": (request("GET", "/v1/../admin"), 404, None),
    "an encoded path": (request("POST", "/v1/chat%2fcompletions", b"{}"), 404, None),
    "GET of chat": (request("GET", CHAT), 405, "method_not_supported"),
    "PUT of chat": (request("PUT", CHAT, b"{}"), 405, "method_not_supported"),
    "DELETE of models": (request("DELETE", "/v1/models"), 405, "method_not_supported"),
    "an unknown expectation": (
        request("POST", CHAT, chat_body(), headers={"Expect": "200-ok"}),
        417,
        None,
    ),
    "our own Via": (
        request("POST", CHAT, chat_body(), headers={"Via": "1.1 nginx, 1.1 relay"}),
        508,
        "loop_detected",
    ),
}


@scenario
async def test_what_the_head_alone_decides(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        for name, (whole, status, code) in HEADS.items():
            async with await RawClient.connect(relay.address) as client:
                answer = await client.ask(whole)
            try:
                check(answer, status, code, None)
                if status == 405:
                    assert answer.headers["allow"]
            except AssertionError as error:
                error.add_note(f"case {name}: {answer.status} {answer.body[:200]!r}")
                raise

        parameters = {"Content-Type": "Application/JSON; charset=utf-8"}
        assert (await relay.chat(headers=parameters)).status == 200
        assert (await relay.chat(headers={"Content-Encoding": "identity"})).status == 200
        assert len(upstream.exchanges) == 2


@scenario
async def test_a_body_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    server = {"max_body": "64KiB"}
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, server=server), tmp_path) as relay,
    ):
        async with await RawClient.connect(relay.address) as client:
            head = {"Content-Length": str(1 << 40), "Content-Type": "application/json"}
            declared = await client.ask(request("POST", CHAT, headers=head))
        async with await RawClient.connect(relay.address) as client:
            chunked = {"Transfer-Encoding": "chunked", "Content-Type": "application/json"}
            await client.send(request("POST", CHAT, headers=chunked))
            for _ in range(5):
                await client.send(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
            await client.head()
            streamed = await client.rest()
        fits = json.dumps({"model": "m", "messages": []}).encode().ljust(64 << 10)
        async with await RawClient.connect(relay.address) as client:
            allowed = await client.ask(request("POST", CHAT, fits))
            over = await client.ask(request("POST", CHAT, fits + b" "))

        for answer in (declared, streamed, over):
            check(answer, 413, "request_too_large", None)
        assert allowed.status == 200


@scenario
async def test_a_request_that_does_not_come_whole_in_time_is_408(tmp_path: Path) -> None:
    server = {"timeouts": {"header": "300ms", "body": "300ms"}}
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, server=server), tmp_path) as relay,
    ):
        whole = request("POST", CHAT, chat_body())
        for cut in (whole[:30], whole[:-10]):
            async with await RawClient.connect(relay.address) as client:
                await client.send(cut)
                await client.head()
                answer = await client.rest()

                check(answer, 408, "request_timeout", None)
                assert answer.headers["x-should-retry"] == "false"
                await client.closed()
        assert not upstream.exchanges


@scenario
async def test_the_upstreams_verdict_on_a_request_passes_scrubbed(tmp_path: Path) -> None:
    secret = "sk-upstream-a"
    message = f"Bad max_tokens for {secret} at http://127.0.0.1 " + "x" * 4000
    inner: dict[str, Any] = {"message": message, "type": "t", "param": "p", "code": "c"}
    body = json.dumps({"error": inner | {"internal": "trace"}, "request": "echo"}).encode()
    flat = b'{"object":"error","message":"too long","type":"BadRequest","param":null,"code":400}'
    deep = b"This model's maximum context length is 131072 tokens. However, you requested 9"
    context = b'{"error":{"message":"%s","type":"invalid_request_error","param":null,' % deep
    context += b'"code":"invalid_request_error"}}'
    answers = []
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        for given in (body, flat, context, b'{"detail":"no"}', b'{"error":"no"}', b"<html>"):
            head = b"HTTP/1.1 400 X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            upstream.then([Send(head % len(given) + given)])
            answers.append(await relay.chat())

        for answer in answers:
            assert answer.status == 400
            assert answer.error["message"]
        first, second, third = (answer.error for answer in answers[:3])
        assert (first["type"], first["param"], first["code"]) == ("t", "p", "c")
        assert secret not in first["message"]
        assert len(first["message"]) <= 2000
        assert b"internal" not in answers[0].body
        assert second["message"] == "too long"
        assert third["code"] == "context_length_exceeded"
        assert b"<html>" not in answers[5].body


@scenario
async def test_the_health_of_the_process_is_told_without_a_key(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        for address in (relay.address, relay.admin):
            live = await get(address, "/livez", key=None)
            ready = await get(address, "/readyz", key=None)

            assert live.status == 200
            assert ready.status == 200
            assert ready.json()["status"] == "ready"
        hidden = await get(relay.address, "/metrics", key=None)
        assert hidden.status == 404
