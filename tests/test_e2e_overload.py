"""More than a relay can take: real processes with too few descriptors, too many connections, slow attackers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic

import pytest

from tests.crew import HELD, about, begun, several, spread
from tests.rig import (
    Answer,
    RawClient,
    RelayProcess,
    Upstream,
    config,
    get,
    scenario,
    within,
)
from tests.rig.deadlines import SCALE
from tests.rig.raw_client import Address, chat_body, request

pytestmark = pytest.mark.alone

CHAT = request("POST", "/v1/chat/completions", chat_body())
PLAIN = request("POST", "/v1/chat/completions", chat_body(stream=False))
ATTACKERS = 1000
FILES = 256
DRIP = 0.8
"""Seconds between two bytes of an attacker."""


def overloaded(answer: Answer) -> None:
    assert (answer.status, answer.error["code"]) == (503, "server_is_overloaded")
    assert answer.headers["x-should-retry"] == "true"
    assert int(answer.headers["retry-after"]) >= 1


async def stream(relay: RelayProcess, stack: AsyncExitStack) -> RawClient:
    """A client whose stream has begun."""
    client = await stack.enter_async_context(await RawClient.connect(relay.address))
    await client.send(CHAT)
    await client.head()
    await client.event()
    return client


async def until_ready_is(address: Address, status: int) -> Answer:
    """Asks until the answer has this status."""
    async with within():
        while (answer := await get(address, "/readyz", key=None)).status != status:
            pass
    return answer


def spent(pid: int) -> float:
    """CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


class Bounded(RelayProcess):
    """A relay that may have `FILES` open."""

    @staticmethod
    def command(path: Path) -> tuple[str, ...]:
        shell = f'ulimit -n {FILES} && exec "$0" "$@"'
        return ("/bin/sh", "-c", shell, *RelayProcess.command(path))


# --- connections ----------------------------------------------------------------------------------


@scenario
async def test_a_full_relay_says_so_to_who_comes_and_serves_who_is_there(tmp_path: Path) -> None:
    async with (
        Upstream(HELD) as upstream,
        RelayProcess(config({"a": upstream}, server={"max_connections": 3}), tmp_path) as relay,
        AsyncExitStack() as stack,
    ):
        clients = [await stream(relay, stack) for _ in range(3)]
        refused = [await relay.chat() for _ in range(20)]
        await relay.log(about("overloaded", short_of="connections"))
        unready = await until_ready_is(relay.admin, 503)
        alive = await get(relay.address, "/livez", key=None)
        numbers = await relay.metrics()
        for number, client in enumerate(clients):
            (await upstream.exchange(number)).open("end")
            whole = await client.rest()
            assert whole.body.endswith(b"data: [DONE]\n\n")
            await client.close()
        over = await relay.log(about("overload_over", short_of="connections"))
        ready = await until_ready_is(relay.admin, 200)

        for answer in refused:
            overloaded(answer)
            assert answer.headers["connection"] == "close"
        assert unready.json()["reason"] == "overloaded"
        assert alive.status == 200
        assert numbers['relay_refused_total{reason="overload"}'] == over["refused"] == 20
        assert ready.json() == {"status": "ready", "degraded": []}
        begun = [line for line in relay.lines if line["event"] == "overloaded"]
        assert len(begun) == 1, "one line, not one for each"


@scenario
async def test_the_cap_follows_the_limit_of_open_files_and_all_calls_get_upstreams(
    tmp_path: Path,
) -> None:
    """256 descriptors are 96 connections of clients, each with one to an upstream."""
    async with (
        Upstream(HELD) as upstream,
        Bounded(config({"a": upstream}), tmp_path) as relay,
        AsyncExitStack() as stack,
    ):
        clients = [await stream(relay, stack) for _ in range(96)]
        refused = [await relay.chat() for _ in range(50)]
        for number, client in enumerate(clients):
            (await upstream.exchange(number)).open("end")
            assert (await client.rest()).body.endswith(b"data: [DONE]\n\n")

        for answer in refused:
            overloaded(answer)


@scenario
async def test_a_cap_that_the_limit_of_open_files_cannot_bear_is_lowered_and_said(
    tmp_path: Path,
) -> None:
    async with (
        Upstream() as upstream,
        Bounded(config({"a": upstream}, server={"max_connections": 5000}), tmp_path) as relay,
    ):
        line = await relay.log(about("max_connections_lowered"))

        assert (line["wanted"], line["possible"], line["files"]) == (5000, 96, FILES)


# --- descriptors ----------------------------------------------------------------------------------


@scenario
async def test_a_relay_without_descriptors_neither_spins_nor_shouts_nor_dies(
    tmp_path: Path,
) -> None:
    """The limit falls under what is open already, so that every accept fails with EMFILE."""
    async with (
        Upstream(HELD) as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        AsyncExitStack() as stack,
    ):
        client = await stream(relay, stack)
        limits = resource.prlimit(relay.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (descriptors(relay.pid), limits[1]))
        await relay.log(about("overloaded", short_of="descriptors"))
        before, start = spent(relay.pid), monotonic()
        ends = [await knock(relay) for _ in range(200)]
        await client.send(PLAIN)  # waits for its turn behind the stream
        (await upstream.exchange()).open("end")
        whole = await client.rest()
        await client.head()
        refused = await client.rest()
        used, elapsed = spent(relay.pid) - before, monotonic() - start
        lines = len(relay.lines)
        resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, limits)
        await relay.log(about("overload_over", short_of="descriptors"))
        upstream.then([])
        health = await get(relay.address, "/readyz", key=None)

        assert whole.body.endswith(b"data: [DONE]\n\n"), "what runs goes on"
        overloaded(refused)
        assert set(ends) <= {b"", b"reset"}, "the kernel's answer: nobody could accept them"
        assert used < 0.5 * elapsed + 0.2
        assert lines < 20
        assert health.status == 200, "the listener lives"


async def knock(relay: RelayProcess) -> bytes:
    """How a connection ends that nobody accepts."""
    try:
        async with await RawClient.connect(relay.address) as client:
            return await client.closed()
    except ConnectionError:
        return b"reset"


# --- slow attackers -------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["head", "body"])
@scenario
async def test_a_thousand_that_drip_get_408_in_time_and_others_are_served_throughout(
    tmp_path: Path, what: str
) -> None:
    patience = 4.0 * SCALE
    timeouts = {"header": f"{int(patience * 1000)}ms", "body": f"{int(patience * 1000)}ms"}
    begun = PLAIN[:40] if what == "head" else PLAIN[: PLAIN.index(b"\r\n\r\n") + 6]
    drip = b"x" if what == "head" else b" "
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, server={"timeouts": timeouts}), tmp_path) as relay,
    ):
        attack = asyncio.gather(*(attacked(relay, begun, drip) for _ in range(ATTACKERS)))
        answers, worst = [], 0.0
        while not attack.done():
            asked = monotonic()
            answers.append(await relay.chat(stream=False))
            worst = max(worst, monotonic() - asked)
            await asyncio.wait([attack], timeout=0.05)
        ends = await attack

        assert {answer.status for answer in answers} == {200}
        assert len(answers) >= 10
        assert worst < 2.0 * SCALE
        assert {status for status, _ in ends} == {408}
        assert min(seconds for _, seconds in ends) > 0.9 * patience
        assert max(seconds for _, seconds in ends) < patience + 3.0 * SCALE


async def attacked(relay: RelayProcess, begun: bytes, drip: bytes) -> tuple[int, float]:
    """Sends a request byte by byte, one at each `DRIP`, until it is answered: with what, and after how long."""
    async with await RawClient.connect(relay.address) as client:
        start = monotonic()
        await client.send(begun)
        answered = asyncio.Event()

        async def hear() -> float:
            await client.head(timeout=30.0 * SCALE)
            answered.set()
            return monotonic() - start

        async def drips() -> None:
            while not answered.is_set():
                await client.send(drip)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(DRIP):
                        await answered.wait()

        seconds, _ = await asyncio.gather(hear(), drips())
        return client.status, seconds


# --- several workers ------------------------------------------------------------------------------


@scenario
async def test_a_relay_of_two_workers_is_overloaded_when_both_are(tmp_path: Path) -> None:
    async with Upstream(HELD) as upstream, AsyncExitStack() as stack:
        fields = config({"a": upstream}, server={"max_connections": 1})
        relay = await stack.enter_async_context(RelayProcess(several(2, fields), tmp_path))
        for client in await spread(relay, stack, 2):
            await begun(client)
        async with within():
            while (answer := await get(relay.admin, "/readyz", key=None)).status != 503:
                # More connections, so that both workers have to refuse some.
                await relay.chat()

        assert answer.json()["reason"] == "overloaded"
