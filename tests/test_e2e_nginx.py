"""The relay behind Debian's nginx with the site that deploy/ ships."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.rig import (
    Close,
    End,
    Gate,
    RawClient,
    RelayProcess,
    Reset,
    Send,
    Stall,
    Upstream,
    config,
    scenario,
)
from tests.rig import scripts as say
from tests.rig.nginx import Nginx
from tests.rig.raw_client import chat, chat_body, get, request
from tests.rig.scripts import Script, Step

CHAT = request("POST", "/v1/chat/completions", chat_body())


@scenario
async def test_events_pass_nginx_one_by_one(tmp_path: Path) -> None:
    steps: Script = [Send(say.SSE_HEAD + say.frame(say.ROLE))]
    for number, item in enumerate(say.EVENTS[1:]):
        steps = [*steps, Send(say.frame(item)), Gate(str(number))]
    async with (
        Upstream([*steps, Send(say.LAST_CHUNK)]) as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        Nginx(relay.address, tmp_path / "nginx") as nginx,
        await RawClient.connect(nginx.address) as client,
    ):
        await client.send(CHAT)
        exchange = await upstream.exchange()
        await client.head()
        assert await client.event() == say.ROLE
        for number, item in enumerate(say.EVENTS[1:]):
            assert await client.event() == item
            exchange.open(str(number))

        assert (await client.rest()).end is End.CLEAN
        assert client.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert client.headers["x-request-id"]


@scenario
async def test_a_broken_stream_is_broken_behind_nginx_too(tmp_path: Path) -> None:
    async with (
        Upstream(say.sse(say.EVENTS[:3], Reset())) as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        Nginx(relay.address, tmp_path / "nginx") as nginx,
    ):
        answer = await chat(nginx.address)

        assert answer.end is End.BROKEN
        assert b"upstream_stream_error" in answer.events[-1]
        assert b"[DONE]" not in answer.body


@scenario
async def test_a_client_that_leaves_nginx_cancels_the_upstream(tmp_path: Path) -> None:
    async with (
        Upstream(say.sse(say.EVENTS[:3], Gate("here"), Stall())) as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        Nginx(relay.address, tmp_path / "nginx") as nginx,
        await RawClient.connect(nginx.address) as client,
    ):
        await client.send(CHAT)
        await client.head()
        exchange = await upstream.exchange()
        await exchange.reached("here")
        left = asyncio.get_running_loop().time()
        await client.close()

        assert await exchange.left() - left < 0.5


@scenario
async def test_the_clients_address_reaches_the_relay(tmp_path: Path) -> None:
    keys = [
        {"id": "near", "key": "sk-near-0123456789abcdef", "allow_ips": ["127.0.0.1/32"]},
        {"id": "far", "key": "sk-far-0123456789abcdef", "allow_ips": ["192.0.2.0/24"]},
    ]
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, None, keys), tmp_path) as relay,
        Nginx(relay.address, tmp_path / "nginx") as nginx,
    ):
        near = await chat(nginx.address, key="sk-near-0123456789abcdef")
        far = await chat(nginx.address, key="sk-far-0123456789abcdef")
        # 127.0.0.1 is a trusted proxy; a stranger comes from another address.
        forge = {"X-Forwarded-For": "192.0.2.1"}
        far_key = "sk-far-0123456789abcdef"
        forged = await chat(nginx.address, key=far_key, headers=forge, source="127.0.0.9")

        assert near.status == 200
        assert (far.status, far.error["code"]) == (401, "ip_not_authorized")
        assert forged.status == 401, "nginx appends the real address, which is the one that counts"


@scenario
async def test_errors_keep_their_shape(tmp_path: Path) -> None:
    large = request("POST", "/v1/chat/completions", headers={"Content-Length": str(40 << 20)})
    async with (
        Upstream(say.error(503)) as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        Nginx(relay.address, tmp_path / "nginx") as nginx,
    ):
        refused = await chat(nginx.address)
        unknown = await get(nginx.address, "/v1/nothing")
        async with await RawClient.connect(nginx.address) as client:
            too_large = await client.ask(large)
        await relay.stop()
        away = await chat(nginx.address)

        assert (refused.status, refused.error["code"]) == (503, "upstream_overloaded")
        assert refused.headers["x-should-retry"] == "false"
        assert unknown.status == 404
        assert unknown.error["type"] == "invalid_request_error"
        assert (too_large.status, too_large.error["code"]) == (413, "request_too_large")
        assert (away.status, away.error["code"]) == (503, "relay_unavailable")
        assert away.headers["x-should-retry"] == "true"


@scenario
async def test_many_calls_share_kept_connections(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        Nginx(relay.address, tmp_path / "nginx") as nginx,
    ):
        answers = [await chat(nginx.address, stream=turn % 2 == 0) for turn in range(20)]

        assert {item.status for item in answers} == {200}
        assert upstream.connections == 1


@scenario
async def test_of_two_relays_one_may_stop_and_nobody_notices(tmp_path: Path) -> None:
    homes = [tmp_path / "1", tmp_path / "2"]
    for home in homes:
        home.mkdir()
    async with (
        Upstream() as one,
        Upstream() as other,
        RelayProcess(config({"a": one}), homes[0]) as first,
        RelayProcess(config({"a": other}), homes[1]) as second,
        Nginx(first.address, tmp_path / "nginx", second.address) as nginx,
        await RawClient.connect(nginx.address) as client,
    ):
        one.then([*say.sse(say.EVENTS[:3], Gate("here")), *say.sse(say.EVENTS[3:])[1:]])
        await client.send(CHAT)
        held = await one.exchange()
        await held.reached("here")
        first.signal(signal.SIGTERM)
        await first.log(lambda line: line["event"] == "draining")
        during = await asyncio.gather(*(chat(nginx.address) for _ in range(50)))
        held.open("here")
        ended = await client.rest()
        await first.exit()
        after = [await chat(nginx.address) for _ in range(50)]

        assert ended.end is End.CLEAN
        assert {(item.status, item.end) for item in [*during, *after]} == {(200, End.CLEAN)}
        assert (len(one.exchanges), len(other.exchanges)) == (1, 100), "nobody was asked twice"


@pytest.mark.parametrize("end", [Close(), Reset()])
@scenario
async def test_a_call_that_was_handed_over_is_not_handed_to_another_relay(
    tmp_path: Path, end: Step
) -> None:
    async with Upstream([end]) as first, Upstream([end]) as second:
        here = [("127.0.0.1", relay.port) for relay in (first, second)]
        async with Nginx(here[0], tmp_path / "nginx", here[1]) as nginx:
            answer = await chat(nginx.address)

        assert (answer.status, answer.error["code"]) == (503, "relay_unavailable")
        assert answer.headers["x-should-retry"] == "true"
        assert len(first.exchanges) + len(second.exchanges) == 1
