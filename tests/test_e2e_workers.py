"""Several workers behind one port: how they start, and what the death of one, or of the hub, takes along."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.crew import (
    HELD,
    about,
    begun,
    children_of,
    gathered,
    introduced,
    limited,
    pid_of,
    runs,
    several,
    shown,
    spread,
    started,
    storm,
    worker_of,
)
from tests.rig import (
    Answer,
    End,
    RawClient,
    RelayProcess,
    Upstream,
    config,
    output,
    scenario,
)
from tests.rig import scripts as say
from tests.rig.raw_client import chat_body, request

# --- start ------------------------------------------------------------------------------------


@scenario
async def test_both_workers_serve_one_port_with_one_demo_key(tmp_path: Path) -> None:
    fields = config(
        {"demo": {"kind": "demo", "api_keys": []}}, {"m": {"pool": [{"upstream": "demo"}]}}
    )
    async with RelayProcess(several(2, fields), tmp_path) as relay, AsyncExitStack() as stack:
        clients = await spread(relay, stack, 2)
        demo = request("POST", "/v1/chat/completions", chat_body(), key=relay.ready["demo_key"])
        answers = [await client.ask(demo) for client in clients]
        ready = [line for line in relay.lines if line["event"] == "ready"]

        assert [answer.status for answer in answers] == [200, 200]
        assert len({worker_of(answer.headers) for answer in answers}) == 2
        assert len(ready) == 1


@scenario
async def test_one_worker_is_one_process(tmp_path: Path) -> None:
    fields = several(1, config({"a": {"base_url": "http://127.0.0.1:1/v1"}}))
    async with RelayProcess(fields, tmp_path) as relay:
        children = children_of(relay.pid)

        assert children == ""


@scenario
@pytest.mark.parametrize("section", ["server", "admin"])
async def test_a_taken_port_ends_the_start_with_one_line(tmp_path: Path, section: str) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(several(2, config({"a": upstream})), tmp_path) as relay,
    ):
        port = (relay.address if section == "server" else relay.admin)[1]
        other = several(2, config({"a": upstream}))
        other["state"] = {"path": "state-of-the-other"}
        other[section]["listen"] = f"127.0.0.1:{port}"
        path = tmp_path / "other.yaml"
        path.write_text(json.dumps(other), "utf-8")

        process = await asyncio.create_subprocess_exec(
            *relay.command(path),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=relay.env,
        )
        _, err = await output(process)

        told = [line for line in err.decode().splitlines() if not line.startswith("{")]
        assert process.returncode == 1
        assert told == [f"relay: cannot listen on 127.0.0.1:{port}: address already in use"]
        assert (await relay.chat()).text == say.TEXT


# --- death ------------------------------------------------------------------------------------


@scenario
async def test_a_killed_worker_takes_only_its_own_streams_along(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(several(2, config({"a": upstream})), tmp_path) as relay,
        AsyncExitStack() as stack,
    ):
        upstream.script = HELD
        clients = await spread(relay, stack, 2)
        for client in clients:
            await begun(client)
        before = await relay.metrics()
        pid = await pid_of(relay, "worker 0")
        os.kill(pid, signal.SIGKILL)
        died = await relay.log(about("process_died"))
        await relay.log(started("worker 0", pid))
        for exchange in list(upstream.exchanges):
            exchange.open("end")
        ends = [await client.rest() for client in clients]
        await shown(relay, "relay_worker_restarts_total", 1)
        upstream.script = say.sse(say.EVENTS)
        again = await spread(relay, stack, 2)
        after = await relay.metrics()

        assert died["signal"] == "SIGKILL"
        assert sorted(end.end.name for end in ends) in (["BROKEN", "CLEAN"], ["CLEAN", "RESET"])
        assert [end.text for end in ends if end.end is End.CLEAN] == [say.TEXT]
        assert len(again) == 2
        gone = {
            name
            for name, value in before.items()
            if "_total" in name and after.get(name, 0) < value
        }
        assert not {name for name in gone if not name.startswith("p")}


@scenario
async def test_calls_of_a_killed_worker_stay_counted(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(several(2, config({"a": upstream})), tmp_path) as relay,
    ):
        series = 'relay_requests_total{code="200",model="m",operation="chat_completions",outcome="ok",upstream="a"}'
        await storm(relay, 20)
        await shown(relay, series, 20)
        for name in ("worker 0", "worker 1"):
            pid = await pid_of(relay, name)
            os.kill(pid, signal.SIGKILL)
            await relay.log(started(name, pid))
        await storm(relay, 5)
        await shown(relay, series, 25)
        hub = await pid_of(relay, "hub")
        os.kill(hub, signal.SIGKILL)
        await relay.log(started("hub", hub))
        await shown(relay, series, 25)
        page = await relay.metrics()

        assert page["relay_request_duration_seconds_count" + '{model="m",upstream="a"}'] >= 25
        assert page["relay_worker_restarts_total"] == 3


@scenario
async def test_a_killed_worker_gives_its_permits_back(tmp_path: Path) -> None:
    fields = {"concurrent": 4, "requests_per_day": 1000}
    async with (
        Upstream(HELD) as upstream,
        RelayProcess(
            several(2, config({"a": upstream}, None, limited(**fields))), tmp_path
        ) as relay,
        AsyncExitStack() as stack,
    ):
        clients = await gathered(relay, stack, 4)
        for client in clients:
            await begun(client)
        full = await relay.chat()
        mine = worker_of(clients[0].headers)
        pids = [await pid_of(relay, f"worker {number}") for number in range(2)]
        # Which of the two it is, only its death tells.
        for number, pid in enumerate(pids):
            os.kill(pid, signal.SIGKILL)
            await relay.log(started(f"worker {number}", pid))
        upstream.script = say.sse(say.EVENTS)
        freed = await relay.chat()

        assert full.status == 429
        assert "concurrent" in full.error["message"]
        assert freed.text == say.TEXT
        assert worker_of(freed.headers) != mine


@scenario
async def test_streams_outlive_the_hub_and_stay_counted(tmp_path: Path) -> None:
    async with (
        Upstream(HELD) as upstream,
        RelayProcess(
            several(2, config({"a": upstream}, None, limited(concurrent=4, rpm=30))), tmp_path
        ) as relay,
        AsyncExitStack() as stack,
    ):
        clients = await spread(relay, stack, 2)
        clients += [(await introduced(relay, stack))[1] for _ in range(2)]
        for client in clients:
            await begun(client)
        used = int((await relay.chat()).headers["x-ratelimit-remaining-requests"])
        pid = await pid_of(relay, "hub")
        os.kill(pid, signal.SIGKILL)
        await relay.log(started("hub", pid))
        refused = await relay.chat()
        upstream.exchanges[0].open("end")
        ended = await next_end(clients)
        upstream.script = say.sse(say.EVENTS)
        allowed = await relay.chat()
        for exchange in upstream.exchanges:
            exchange.open("end")

        assert refused.status == 429
        assert "concurrent" in refused.error["message"]
        assert ended.text == say.TEXT
        assert allowed.text == say.TEXT
        assert int(allowed.headers["x-ratelimit-remaining-requests"]) <= used


async def next_end(clients: Sequence[RawClient]) -> Answer:
    """The first stream that ends."""
    loop = asyncio.get_running_loop()
    waits = [loop.create_task(client.rest()) for client in clients]
    done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in pending:
        wait.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    return done.pop().result()


@scenario
async def test_without_a_hub_a_limited_key_is_refused_and_a_free_one_served(tmp_path: Path) -> None:
    keys = [*limited(rpm=100), {"id": "free", "key": "sk-free-0123456789abcdef"}]
    async with (
        Upstream() as upstream,
        RelayProcess(several(2, config({"a": upstream}, None, keys)), tmp_path) as relay,
    ):
        pid = await pid_of(relay, "hub")
        os.kill(pid, signal.SIGSTOP)
        try:
            free = await relay.chat(key="sk-free-0123456789abcdef")
            refused = await relay.chat()
        finally:
            os.kill(pid, signal.SIGCONT)
        back = await relay.chat()

        assert free.text == say.TEXT
        assert refused.status == 503
        assert refused.error["code"] == "quota_store_unavailable"
        assert back.text == say.TEXT


@scenario
async def test_nothing_survives_a_killed_parent(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        relay = RelayProcess(several(2, config({"a": upstream})), tmp_path)
        async with relay:
            names = ("hub", "worker 0", "worker 1")
            pids = [await pid_of(relay, name) for name in names]
            # Its streams close when the last process that holds them has ended.
            await relay.kill()

            assert not [pid for pid in pids if runs(pid)]
