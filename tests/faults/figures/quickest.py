"""Two upstreams, one with a TTFT of 50 ms, one with 200 ms, and `strategy: fastest`. The quick one is slow for a while.

Shares are those of the quick upstream: while it is quick, while it is slow (from two seconds on), and after;
`back_after_s` is the time from its recovery until it again had four of five calls in a row of ten.

`python -m tests.faults.figures.quickest`
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from tests.faults.figures.load import Load, Seen, ms, quantile, relay, until
from tests.faults.figures.provider import paced
from tests.rig.relay_process import config
from tests.rig.scripts import Script
from tests.rig.upstream import Request, Upstream

QUICK, SLOW, WORSE = 0.05, 0.2, 0.6
"""Seconds of TTFT: the one, the other, and the one in its bad time."""
ROW = 10


async def one(
    *, rate: float = 50.0, first: float = 8.0, bad: float = 8.0, last: float = 20.0
) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    ttft = QUICK

    def one_answers(request: Request) -> Script:
        return paced(ttft, 0.0)

    async with (
        Upstream(one_answers) as quick,
        Upstream(lambda _: paced(SLOW, 0.0)) as slow,
    ):
        pool = [{"upstream": "quick"}, {"upstream": "slow"}]
        fields = config(
            {"quick": quick, "slow": slow}, {"m": {"pool": pool, "strategy": "fastest"}}
        )
        async with relay(fields) as process:
            load = Load(process)
            over = asyncio.Event()
            running = loop.create_task(load.at_rate(rate, over.is_set))
            await until(lambda: False, first)
            worse, ttft = loop.time(), WORSE
            await until(lambda: False, bad)
            better, ttft = loop.time(), QUICK
            await until(lambda: False, last)
            over.set()
            await running
            seen = sorted(await load.ended(), key=lambda call: call.began)
    before = [call for call in seen if call.began < worse]
    during = [call for call in seen if worse + 2 <= call.began < better]
    after = [call for call in seen if call.began >= better]
    settled = [call for call in after if call.began >= better + last / 2]
    return {
        "calls": len(seen),
        "failed": sum(not call.good for call in seen),
        "while_quick": {"calls": len(before), **_share(before)},
        "while_slow": {"calls": len(during), **_share(during)},
        "later": {"calls": len(settled), **_share(settled)},
        "back_after_s": _back(after, better),
    }


def _share(calls: list[Seen]) -> dict[str, Any]:
    quick = sum(call.upstream == "quick" for call in calls)
    return {
        "share_of_quick": round(quick / max(1, len(calls)), 3),
        "ttft_p50_ms": ms(quantile((call.ttft or 0.0 for call in calls), 0.5)),
    }


def _back(calls: list[Seen], better: float) -> float | None:
    for place in range(len(calls) - ROW):
        row = calls[place : place + ROW]
        if sum(call.upstream == "quick" for call in row) >= ROW * 0.8:
            return round(row[0].began - better, 2)
    return None


def run() -> dict[str, Any]:
    return {"quickest": asyncio.run(one())}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(), indent=2) + "\n")
