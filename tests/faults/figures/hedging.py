"""Hedging: two upstreams, one of which takes two seconds for its first token in one call of twenty.

Run three times on the same load: without the slow calls, with them, and with them and a hedge. `p99` is that of the
time to first token; `hedges` are those that ran, of all calls.

`python -m tests.faults.figures.hedging`
"""

from __future__ import annotations

import asyncio
import json
import sys
from random import Random
from typing import Any

from tests.faults.figures.load import Load, ms, quantile, relay, until
from tests.faults.figures.provider import TTFT, paced
from tests.rig.relay_process import Models, config
from tests.rig.scripts import Script
from tests.rig.upstream import Request, Upstream

AFTER = 0.4
"""Seconds of silence before a hedge."""
BUDGET = 0.05
SLOW = 2.0
"""Seconds to the first token, where it is slow."""
SHARE = 0.05
"""Of one upstream's calls."""


class Moody:
    """Answers as a quick model does, but for a share of the calls."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._rng = Random(7)

    def __call__(self, request: Request) -> Script:
        return paced(SLOW if self._rng.random() < self._share else TTFT)


async def one(
    *, slow: bool = True, hedge: bool = True, rate: float = 50.0, seconds: float = 40.0
) -> dict[str, Any]:
    """Streamed calls at `rate` for so long."""
    loop = asyncio.get_running_loop()
    ways = {"hedge": {"after": f"{AFTER * 1000:.0f}ms", "budget": f"{BUDGET:.0%}"}} if hedge else {}
    models: Models = {"m": {"pool": [{"upstream": "moody"}, {"upstream": "steady"}], **ways}}
    async with (
        Upstream(Moody(SHARE if slow else 0.0)) as moody,
        Upstream(Moody(0.0)) as steady,
        relay(config({"moody": moody, "steady": steady}, models)) as process,
    ):
        # The budget of hedges starts empty: what is measured is a relay that has been serving.
        load = Load(process)
        begins = loop.time() + 2
        await load.at_rate(rate, lambda: loop.time() >= begins)
        warm = len(await load.ended())
        over = asyncio.Event()
        running = loop.create_task(load.at_rate(rate, over.is_set))
        await until(lambda: False, seconds)
        over.set()
        await running
        seen = (await load.ended())[warm:]
        metrics = await process.metrics()
    ended = {
        outcome: int(metrics[f'relay_hedges_total{{outcome="{outcome}"}}'])
        for outcome in ("won", "lost", "failed", "refused")
    }
    ran = ended["won"] + ended["lost"] + ended["failed"]
    times = [call.ttft for call in seen if call.ttft is not None]
    return {
        "slow_calls": slow,
        "hedge": hedge,
        "calls": len(seen),
        "failed": sum(not call.good for call in seen),
        "ttft_p50_ms": ms(quantile(times, 0.5)),
        "ttft_p95_ms": ms(quantile(times, 0.95)),
        "ttft_p99_ms": ms(quantile(times, 0.99)),
        "ttft_max_ms": ms(max(times)),
        "allowed_p99_ms": ms(1.2 * AFTER),
        "hedges": ended,
        "hedges_share": round(ran / (warm + len(seen)), 4),
        "budget": BUDGET,
    }


def run() -> dict[str, Any]:
    ways = ((False, False), (True, False), (True, True))
    return {"hedging": [asyncio.run(one(slow=slow, hedge=hedge)) for slow, hedge in ways]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(), indent=2) + "\n")
