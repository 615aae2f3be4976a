"""How ejected endpoints are asked, over real sockets: what a connection does to the answer, and what it never says."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from relay.upstream import tls
from tests.authority import Authority
from tests.dials import dead_port
from tests.endpoints import KEY
from tests.plane import play
from tests.probing import GOOD, scene
from tests.rig import Close, Flood, Reset, Send, Stall, Upstream, scenario
from tests.rig import scripts as say


@scenario
async def test_no_connection_and_no_answer_are_bad_answers() -> None:
    with dead_port() as port:
        async with Upstream([Stall()]) as mute, scene(answer=0.1) as here:
            dead = here.ejected(f"http://127.0.0.1:{port}/v1", "dead")
            silent = here.ejected(mute, "silent")
            silent.connect = 0.1
            here.watch(dead, silent)

            here.look(here.loop.time() + 60)
            await here.says("open", 3)

            reasons = {who: reason for who, said, reason in here.told if said == "open"}
            assert reasons == {
                "dead": "the probe failed: ClientConnectorError",
                "silent": "the probe failed: timeout",
            }
            await (await mute.exchange()).left()


HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"


@scenario
@pytest.mark.parametrize(
    ("end", "fault"), [(Stall(), "timeout"), (Close(), "ClientPayloadError")], ids=str
)
async def test_a_head_without_its_body_is_no_good_answer(end: Stall | Close, fault: str) -> None:
    async with Upstream([Send(HALF), end]) as upstream, scene(answer=0.1) as here:
        endpoint = here.ejected(upstream)
        endpoint.connect = 0.2
        here.watch(endpoint)

        here.look(endpoint.breaker.until)

        assert await here.says("open", 1) == f"the probe failed: {fault}"


@scenario
async def test_of_a_long_answer_enough_is_read() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"
    async with Upstream([Send(head), Flood(b"x" * 1024, 90_000)]) as upstream, scene() as here:
        endpoint = here.ejected(upstream)
        here.watch(endpoint)

        here.look(endpoint.breaker.until)
        await here.says("closed")

        asked = await upstream.exchange()
        await asked.left()
        assert asked.sent < 8_000_000


@scenario
async def test_a_connection_that_breaks_is_tried_once_more() -> None:
    async with Upstream(GOOD) as upstream, scene() as here:
        endpoint = here.ejected(upstream)
        here.watch(endpoint)
        upstream.then([Reset()])

        here.look(endpoint.breaker.until)
        await here.says("closed")

        assert len(upstream.exchanges) == 2
        both = [each.request.headers["authorization"] for each in upstream.exchanges]
        assert both == [f"Bearer {KEY}"] * 2


@scenario
async def test_a_redirect_is_not_followed() -> None:
    async with Upstream(GOOD) as sink, scene() as here:
        target = f"Location: {sink.base_url}/models\r\n".encode()
        async with Upstream(say.plain(307, {}, headers=target)) as upstream:
            endpoint = here.ejected(upstream)
            here.watch(endpoint)

            here.look(endpoint.breaker.until)
            reason = await here.says("open", 1)

            assert reason == "a probe says nothing: 307"
            assert (len(upstream.exchanges), len(sink.exchanges)) == (1, 0)


@scenario
async def test_neither_proxies_nor_cookies_nor_logs_get_anything(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with dead_port() as port:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        cookie = say.plain(503, {}, headers=b"Set-Cookie: a=b; Path=/\r\n")
        async with Upstream(GOOD) as upstream, scene() as here:
            endpoint = here.ejected(upstream)
            here.watch(endpoint)
            upstream.then([Reset()], cookie)

            here.look(endpoint.breaker.until)
            await here.says("open", 1)
            here.look(here.loop.time() + 100)
            await here.says("closed")

            assert len(upstream.exchanges) == 3
            assert "cookie" not in upstream.exchanges[-1].request.headers

            assert KEY not in caplog.text


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("trusted", [True, False])
def test_it_is_asked_over_tls_if_its_authority_is_trusted(tmp_path: Path, trusted: bool) -> None:
    authority, stranger = Authority(tmp_path / "ours"), Authority(tmp_path / "stranger")
    heard = bytearray()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    async def play_it() -> None:
        context = authority.serving("IP:127.0.0.1")
        listening = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
        port = listening.sockets[0].getsockname()[1]
        async with scene() as here:
            known = authority.file if trusted else stranger.file
            endpoint = here.ejected(f"https://127.0.0.1:{port}/v1", ca_file=known)
            here.watch(endpoint)

            here.look(endpoint.breaker.until)
            reason = await (here.says("closed") if trusted else here.says("open", 1))

            if trusted:
                assert f"Bearer {KEY}".encode() in heard
            else:
                assert reason == "the probe failed: ClientConnectorCertificateError"
                assert not heard
        listening.close()
        await listening.wait_closed()

    tls._contexts.clear()
    play(play_it())
