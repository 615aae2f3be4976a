"""Several relays on one Redis: limits hold over all of them, and a Redis that is away is told, and outlived."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.authority import Authority
from tests.crew import about, limited, several, shown, storm
from tests.redis_rig import RedisServer
from tests.rig import RelayProcess, Upstream, config, get, scenario
from tests.rig.ports import free_port
from tests.rig.relay_process import Fields

UP = 'relay_store_up{store="redis"}'
PASSWORD = "canary-of-a-password-0123456789"


def on(store: str, upstream: Upstream, **limits: Any) -> Fields:
    return config({"a": upstream}, None, limited(**limits), quota_store=store)


def shared(server: RedisServer, upstream: Upstream, **limits: Any) -> Fields:
    return on(f"unix://{server.socket}", upstream, **limits)


async def two(stack: AsyncExitStack, folder: Path, fields: Fields) -> list[RelayProcess]:
    found = []
    for number in range(2):
        home = folder / f"relay-{number}"
        home.mkdir()
        found.append(await stack.enter_async_context(RelayProcess(fields, home)))
    return found


async def degraded(relay: RelayProcess) -> list[str]:
    answer = await get(relay.admin, "/readyz", key=None)
    assert answer.status == 200
    found = json.loads(answer.body)["degraded"]
    assert isinstance(found, list)
    return found


@scenario
async def test_a_thousand_calls_at_once_on_two_relays_of_two_workers(tmp_path: Path) -> None:
    async with (
        AsyncExitStack() as stack,
        RedisServer(tmp_path / "redis") as server,
        Upstream() as upstream,
    ):
        fields = several(2, shared(server, upstream, requests_per_day=10))
        both = await two(stack, tmp_path, fields)

        first, second = await asyncio.gather(*(storm(relay, 500) for relay in both))

        assert Counter(answer.status for answer in first + second) == {200: 10, 429: 990}
        assert len(upstream.exchanges) == 10
        refused = next(answer for answer in first if answer.status == 429)
        assert refused.error["code"] == "insufficient_quota"
        assert "(requests_per_day)" in refused.error["message"]
        for relay in both:
            await shown(relay, 'relay_key_limit_ratio{key="tester",limit="requests_per_day"}', 1.0)
            assert (await relay.metrics())[UP] == 1


@scenario
async def test_what_one_relay_admitted_stands_in_the_headers_of_the_other(tmp_path: Path) -> None:
    async with (
        AsyncExitStack() as stack,
        RedisServer(tmp_path / "redis") as server,
        Upstream() as upstream,
    ):
        first, second = await two(stack, tmp_path, shared(server, upstream, rpm=30))

        answers = [await (first, second)[number % 2].chat() for number in range(6)]

        left = [int(answer.headers["x-ratelimit-remaining-requests"]) for answer in answers]
        assert left == [29, 28, 27, 26, 25, 24]


@scenario
async def test_a_redis_that_hangs_is_told_once_and_outlived(tmp_path: Path) -> None:
    async with (
        RedisServer(tmp_path / "redis") as server,
        Upstream() as upstream,
        RelayProcess(
            config(
                {"a": upstream},
                None,
                [
                    {"id": "rate", "key": "sk-rate-0123456789", "limits": {"rpm": 1000}},
                    {
                        "id": "budget",
                        "key": "sk-budget-0123456789",
                        "limits": {"requests_per_day": 99},
                    },
                    {"id": "free", "key": "sk-free-0123456789"},
                ],
                quota_store=f"unix://{server.socket}",
            ),
            tmp_path,
        ) as relay,
    ):
        keys = ("sk-rate-0123456789", "sk-budget-0123456789", "sk-free-0123456789")
        before = [await relay.chat(key=key) for key in keys]
        server.signal(signal.SIGSTOP)
        await relay.log(about("quota_store_away"))
        away = [await relay.chat(key=key) for _ in range(3) for key in keys]
        limps = await degraded(relay)
        await shown(relay, 'relay_refused_total{reason="store"}', 3)
        metrics = await relay.metrics()
        server.signal(signal.SIGCONT)
        back = await relay.log(about("quota_store_back"))
        after = [await relay.chat(key=key) for key in keys]

        assert [answer.status for answer in before] == [200] * 3
        assert [answer.status for answer in away] == [200, 503, 200] * 3
        assert away[1].error["code"] == "quota_store_unavailable"
        assert limps == ["quota store redis is away"]
        assert metrics[UP] == 0
        assert metrics['relay_store_errors_total{store="redis"}'] >= 1
        assert back["away_seconds"] > 0
        assert [answer.status for answer in after] == [200] * 3
        assert await degraded(relay) == []
        assert sum(line.get("event") == "quota_store_away" for line in relay.lines) == 1


@scenario
async def test_a_relay_starts_without_its_redis_and_finds_it_later(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis")
    async with (
        Upstream() as upstream,
        RelayProcess(shared(server, upstream, requests_per_day=9), tmp_path) as relay,
    ):
        limps = await degraded(relay)
        refused = await relay.chat()
        async with server:
            await shown(relay, UP, 1)
            answer = await relay.chat()

        assert limps == ["quota store redis is away"]
        assert refused.status == 503
        assert answer.status == 200


@scenario
async def test_open_budgets_are_parts_of_what_was_left(tmp_path: Path) -> None:
    async with (
        AsyncExitStack() as stack,
        RedisServer(tmp_path / "redis") as server,
        Upstream() as upstream,
    ):
        fields = shared(server, upstream, requests_per_day=20) | {
            "on_store_failure": {"budgets": "open"}
        }
        both = await two(stack, tmp_path, fields)
        for number in range(10):
            await both[number % 2].chat()
        await asyncio.to_thread(server.kill)
        for relay in both:
            await relay.log(about("quota_store_away"))
        answers = [await relay.chat() for relay in both for _ in range(10)]

        admitted = sum(answer.status == 200 for answer in answers)
        assert {answer.status for answer in answers} == {200, 429}
        assert 9 <= admitted <= 11


@scenario
async def test_tls_and_a_password_that_nobody_sees(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    authority.serving("DNS:localhost,IP:127.0.0.1")
    port, folder = free_port(), tmp_path / "tls"
    options = (
        *("--tls-port", str(port), "--tls-auth-clients", "no", "--requirepass", PASSWORD),
        *("--tls-cert-file", str(folder / "certificate"), "--tls-key-file", str(folder / "key")),
        *("--tls-ca-cert-file", str(authority.file)),
    )
    async with RedisServer(tmp_path / "redis", *options), Upstream() as upstream:
        address = f"rediss://:{PASSWORD}@localhost:{port}/0"
        for name, store, up in (
            ("trusted", f"{address}?ca_file={authority.file}", 1),
            ("unknown", address, 0),
            ("wrong", f"rediss://:wrong-{PASSWORD}@localhost:{port}/0?ca_file={authority.file}", 0),
        ):
            home = tmp_path / name
            home.mkdir()
            async with RelayProcess(on(store, upstream, rpm=10), home) as relay:
                answer = await relay.chat()
                await shown(relay, UP, up)
                told = [*relay.lines, await degraded(relay), await relay.metrics()]

            assert answer.status == 200
            assert PASSWORD not in json.dumps(told) + relay.stderr + relay.stdout
            if not up:
                away = next(line for line in relay.lines if line["event"] == "quota_store_away")
                assert away["reason"] == {"unknown": "tls", "wrong": "password"}[name]


@scenario
async def test_who_is_no_master_is_away(tmp_path: Path) -> None:
    async with RedisServer(tmp_path / "redis", "--replicaof", "127.0.0.1", "1") as server:
        async with (
            Upstream() as upstream,
            RelayProcess(shared(server, upstream, rpm=10), tmp_path) as relay,
        ):
            line = await relay.log(about("quota_store_away"))

        assert line["reason"] == "readonly"


@scenario
async def test_a_sentinel_is_no_store(tmp_path: Path) -> None:
    async with (
        RedisServer(tmp_path / "redis", port=free_port(), sentinel=True) as sentinel,
        Upstream() as upstream,
        RelayProcess(on(at(sentinel), upstream, rpm=10), tmp_path) as relay,
    ):
        line = await relay.log(about("quota_store_away"))

    assert line["reason"] == "sentinel"


@scenario
async def test_of_a_cluster_the_node_that_has_our_slot_is_a_store(tmp_path: Path) -> None:
    async with (
        AsyncExitStack() as stack,
        Upstream() as upstream,
        node(tmp_path / "lonely") as lonely,
        node(tmp_path / "owner") as owner,
        node(tmp_path / "other") as other,
    ):
        await asyncio.to_thread(joined, owner, other)
        relays = []
        for server in (lonely, owner, other):
            fields = on(at(server), upstream, requests_per_day=1)
            relays.append(await stack.enter_async_context(RelayProcess(fields, server.folder)))
        first, second, third = relays

        line = await first.log(about("quota_store_away"))
        assert line["reason"] == "clusterdown"
        line = await third.log(about("quota_store_away"))
        assert line["reason"] == "moved"
        await shown(second, UP, 1)
        assert [(await second.chat()).status for _ in range(2)] == [200, 429]
        assert not any(map(about("quota_store_away"), second.lines))


def at(server: RedisServer) -> str:
    return f"redis://127.0.0.1:{server.port}/0"


def node(folder: Path) -> RedisServer:
    """One of a cluster, which has no slot."""
    options = ("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf")
    return RedisServer(folder, *options, "--cluster-port", str(free_port()), port=free_port())


def joined(owner: RedisServer, other: RedisServer) -> None:
    """Returns when both are a cluster in which all slots are the owner's."""
    bus = owner.client().config_get("cluster-port")["cluster-port"]
    owner.client().cluster("ADDSLOTSRANGE", 0, 16383)
    other.client().cluster("MEET", "127.0.0.1", owner.port, bus)
    for client in (owner.client(), other.client()):
        while client.cluster("INFO")["cluster_state"] != "ok":
            pass
