"""The corners of HTTP that clients stand in: CORS, expectations, old versions, pipelines, odd framings."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from tests.rig import End, RawClient, RelayProcess, Upstream, config, get, scenario
from tests.rig import scripts as say
from tests.rig.raw_client import chat_body, request
from tests.rig.scripts import Close, Send, Step

CHAT = "/v1/chat/completions"
PAGE = "https://app.example"

# --- CORS -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/not-yet-a-path"])
@scenario
async def test_a_preflight_is_answered_without_a_key(tmp_path: Path, path: str) -> None:
    asked = "authorization,content-type,x-stainless-lang"
    head = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": asked,
    }
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        answer = await client.ask(request("OPTIONS", path, key=None, headers=head))

        told = answer.headers
        assert (answer.status, answer.body) == (204, b"")
        assert told["access-control-allow-origin"] in ("*", PAGE)
        assert {"GET", "POST", "DELETE", "OPTIONS"} <= {
            word.strip() for word in told["access-control-allow-methods"].split(",")
        }
        allowed = {word.strip() for word in told["access-control-allow-headers"].lower().split(",")}
        assert set(asked.split(",")) <= allowed
        assert told["access-control-max-age"] == "7200"
        assert not upstream.exchanges
        again = await client.ask(request("POST", CHAT, chat_body(stream=False)))
        assert again.status == 200, "the connection goes on"


@scenario
async def test_every_answer_may_be_read_by_a_page(tmp_path: Path) -> None:
    page = {"Origin": PAGE}
    keys = [{"id": "one", "key": "sk-one-0123456789abcdef", "limits": {"rpm": 1}}]
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, None, keys), tmp_path) as relay,
    ):
        stream = await relay.chat(key="sk-one-0123456789abcdef", headers=page)
        limited = await relay.chat(key="sk-one-0123456789abcdef", headers=page)
        unknown = await relay.chat(key=None, headers=page)
        bad = await relay.chat(key="sk-one-0123456789abcdef", stream="true", headers=page)
        upstream.script = say.error(500)
        models = await get(relay.address, "/v1/models", key="sk-one-0123456789abcdef", headers=page)
        lost = await get(relay.address, "/v1/x", key=None, headers=page)

        answers = [stream, limited, unknown, bad, models, lost]
        assert [item.status for item in answers] == [200, 429, 401, 400, 200, 404]
        for answer in answers:
            assert answer.headers["access-control-allow-origin"] in ("*", PAGE)
            exposed = answer.headers["access-control-expose-headers"].lower()
            for name in ("x-request-id", "retry-after", "retry-after-ms", "x-should-retry"):
                assert name in exposed
            assert "x-ratelimit-remaining-requests" in exposed
            assert "access-control-allow-credentials" not in answer.headers


@scenario
async def test_only_listed_origins_are_allowed_where_a_list_is_given(tmp_path: Path) -> None:
    server = {"cors": {"allow_origins": [PAGE]}}
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, server=server), tmp_path) as relay,
    ):
        listed = await relay.chat(headers={"Origin": PAGE})
        other = await relay.chat(headers={"Origin": "https://evil.example"})

        assert listed.headers["access-control-allow-origin"] == PAGE
        assert "origin" in listed.headers["vary"].lower()
        assert other.headers.get("access-control-allow-origin") != "https://evil.example"
        assert other.headers.get("access-control-allow-origin") != "*"


# --- requests ---------------------------------------------------------------------------------


@scenario
async def test_an_expected_100_comes_after_the_checks_of_the_head(tmp_path: Path) -> None:
    body = chat_body()
    expect = {"Expect": "100-continue", "Content-Type": "application/json"}
    size = {"Content-Length": str(len(body))}
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        async with await RawClient.connect(relay.address) as client:
            await client.send(request("POST", CHAT, headers=expect | size))
            assert await client.interim_answer() == 100
            await client.send(body)
            await client.head()
            good = await client.rest()
        async with await RawClient.connect(relay.address) as client:
            await client.send(request("POST", CHAT, headers=expect | size, key=None))
            await client.head()
            unknown = await client.rest()
        async with await RawClient.connect(relay.address) as client:
            huge = {"Content-Length": str(1 << 40)}
            await client.send(request("POST", CHAT, headers=expect | huge))
            await client.head()
            large = await client.rest()

        assert good.text == say.TEXT
        assert (unknown.status, unknown.interim) == (401, [])
        assert (large.status, large.interim) == (413, [])


@pytest.mark.parametrize("path", ["/livez", "/v1/models", CHAT, "/nothing"])
@scenario
async def test_head_is_answered_without_a_body(tmp_path: Path, path: str) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        answer = await client.ask(request("HEAD", path))
        after = await client.ask(request("POST", CHAT, chat_body()))

        assert answer.status in (200, 404, 405)
        assert after.text == say.TEXT, "no stray bytes before the next answer"


@scenario
async def test_a_client_of_http_1_0_reads_until_the_close(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        for stream in (True, False):
            async with await RawClient.connect(relay.address) as client:
                whole = request("POST", CHAT, chat_body(stream=stream), version="1.0")
                answer = await client.ask(whole)
                await client.closed()

            assert answer.status == 200
            assert "transfer-encoding" not in answer.headers
            if stream:
                assert answer.body == b"".join(say.EVENTS)
                assert answer.end is End.EOF


@scenario
async def test_pipelined_requests_are_answered_in_their_order_or_not_at_all(
    tmp_path: Path,
) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        stream = request("POST", CHAT, chat_body())
        models = request("GET", "/v1/models")
        nobody = request("POST", CHAT, chat_body(), key="sk-nobody-0123456789abcdef")
        await client.send(stream + models + nobody + stream)

        answers = []
        with contextlib.suppress(EOFError):
            for _ in range(4):
                await client.head()
                answers.append(await client.rest())

        assert [item.status for item in answers] == [200, 200, 401, 200][: len(answers)]
        assert answers[0].text == say.TEXT
        assert {item.end for item in answers} == {End.CLEAN}
        assert len(upstream.exchanges) == (2 if len(answers) == 4 else 1)


@scenario
async def test_a_chunked_request_body_arrives_whole_with_a_length(tmp_path: Path) -> None:
    body = chat_body(user="x" * 100_000)
    head = {"Transfer-Encoding": "chunked", "Content-Type": "application/json"}
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        await client.send(request("POST", CHAT, headers=head))
        for at in range(0, len(body), 977):
            await client.send(say.frame(body[at : at + 977]))
        await client.send(say.LAST_CHUNK)
        await client.head()
        answer = await client.rest()

        assert answer.text == say.TEXT
        sent = upstream.exchanges[0].request
        assert sent.json()["user"] == "x" * 100_000
        assert sent.headers["content-length"] == str(len(sent.body))
        assert "transfer-encoding" not in sent.headers


@scenario
async def test_a_request_that_trickles_in_is_served(tmp_path: Path) -> None:
    whole = request("POST", CHAT, chat_body())
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        for byte in whole:
            await client.send(bytes([byte]))
        await client.head()

        assert (await client.rest()).text == say.TEXT


@scenario
async def test_a_prompt_of_two_mebibytes_passes(tmp_path: Path) -> None:
    prompt = "ü" * (1 << 20)
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        answer = await relay.chat(messages=[{"role": "user", "content": prompt}])

        assert answer.text == say.TEXT
        assert upstream.exchanges[0].request.json()["messages"][0]["content"] == prompt


@scenario
async def test_an_aborted_upload_calls_no_upstream(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        for leave in ("close", "reset"):
            async with await RawClient.connect(relay.address) as client:
                await client.send(request("POST", CHAT, chat_body())[:-20])
                await getattr(client, leave)()
        assert (await relay.chat()).status == 200

        assert len(upstream.exchanges) == 1


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("framing", ["chunks", "length", "close"])
@scenario
async def test_a_close_that_either_side_asks_for_is_kept_to_whatever_the_framing(
    tmp_path: Path, framing: str, version: str
) -> None:
    """The client asks for a close, or is too old to keep a connection, and the upstream closes after its answer."""
    events = b"".join(say.EVENTS)
    answer = json.dumps(say.completion()).encode()
    scripts: list[list[Step]] = []
    for body, kind in ((events, b"text/event-stream"), (answer, b"application/json")):
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nConnection: close\r\n" % kind
        match framing:
            case "chunks":
                body = say.frame(body[:99]) + say.frame(body[99:]) + say.LAST_CHUNK
                head += b"Transfer-Encoding: chunked\r\n"
            case "length":
                head += b"Content-Length: %d\r\n" % len(body)
        scripts.append([Send(head + b"\r\n" + body), Close()])
    async with Upstream() as upstream, RelayProcess(config({"a": upstream}), tmp_path) as relay:
        upstream.then(*scripts)
        for stream, wanted in ((True, events), (False, answer)):
            async with await RawClient.connect(relay.address) as client:
                asked = request(
                    "POST",
                    CHAT,
                    chat_body(stream=stream),
                    version=version,
                    headers={"Connection": "close"},
                )
                got = await client.ask(asked)
                rest = await client.closed()

            assert (got.status, got.body, rest) == (200, wanted, b"")
            assert got.headers.get("connection", "close") == "close"
            assert got.end is (End.EOF if stream and version == "1.0" else End.CLEAN)
        assert upstream.connections == 2


@pytest.mark.parametrize("ask", ["Connection", "Connection: keep-alive on 1.0"])
@scenario
async def test_the_clients_wish_for_the_connection_is_kept(tmp_path: Path, ask: str) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        if ask == "Connection":
            whole = request("GET", "/v1/models", headers={"Connection": "close"})
        else:
            whole = request("GET", "/v1/models", version="1.0")
        answer = await client.ask(whole)
        rest = await client.closed()

        assert answer.status == 200
        assert rest == b""
