"""Nobody answers: every upstream says 503, or refuses connections. What that costs them, and how soon a client knows.

- attempts per call: what the relay made of them, refused dials included. A retry after a 503 is paid from
  `retry.budget` (20 %, floor 3); a refused dial is free, and made until the breakers are open.
- told: from the call's first byte to its whole refusal, for all calls, and without the first second.

`python -m tests.faults.figures.outage`
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from typing import Any

from tests.dials import dead_port
from tests.faults.figures.load import Load, ms, quantile, relay, until
from tests.rig import scripts as say
from tests.rig.relay_process import Models, Upstreams, config
from tests.rig.upstream import Upstream

KINDS = ("503", "refused")


async def one(
    kind: str, *, rate: float = 50.0, seconds: float = 20.0, members: int = 2
) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        upstreams: Upstreams = {}
        for number in range(members):
            if kind == "503":
                upstreams[f"u{number}"] = await stack.enter_async_context(Upstream(say.error(503)))
            else:
                port = stack.enter_context(dead_port())
                upstreams[f"u{number}"] = {"base_url": f"http://127.0.0.1:{port}/v1"}
        pool = [{"upstream": name} for name in upstreams]
        upstreams["good"] = await stack.enter_async_context(Upstream())
        models: Models = {"m": {"pool": pool}, "warm": {"pool": [{"upstream": "good"}]}}
        process = await stack.enter_async_context(relay(config(upstreams, models)))
        # A relay that has served before: its first calls ever load code, and say nothing of an outage.
        warming = Load(process)
        begins = loop.time() + 1
        await warming.at_rate(rate, lambda: loop.time() >= begins, model="warm")
        await warming.ended()
        load = Load(process)
        over = asyncio.Event()
        began = loop.time()
        running = loop.create_task(load.at_rate(rate, over.is_set))
        await until(lambda: False, seconds)
        over.set()
        await running
        seen = await load.ended()
        metrics = await process.metrics()
    attempts = sum(
        value
        for name, value in metrics.items()
        if name.startswith("relay_upstream_attempts_total") and 'upstream="good"' not in name
    )
    later = [call.took for call in seen if call.began > began + 1]
    return {
        "upstreams": f"{members} x {kind}",
        "calls": len(seen),
        "answers": sorted({(call.status, call.fault) for call in seen}),
        "attempts": int(attempts),
        "attempts_per_call": round(attempts / len(seen), 3),
        "allowed": round(1.2 * len(seen) + 3 + 0.3 * seconds, 1),
        "told_p50_ms": ms(quantile((call.took for call in seen), 0.5)),
        "told_p99_ms": ms(quantile((call.took for call in seen), 0.99)),
        "calls_after_1s": len(later),
        "told_p99_after_1s_ms": ms(quantile(later, 0.99)),
        "told_max_ms": ms(max(call.took for call in seen)),
    }


def run() -> dict[str, Any]:
    return {"outage": [asyncio.run(one(kind)) for kind in KINDS]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(), indent=2) + "\n")
