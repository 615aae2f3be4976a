"""Ejected endpoints are asked, over real sockets; when they are is told, as to all machines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from relay.errors import NoUpstream
from relay.upstream import tls
from relay.upstream.breaker import State
from relay.upstream.directory import Directory
from relay.upstream.endpoint import Endpoint
from relay.upstream.failures import Effect, Failure, Retry, Verdict, connect_refused
from relay.upstream.probes import AT_ONCE, Probes
from tests.authority import Authority
from tests.dials import dead_port
from tests.plane import play
from tests.rig import Close, Flood, Gate, Reset, Send, Stall, Upstream, scenario, within
from tests.rig import scripts as say

KEY = "sk-live-Zq8Kw2Lm5Xr7Tb9Np3Vc6Yd1"
GOOD = say.plain(200, {"object": "list", "data": []})
INTERVAL = 10.0


class Scene:
    """Probes with a clock in the test's hand, and what the endpoints tell."""

    def __init__(self, answer: float = 5.0) -> None:
        self.loop = asyncio.get_running_loop()
        self.probes = Probes(self.loop, Random(1), answer)
        self.directory = Directory(self._tell, Random(1))
        self.told: list[tuple[str, str, str]] = []
        self._changed = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []

    def endpoint(
        self, upstream: Upstream | str, name: str = "u", ca_file: Path | None = None
    ) -> Endpoint:
        url = upstream if isinstance(upstream, str) else upstream.base_url
        return self.directory.endpoint(
            upstream=name, base_url=url, credential=KEY, connect=1.0, ca_file=ca_file
        )

    def watch(self, *endpoints: Endpoint, path: str = "/models") -> None:
        self.probes.watch([(endpoint, INTERVAL, path) for endpoint in endpoints])

    def ejected(
        self, upstream: Upstream | str, name: str = "u", ca_file: Path | None = None
    ) -> Endpoint:
        endpoint = self.endpoint(upstream, name, ca_file)
        eject(endpoint, self.loop.time())
        return endpoint

    def look(self, now: float) -> None:
        self.probes.look(now)

    async def says(self, state: str, number: int = 0) -> str:
        """Returns when an endpoint has said so, for the time after so many others: the reason."""

        def found() -> list[str]:
            return [reason for _, said, reason in self.told if said == state]

        async with within(), self._changed:
            await self._changed.wait_for(lambda: len(found()) > number)
        return found()[number]

    def _tell(self, endpoint: Endpoint, state: str, reason: str) -> None:
        self.told.append((endpoint.label, state, reason))
        self._tasks.append(self.loop.create_task(self._notify()))

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


@asynccontextmanager
async def scene(answer: float = 5.0) -> AsyncIterator[Scene]:
    made = Scene(answer)
    try:
        yield made
    finally:
        await made.probes.close()
        assert KEY not in str(made.told)


def eject(endpoint: Endpoint, now: float) -> None:
    for _ in range(5):
        ticket = endpoint.begin(now)
        endpoint.end(now, Verdict.FAILED, connect_refused(), ticket)
    assert endpoint.state(now) == "open"


def state(endpoint: Endpoint) -> State:
    return endpoint.breaker.state


# --- what a probe does ----------------------------------------------------------------------------


@scenario
async def test_a_good_answer_takes_an_ejected_endpoint_back_without_any_call() -> None:
    async with Upstream(GOOD) as upstream, scene() as here:
        endpoint = here.ejected(upstream)
        here.watch(endpoint)
        due = endpoint.breaker.until

        here.look(due)
        await here.says("closed")

        assert state(endpoint) is State.CLOSED
        (asked,) = upstream.exchanges
        assert asked.request.head.startswith(b"GET /v1/models HTTP/1.1\r\n")
        assert asked.request.headers["authorization"] == f"Bearer {KEY}"
        assert asked.request.headers["host"] == f"127.0.0.1:{upstream.port}"
        assert here.told[-2:] == [
            ("u", "half_open", "is asked for /v1/models"),
            ("u", "closed", "the probe succeeded"),
        ]
        # The share of who comes back grows, however it came back.
        assert endpoint.ramp_from == endpoint.breaker.closed_at >= here.loop.time() - 5


@scenario
async def test_it_is_asked_when_the_ejection_is_over_and_not_while_it_serves() -> None:
    async with Upstream(GOOD) as upstream, scene() as here:
        serving, out = here.endpoint(upstream, "serving"), here.ejected(upstream, "out")
        here.watch(serving, out)

        here.look(out.breaker.until - 0.01)
        before = state(out)
        here.look(out.breaker.until)

        assert (before, state(out), state(serving)) == (
            State.OPEN,
            State.HALF_OPEN,
            State.CLOSED,
        )
        await here.says("closed")
        here.look(here.loop.time() + 1000)
        assert {who for who, _, _ in here.told} == {"out"}
        assert len(upstream.exchanges) == 1


@scenario
async def test_no_call_is_the_probe_of_an_endpoint_that_is_asked() -> None:
    async with Upstream([Stall()]) as upstream, scene() as here:
        endpoint = here.ejected(upstream)
        here.watch(endpoint)
        due = endpoint.breaker.until

        before = endpoint.well(due)
        here.look(due)
        during = endpoint.well(due)
        here.watch()

        assert (before, during) == (False, False)
        assert endpoint.well(here.loop.time()), "nobody asks any more"


@pytest.mark.parametrize("status", [500, 503, 529, 429, 408])
@scenario
async def test_a_bad_answer_ejects_for_longer_and_the_next_probe_comes_within_the_interval(
    status: int,
) -> None:
    async with Upstream(say.error(status)) as upstream, scene() as here:
        endpoint = here.ejected(upstream)
        here.watch(endpoint)

        here.look(endpoint.breaker.until)
        reason = await here.says("open", 1)
        upstream.script = GOOD
        asked = here.loop.time()
        here.look(asked + INTERVAL / 2 - 0.5)
        early = state(endpoint)
        here.look(asked + INTERVAL)
        await here.says("closed")

        assert reason == f"the probe failed: {status}"
        assert early is State.OPEN
        assert len(upstream.exchanges) == 2


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


@pytest.mark.parametrize("status", [401, 403, 404, 405])
@scenario
async def test_an_answer_that_says_nothing_of_calls_leaves_the_probe_to_the_next_call(
    status: int,
) -> None:
    async with Upstream(say.error(status)) as upstream, scene() as here:
        endpoint = here.ejected(upstream)
        here.watch(endpoint)

        here.look(endpoint.breaker.until)
        reason = await here.says("open", 1)
        now = here.loop.time()
        admitted = endpoint.well(now)
        here.look(now + 100)
        endpoint.end(now, Verdict.OK, None, endpoint.begin(now))

        assert reason == f"a probe says nothing: {status}"
        assert admitted
        assert state(endpoint) is State.CLOSED
        assert len(upstream.exchanges) == 1
        eject(endpoint, now + 1)
        here.look(endpoint.breaker.until)
        assert state(endpoint) is State.HALF_OPEN, "ejected anew, it is asked anew"


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


# --- what it does not -----------------------------------------------------------------------------


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


@scenario
async def test_a_parked_key_is_not_asked_with() -> None:
    async with Upstream(GOOD) as upstream, scene() as here:
        endpoint = here.ejected(upstream)
        here.watch(endpoint)
        now = here.loop.time()
        rejected = Failure("auth_failed", Retry.FREE, Effect.PARK_CREDENTIAL, NoUpstream())
        endpoint.end(now, Verdict.NONE, rejected, endpoint.begin(now))

        here.look(now + 100)
        parked = state(endpoint)
        here.look(now + 301)

        assert (parked, state(endpoint)) == (State.OPEN, State.HALF_OPEN)
        await here.says("closed")


@scenario
async def test_only_so_many_are_under_way_at_once() -> None:
    async with Upstream([Gate("answer"), *GOOD]) as upstream, scene() as here:
        endpoints = [here.ejected(upstream, f"u{n}") for n in range(AT_ONCE + 3)]
        here.watch(*endpoints)
        now = here.loop.time() + 60

        here.look(now)
        await upstream.exchange(AT_ONCE - 1)
        here.look(now)
        asked = sum(state(endpoint) is State.HALF_OPEN for endpoint in endpoints)
        for exchange in upstream.exchanges:
            exchange.open("answer")
        await here.says("closed", AT_ONCE - 1)
        await asyncio.sleep(0)
        here.look(now)

        assert asked == AT_ONCE
        assert sum(state(endpoint) is State.HALF_OPEN for endpoint in endpoints) == 3


@pytest.mark.parametrize("under_way", [True, False])
@scenario
async def test_a_reload_without_the_option_gives_the_probe_back(under_way: bool) -> None:
    async with Upstream([Stall()]) as upstream, scene() as here:
        endpoint = here.ejected(upstream)
        here.watch(endpoint)
        here.look(endpoint.breaker.until)
        if under_way:
            await upstream.exchange()

        here.watch()

        assert state(endpoint) is State.OPEN
        assert endpoint.well(here.loop.time())
        if under_way:
            await upstream.exchanges[0].left()


@scenario
async def test_a_reload_with_it_goes_on_asking() -> None:
    async with Upstream([Gate("answer"), *GOOD]) as upstream, scene() as here:
        endpoint = here.ejected(upstream)
        here.watch(endpoint)
        here.look(endpoint.breaker.until)
        asked = await upstream.exchange()

        here.watch(endpoint, path="/health")
        asked.open("answer")
        await here.says("closed")

        assert len(upstream.exchanges) == 1


@scenario
async def test_a_call_of_the_last_member_that_succeeds_is_quicker_than_the_probe() -> None:
    async with Upstream([Gate("answer"), *say.error(503)]) as upstream, scene() as here:
        endpoint = here.ejected(upstream)
        here.watch(endpoint)
        here.look(endpoint.breaker.until)
        asked = await upstream.exchange()
        now = here.loop.time()

        endpoint.end(now, Verdict.OK, None, endpoint.begin(now))
        asked.open("answer")
        await asked.left()

        assert state(endpoint) is State.CLOSED
        assert [said for _, said, _ in here.told] == ["open", "half_open", "closed"]


# --- TLS ------------------------------------------------------------------------------------------


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
