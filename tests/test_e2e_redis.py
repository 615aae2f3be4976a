"""Several relays on one Redis: limits hold over all of them, and a Redis that is away is told, and outlived."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.crew import limited, several, storm
from tests.redis_rig import RedisServer
from tests.rig import RelayProcess, Upstream, config, scenario
from tests.rig.relay_process import Fields

PRICED = {
    "m": {"pool": [{"upstream": "a"}], "price": {"input": 1000, "output": 1000}, "max_output": 20}
}


def shared(server: RedisServer, upstream: Upstream, **limits: Any) -> Fields:
    return config(
        {"a": upstream},
        PRICED,
        limited(**limits),
        quota_store=f"unix://{server.socket}",
    )


async def relays(
    stack: AsyncExitStack, folder: Path, fields: Fields, count: int = 2
) -> list[RelayProcess]:
    found = []
    for number in range(count):
        home = folder / f"relay-{number}"
        home.mkdir()
        found.append(await stack.enter_async_context(RelayProcess(fields, home)))
    return found


@scenario
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_thousand_calls_at_once_on_two_relays(tmp_path: Path, workers: int) -> None:
    async with (
        AsyncExitStack() as stack,
        RedisServer(tmp_path / "redis") as server,
        Upstream() as upstream,
    ):
        fields = several(workers, shared(server, upstream, requests_per_day=10))
        both = await relays(stack, tmp_path, fields)

        first, second = await asyncio.gather(*(storm(relay, 500) for relay in both))

        assert Counter(answer.status for answer in first + second) == {200: 10, 429: 990}
        assert len(upstream.exchanges) == 10
