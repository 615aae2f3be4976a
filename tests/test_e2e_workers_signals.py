"""Reload and drain of several workers, and what is said of the whole."""

from __future__ import annotations

import json
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.crew import (
    CHAT,
    HELD,
    about,
    begun,
    limited,
    pid_of,
    several,
    shown,
    spread,
    started,
)
from tests.rig import (
    End,
    RawClient,
    RelayProcess,
    Upstream,
    config,
    get,
    scenario,
)
from tests.rig import scripts as say
from tests.rig.relay_process import Line

# --- reload, drain ----------------------------------------------------------------------------


def about_reload(line: Line) -> bool:
    return "reload" in str(line.get("event"))


@scenario
async def test_a_reload_reaches_all_workers_or_none(tmp_path: Path) -> None:
    async with Upstream() as old, Upstream() as new:
        state = {"state": {"path": str(tmp_path / "state")}}
        good = several(2, config({"a": old})) | state
        async with RelayProcess(good, tmp_path) as relay, AsyncExitStack() as stack:
            clients = await spread(relay, stack, 2)
            relay.path.write_text(json.dumps(good).replace('"pool"', '"pol"'), "utf-8")
            relay.reload()
            bad = await relay.log(about_reload)
            await shown(relay, "relay_config_last_reload_successful", 0)
            kept = [await client.ask(CHAT) for client in clients]

            relay.write(several(2, config({"b": new})) | state)
            relay.reload()
            line = await relay.nth_log(1, about_reload)
            moved = [await client.ask(CHAT) for client in clients]
            await shown(relay, "relay_config_last_reload_successful", 1)

            assert bad["event"] == "reload_failed"
            assert [answer.text for answer in kept] == [say.TEXT] * 2
            assert line["event"] == "reloaded"
            assert [answer.text for answer in moved] == [say.TEXT] * 2
            assert (len(old.exchanges), len(new.exchanges)) == (2, 2)


@scenario
async def test_who_is_started_after_a_reload_begins_with_it(tmp_path: Path) -> None:
    async with Upstream() as old, Upstream() as new:
        state = {"state": {"path": str(tmp_path / "state")}}
        async with RelayProcess(several(2, config({"a": old})) | state, tmp_path) as relay:
            relay.write(several(2, config({"b": new})) | state)
            relay.reload()
            await relay.log(about_reload)
            # What stands in the file by now is nobody's configuration.
            relay.path.write_text("{", "utf-8")
            for name in ("hub", "worker 0", "worker 1"):
                pid = await pid_of(relay, name)
                os.kill(pid, signal.SIGKILL)
                await relay.log(started(name, pid))
            answer = await relay.chat()

            assert answer.text == say.TEXT
            assert len(new.exchanges) == 1


@scenario
async def test_what_limits_have_counted_survives_a_reload(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        state = {"state": {"path": str(tmp_path / "state")}}
        fields = several(2, config({"a": upstream}, None, limited(rpm=3))) | state
        async with RelayProcess(fields, tmp_path) as relay:
            first = [await relay.chat() for _ in range(3)]
            relay.reload()
            await relay.log(about_reload)
            fourth = await relay.chat()

            assert [answer.status for answer in first] == [200] * 3
            assert fourth.status == 429


@scenario
async def test_sigterm_lets_the_streams_of_all_workers_finish(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(
            several(2, config({"a": upstream}, None, limited(concurrent=9))), tmp_path
        ) as relay,
        AsyncExitStack() as stack,
    ):
        upstream.script = HELD
        clients = await spread(relay, stack, 2)
        for client in clients:
            await begun(client)
        relay.signal(signal.SIGTERM)
        for worker in range(2):
            await relay.log(about("draining", worker=worker))
        with pytest.raises(ConnectionRefusedError):
            await RawClient.connect(relay.address)
        health = await get(relay.admin, "/readyz", key=None)
        for exchange in upstream.exchanges:
            exchange.open("end")
        answers = [await client.rest() for client in clients]
        code = await relay.exit()

        assert health.status == 503
        assert health.json()["reason"] == "draining"
        assert [(answer.text, answer.end) for answer in answers] == [(say.TEXT, End.CLEAN)] * 2
        assert code == 0


@scenario
async def test_a_second_sigterm_ends_the_streams_of_all_workers_honestly(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(several(2, config({"a": upstream})), tmp_path) as relay,
        AsyncExitStack() as stack,
    ):
        upstream.script = HELD
        clients = await spread(relay, stack, 2)
        for client in clients:
            await begun(client)
        relay.signal(signal.SIGTERM)
        await relay.log(about("draining"))
        relay.signal(signal.SIGTERM)
        answers = [await client.rest() for client in clients]
        code = await relay.exit()

        assert code == 0
        for answer in answers:
            assert b"server_shutting_down" in answer.events[-1]
        assert len([line for line in relay.calls if line.get("cause") == "drain"]) == 2


@scenario
async def test_a_missing_worker_degrades_the_whole_and_the_data_port_says_its_own(
    tmp_path: Path,
) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(several(2, config({"a": upstream})), tmp_path) as relay,
    ):
        # The third death in a row is followed by a wait, in which one worker serves alone.
        for number in range(3):
            pid = (await relay.nth_log(number, started("worker 1")))["pid"]
            os.kill(pid, signal.SIGKILL)
            died = await relay.log(about("process_died", pid=pid))
            if died["restart_in"] > 0.05:
                break
        degraded = await get(relay.admin, "/readyz", key=None)
        own = await get(relay.address, "/readyz", key=None)

        assert died["restart_in"] > 0.05
        assert degraded.status == 200
        assert degraded.json()["degraded"] == ["worker 1 is away"]
        assert own.json() == {"status": "ready", "degraded": []}


@scenario
async def test_connections_that_wait_for_a_worker_are_served_before_it_stops(
    tmp_path: Path,
) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(several(2, config({"a": upstream})), tmp_path) as relay,
        AsyncExitStack() as stack,
    ):
        pids = [await pid_of(relay, f"worker {number}") for number in range(2)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        clients = [
            await stack.enter_async_context(await RawClient.connect(relay.address))
            for _ in range(30)
        ]
        for client in clients:
            await client.send(CHAT)
        relay.signal(signal.SIGTERM)
        await relay.log(about("stopping"))
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        for client in clients:
            await client.head()
        answers = [await client.rest() for client in clients]
        code = await relay.exit()

        assert [answer.text for answer in answers] == [say.TEXT] * 30
        assert code == 0
