"""Several workers behind one port: what holds for all of them, and what the death of one, or of the hub, takes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.rig import (
    Answer,
    End,
    Gate,
    RawClient,
    RelayProcess,
    Request,
    Upstream,
    chat,
    config,
    get,
    scenario,
    within,
)
from tests.rig import scripts as say
from tests.rig.raw_client import KEY, chat_body, request
from tests.rig.relay_process import Fields, Line

HELD = say.sse(say.EVENTS[:3], Gate("end"), *say.sse(say.EVENTS[3:])[1:])
CHAT = request("POST", "/v1/chat/completions", chat_body())
MODELS = request("GET", "/v1/models")
MOST_CONNECTIONS = 200


def several(workers: int, fields: Fields) -> Fields:
    fields["server"]["workers"] = workers
    return fields


def limited(**limits: int) -> list[dict[str, Any]]:
    return [{"id": "tester", "key": KEY, "limits": limits}]


def started(name: str, pid: int = 0) -> Callable[[Line], bool]:
    """A line that says so, of another process than this one."""
    return lambda line: (
        line.get("event") == "process_started" and line["process"] == name and line["pid"] != pid
    )


async def pid_of(relay: RelayProcess, name: str) -> int:
    line = await relay.log(started(name))
    assert isinstance(line["pid"], int)
    return line["pid"]


def children_of(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")


def runs(pid: int) -> bool:
    return Path(f"/proc/{pid}/exe").exists()


def about(event: str, **fields: object) -> Callable[[Line], bool]:
    """A line of this event with these fields."""
    return lambda line: (
        line.get("event") == event
        and all(line.get(name) == value for name, value in fields.items())
    )


def worker_of(headers: dict[str, str]) -> str:
    """What all requests of one worker process have in common."""
    return headers["x-request-id"][:16]


async def introduced(relay: RelayProcess, stack: AsyncExitStack) -> tuple[str, RawClient]:
    """A connection, and which worker accepted it."""
    client = await stack.enter_async_context(await RawClient.connect(relay.address))
    answer = await client.ask(MODELS)
    return worker_of(answer.headers), client


async def gathered(relay: RelayProcess, stack: AsyncExitStack, most: int) -> list[RawClient]:
    """So many connections of one and the same worker."""
    found: dict[str, list[RawClient]] = {}
    for _ in range(MOST_CONNECTIONS):
        worker, client = await introduced(relay, stack)
        clients = found.setdefault(worker, [])
        clients.append(client)
        if len(clients) == most:
            return clients
    raise AssertionError("connections are not spread as expected")


async def spread(relay: RelayProcess, stack: AsyncExitStack, workers: int) -> list[RawClient]:
    """One connection for each worker."""
    found: dict[str, RawClient] = {}
    for _ in range(MOST_CONNECTIONS):
        worker, client = await introduced(relay, stack)
        found.setdefault(worker, client)
        if len(found) == workers:
            return list(found.values())
    raise AssertionError("connections are not spread as expected")


async def begun(client: RawClient) -> None:
    """A stream that has come as far as its gate."""
    await client.send(CHAT)
    await client.head()
    await client.event()


class Load:
    """An upstream's player that counts how many calls run at once."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0

    def __call__(self, asked: Request) -> list[say.Step]:
        self.running += 1
        self.most = max(self.most, self.running)
        rest = say.sse(say.EVENTS[3:])[1:]
        return say.sse(say.EVENTS[:3], say.Pause(0.05), say.Do(self._ends), *rest)

    def _ends(self) -> None:
        self.running -= 1


async def storm(relay: RelayProcess, calls: int, **fields: Any) -> list[Answer]:
    return await asyncio.gather(*(chat(relay.address, timeout=60, **fields) for _ in range(calls)))


async def shown(relay: RelayProcess, series: str, value: float) -> None:
    """Returns when the page says so; the scenario's own deadline ends the asking."""
    while (await relay.metrics()).get(series) != value:
        pass


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
        other[section]["listen"] = f"127.0.0.1:{port}"
        path = tmp_path / "other.yaml"
        path.write_text(json.dumps(other), "utf-8")

        process = await asyncio.create_subprocess_exec(
            *relay.command(path),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=relay.env,
        )
        async with within():
            _, err = await process.communicate()

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


# --- limits -----------------------------------------------------------------------------------


@scenario
@pytest.mark.parametrize("workers", [2, 4])
async def test_a_thousand_calls_at_once_on_a_rate_of_ten(tmp_path: Path, workers: int) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(
            several(workers, config({"a": upstream}, None, limited(rpm=10))), tmp_path
        ) as relay,
    ):
        answers = await storm(relay, 1000)
        refused = next(answer for answer in answers if answer.status == 429)

        assert Counter(answer.status for answer in answers) == {200: 10, 429: 990}
        assert len(upstream.exchanges) == 10
        assert len({worker_of(answer.headers) for answer in answers}) == workers
        assert refused.error["code"] == "rate_limit_exceeded"
        assert "(rpm)" in refused.error["message"]
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert 0 < int(refused.headers["retry-after-ms"]) <= 6000


@scenario
async def test_concurrent_counts_all_workers(tmp_path: Path) -> None:
    load = Load()
    async with (
        Upstream(load) as upstream,
        RelayProcess(
            several(4, config({"a": upstream}, None, limited(concurrent=5))), tmp_path
        ) as relay,
    ):
        answers = [answer for _ in range(5) for answer in await storm(relay, 40)]

        counts = Counter(answer.status for answer in answers)
        assert set(counts) == {200, 429}
        assert counts[200] >= 25
        assert load.most == 5


@scenario
async def test_a_client_that_leaves_while_its_call_waits_keeps_no_permit(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(
            several(2, config({"a": upstream}, None, limited(concurrent=1))), tmp_path
        ) as relay,
    ):
        pid = await pid_of(relay, "hub")
        os.kill(pid, signal.SIGSTOP)
        try:
            async with await RawClient.connect(relay.address) as client:
                await client.send(CHAT)
                await client.reset()
            left = await relay.call(lambda line: line["code"] == 499)
        finally:
            os.kill(pid, signal.SIGCONT)
        answers = [await relay.chat() for _ in range(3)]

        assert left["outcome"] == "client_cancelled"
        assert [answer.status for answer in answers] == [200] * 3
        assert len(upstream.exchanges) == 3


# --- max_concurrent ---------------------------------------------------------------------------


@scenario
async def test_one_worker_can_use_all_permits_of_an_account(tmp_path: Path) -> None:
    async with (
        Upstream(HELD) as upstream,
        RelayProcess(several(4, config({"a": narrow(upstream)})), tmp_path) as relay,
        AsyncExitStack() as stack,
    ):
        clients = await gathered(relay, stack, 9)
        for client in clients[:7]:
            await begun(client)
        refused = await clients[7].ask(CHAT)
        upstream.exchanges[0].open("end")
        await clients[0].rest()
        await begun(clients[8])
        for exchange in upstream.exchanges:
            exchange.open("end")
        rest = [await client.rest() for client in (*clients[1:7], clients[8])]

        assert refused.status == 503
        assert refused.error["code"] == "server_is_overloaded"
        assert [answer.text for answer in rest] == [say.TEXT] * 7


def narrow(upstream: Upstream, most: int = 7) -> Fields:
    return {"base_url": upstream.base_url, "max_concurrent": most}


@scenario
async def test_max_concurrent_holds_over_all_workers_and_all_of_it_is_used(tmp_path: Path) -> None:
    load = Load()
    async with (
        Upstream(load) as upstream,
        RelayProcess(several(4, config({"a": narrow(upstream)})), tmp_path) as relay,
    ):
        answers = [answer for _ in range(6) for answer in await storm(relay, 40)]

        counts = Counter(answer.status for answer in answers)
        assert set(counts) == {200, 503}
        assert load.most == 7
        assert counts[200] >= 6 * 7


@scenario
async def test_a_tier_is_left_only_when_it_is_full_in_all_workers(tmp_path: Path) -> None:
    async with Upstream(HELD) as first, Upstream() as second:
        fields = config({"a": narrow(first, 4), "b": second})
        async with RelayProcess(several(4, fields), tmp_path) as relay, AsyncExitStack() as stack:
            clients = await gathered(relay, stack, 5)
            for client in clients[:4]:
                await begun(client)
            spilled = await clients[4].ask(CHAT)
            for exchange in first.exchanges:
                exchange.open("end")

            assert len(first.exchanges) == 4
            assert spilled.text == say.TEXT
            assert len(second.exchanges) == 1


@scenario
async def test_permits_survive_the_death_of_the_hub_and_of_a_worker(tmp_path: Path) -> None:
    load = Load()
    async with (
        Upstream(load) as upstream,
        RelayProcess(several(2, config({"a": narrow(upstream)})), tmp_path) as relay,
    ):
        await storm(relay, 30)
        for name in ("hub", "worker 0"):
            pid = await pid_of(relay, name)
            os.kill(pid, signal.SIGKILL)
            await relay.log(started(name, pid))
        await relay.chat()
        load.running = load.most = 0
        answers = [answer for _ in range(4) for answer in await storm(relay, 30)]

        assert set(Counter(answer.status for answer in answers)) == {200, 503}
        assert load.most == 7


@scenario
async def test_a_lower_max_concurrent_holds_as_soon_as_it_is_read(tmp_path: Path) -> None:
    load = Load()
    async with Upstream(load) as upstream:
        fields = several(3, config({"a": narrow(upstream, 9)}))
        async with RelayProcess(fields, tmp_path) as relay:
            await storm(relay, 30)
            state = {"state": {"path": str(tmp_path / "state")}}
            relay.write(state | several(3, config({"a": narrow(upstream, 2)})))
            relay.reload()
            await relay.log(about("reloaded"))
            load.running = load.most = 0
            answers = [answer for _ in range(4) for answer in await storm(relay, 30)]

            assert set(Counter(answer.status for answer in answers)) == {200, 503}
            assert load.most == 2


# --- what one worker learns -------------------------------------------------------------------


@scenario
async def test_a_pause_that_one_worker_was_told_holds_for_all(tmp_path: Path) -> None:
    slow = say.error(429, headers=b"Retry-After: 30\r\n")
    async with (
        Upstream(slow) as upstream,
        RelayProcess(several(2, config({"a": upstream})), tmp_path) as relay,
        AsyncExitStack() as stack,
    ):
        first, second = await spread(relay, stack, 2)
        told = await first.ask(CHAT)
        await shown(relay, 'relay_upstream_state{state="paused",upstream="a"}', 2)
        other = await second.ask(CHAT)

        assert (told.status, other.status) == (429, 429)
        assert len(upstream.exchanges) == 1


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
