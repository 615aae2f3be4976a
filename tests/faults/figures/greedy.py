"""A greedy key with a thousand waiting calls beside a quiet one with one call at a time, at an upstream that takes few.

`waits` are the quiet key's times in the queue, from the access log, in service times of the upstream.

`python -m tests.faults.figures.greedy`
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from tests.faults.figures.load import PATIENCE, Load, call, quantile, relay, until
from tests.rig import scripts as say
from tests.rig.raw_client import KEY
from tests.rig.relay_process import Fields, RelayProcess, config
from tests.rig.scripts import Pause, Script
from tests.rig.upstream import Request, Upstream

QUIET = "sk-a-quiet-client-0123456789"
SERVICE = 0.25
"""Seconds that a call takes at the upstream."""


def served(_: Request) -> Script:
    """An answer that takes so long."""
    first, *rest = say.sse(say.EVENTS)
    return [first, Pause(SERVICE), *rest]


async def one(*, greedy: int = 1000, places: int = 4, quiet: int = 20) -> dict[str, Any]:
    """`greedy` calls of one key at once; then `quiet` calls of another, one after the other."""
    keys: list[Fields] = [{"id": "greedy", "key": KEY}, {"id": "quiet", "key": QUIET}]
    async with Upstream(served) as upstream:
        narrow: Fields = {
            "base_url": upstream.base_url,
            "max_concurrent": places,
            "queue": {"max_calls": 2 * greedy, "max_wait": "10m"},
            "timeouts": {"first_token": "10m"},
        }
        async with relay(config({"a": narrow}, None, keys)) as process:
            load = Load(process)
            for _ in range(greedy):
                load.begin()
            await _queued(process, greedy - places - 2 * places)
            for _ in range(quiet):
                seen = await call(process.address, key=QUIET)
                assert seen.good, seen
            waiting = (await process.metrics())['relay_queue_depth{upstream="a"}']
            await load.leave()

            def mine() -> list[Fields]:
                return [line for line in process.calls if line["key"] == "quiet"]

            assert await until(lambda: len(mine()) == quiet, PATIENCE), "a call has no line"
            waits = [line.get("queue_ms", 0.0) / 1000 / SERVICE for line in mine()]
    return {
        "greedy_calls": greedy,
        "places": places,
        "quiet_calls": len(waits),
        "still_waiting_at_the_end": int(waiting),
        "wait_p50_services": round(quantile(waits, 0.5), 2),
        "wait_max_services": round(max(waits), 2),
        "allowed": 2,
    }


async def _queued(process: RelayProcess, count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while (await process.metrics())['relay_queue_depth{upstream="a"}'] < count:
            pass


def run() -> dict[str, Any]:
    return {"greedy": [asyncio.run(one(places=places)) for places in (1, 4)]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(), indent=2) + "\n")
