"""What holds for all workers: limits of keys, `max_concurrent` of accounts, pauses."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.crew import (
    CHAT,
    HELD,
    Load,
    about,
    begun,
    gathered,
    limited,
    narrow,
    pid_of,
    several,
    shown,
    spread,
    started,
    storm,
    worker_of,
)
from tests.rig import (
    RawClient,
    RelayProcess,
    Upstream,
    config,
    scenario,
)
from tests.rig import scripts as say
from tests.rig.deadlines import SCALE
from tests.rig.raw_client import chat_body, request

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
async def test_a_call_right_after_one_that_ended_is_admitted_by_any_worker(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(
            several(2, config({"a": upstream}, None, limited(concurrent=1))), tmp_path
        ) as relay,
        AsyncExitStack() as stack,
    ):
        clients = await spread(relay, stack, 2)
        answers = [await clients[number % 2].ask(CHAT) for number in range(200)]

        assert Counter(answer.status for answer in answers) == {200: 200}


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
        # Of one worker: another one's call could overtake the news that this one's has ended.
        async with await RawClient.connect(relay.address) as client:
            answers = [await client.ask(CHAT) for _ in range(3)]

        assert left["outcome"] == "client_cancelled"
        assert [answer.status for answer in answers] == [200] * 3
        assert len(upstream.exchanges) == 3


@scenario
async def test_every_worker_tells_what_was_used_through_the_others(tmp_path: Path) -> None:
    unknown = request("POST", "/v1/chat/completions", chat_body(model="none-of-ours"))
    async with (
        Upstream() as upstream,
        RelayProcess(
            several(2, config({"a": upstream}, None, limited(rpm=10))),
            tmp_path,
        ) as relay,
        AsyncExitStack() as stack,
    ):
        busy, idle = await spread(relay, stack, 2)
        for _ in range(7):
            await busy.ask(CHAT)
        began = asyncio.get_running_loop().time()
        answer = await idle.ask(unknown)
        while answer.headers["x-ratelimit-remaining-requests"] == "10":
            answer = await idle.ask(unknown)
        took = asyncio.get_running_loop().time() - began

        assert (answer.status, answer.headers["x-ratelimit-remaining-requests"]) == (404, "3")
        assert took < 1.5 * SCALE


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
