"""The queue in front of a full upstream, in whole relays: one process, and several that share its places."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.crew import CHAT, HELD, Load, begun, narrow, several, shown, spread, storm
from tests.rig import RawClient, RelayProcess, Upstream, config, scenario
from tests.rig import scripts as say
from tests.rig.raw_client import KEY, chat

OTHER = "sk-another-client-0123456789"


@scenario
@pytest.mark.parametrize("workers", [1, 4])
async def test_a_crowd_is_served_whole_with_never_more_than_allowed_at_once(
    tmp_path: Path, workers: int
) -> None:
    load = Load()
    async with (
        Upstream(load) as upstream,
        RelayProcess(
            several(workers, config({"a": narrow(upstream, line=1000)})), tmp_path
        ) as relay,
    ):
        answers = await storm(relay, 100)

        assert Counter(answer.status for answer in answers) == {200: 100}
        assert [answer.text for answer in answers] == [say.TEXT] * 100
        assert load.most == 7
        await shown(relay, 'relay_queue_depth{upstream="a"}', 0)
        assert (await relay.metrics())['relay_queue_seconds_count{upstream="a"}'] >= 70


@scenario
async def test_a_place_that_falls_free_in_one_worker_serves_who_waits_in_another(
    tmp_path: Path,
) -> None:
    async with (
        Upstream(HELD) as upstream,
        RelayProcess(several(2, config({"a": narrow(upstream, 1, line=10)})), tmp_path) as relay,
        AsyncExitStack() as stack,
    ):
        first, second = await spread(relay, stack, 2)
        await begun(first)
        await second.send(CHAT)
        await shown(relay, 'relay_queue_depth{upstream="a"}', 1)
        upstream.exchanges[0].open("end")
        await first.rest()
        await second.head()
        (await upstream.exchange(1)).open("end")

        assert (await second.rest()).text == say.TEXT


@scenario
async def test_a_quiet_key_waits_at_most_two_service_times_beside_a_greedy_one(
    tmp_path: Path,
) -> None:
    keys = [{"id": "greedy", "key": KEY}, {"id": "quiet", "key": OTHER}]
    async with (
        Upstream(HELD) as upstream,
        RelayProcess(config({"a": narrow(upstream, 1, line=1000)}, None, keys), tmp_path) as relay,
        AsyncExitStack() as stack,
    ):
        greedy = [
            await stack.enter_async_context(await RawClient.connect(relay.address))
            for _ in range(101)
        ]
        await begun(greedy[0])
        for client in greedy[1:]:
            await client.send(CHAT)
        await shown(relay, 'relay_queue_depth{upstream="a"}', 100)
        quiet = asyncio.get_running_loop().create_task(chat(relay.address, key=OTHER))
        await shown(relay, 'relay_queue_depth{upstream="a"}', 101)
        for number in range(3):
            (await upstream.exchange(number)).open("end")

        assert (await quiet).text == say.TEXT
        assert len(upstream.exchanges) <= 4


@scenario
async def test_the_sdks_retry_advice_comes_with_a_full_queue(tmp_path: Path) -> None:
    async with (
        Upstream(HELD) as upstream,
        RelayProcess(config({"a": narrow(upstream, 1, line=0)}), tmp_path) as relay,
        AsyncExitStack() as stack,
    ):
        client = await stack.enter_async_context(await RawClient.connect(relay.address))
        await begun(client)
        refused = await relay.chat()
        line = await relay.call(lambda line: line["code"] == 503)

        assert refused.error["code"] == "server_is_overloaded"
        assert refused.headers["x-should-retry"] == "true"
        assert int(refused.headers["retry-after"]) >= 1
        assert line["outcome"] == "overloaded"
        assert "attempts" not in line
        metrics = await relay.metrics()
        assert metrics['relay_refused_total{reason="queue"}'] == 1
