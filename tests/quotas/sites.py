"""Where limits are counted: one process, several with a hub, several relays with a Redis between them."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.redis_rig import RedisServer, program
from tests.rig import RelayProcess
from tests.rig.relay_process import Fields

Site = Callable[[Fields, Path], AbstractAsyncContextManager[list[RelayProcess]]]
"""Starts relays with this configuration, in this folder: all that share its limits."""


def _one_relay(workers: int) -> Site:
    @asynccontextmanager
    async def site(fields: Fields, folder: Path) -> AsyncIterator[list[RelayProcess]]:
        fields = copy.deepcopy(fields)
        fields["server"]["workers"] = workers
        async with RelayProcess(fields, folder) as relay:
            yield [relay]

    return site


def relays_on(store: str, count: int, workers: int = 1) -> Site:
    """So many relays, of one worker if not said, which count in one store."""

    @asynccontextmanager
    async def site(fields: Fields, folder: Path) -> AsyncIterator[list[RelayProcess]]:
        async with AsyncExitStack() as stack:
            relays = []
            for number in range(count):
                own = folder / f"relay-{number}"
                own.mkdir()
                each = copy.deepcopy(fields) | {"quota_store": store}
                each["server"]["workers"] = workers
                relays.append(await stack.enter_async_context(RelayProcess(each, own)))
            yield relays

    return site


def on_redis(count: int, workers: int = 1) -> Site:
    """Relays on a Redis of their own."""

    @asynccontextmanager
    async def site(fields: Fields, folder: Path) -> AsyncIterator[list[RelayProcess]]:
        async with RedisServer(folder / "redis") as server:
            store = f"unix://{server.socket}"
            async with relays_on(store, count, workers)(fields, folder) as relays:
                yield relays

    return site


EMBEDDED: dict[str, Site] = {
    "in process": _one_relay(1),
    "2 workers": _one_relay(2),
    "4 workers": _one_relay(4),
}


SHARED: dict[str, Site] = {
    "redis, 2 relays": on_redis(2),
    "redis, 2 relays of 2 workers": on_redis(2, 2),
}


def all_of(tell: Callable[[str], None]) -> dict[str, Site]:
    """Every authority that there is here; says which one is missing."""
    if program() is None:
        tell("redis-server is missing: its part is left out")
        return dict(EMBEDDED)
    return EMBEDDED | SHARED
