"""Probes of ejected endpoints, with a clock in the test's hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from relay.upstream.breaker import State
from relay.upstream.directory import Directory
from relay.upstream.endpoint import Endpoint
from relay.upstream.probes import Probes
from tests.endpoints import KEY, trip
from tests.rig import Upstream, within
from tests.rig import scripts as say

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
    """Leaving it proves that no key was told."""
    made = Scene(answer)
    try:
        yield made
    finally:
        await made.probes.close()
        assert KEY not in str(made.told)


def eject(endpoint: Endpoint, now: float) -> None:
    trip(endpoint, now)
    assert endpoint.state(now) == "open"


def state(endpoint: Endpoint) -> State:
    return endpoint.breaker.state
