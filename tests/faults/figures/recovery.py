"""One of two upstreams dies at 50 calls a second and comes back: what clients see, and when it has traffic again.

- errors: calls that ended otherwise than well. Those begun before the fault may have been cut in their streams
  (`cut`), which nothing can mend; none of the others may fail.
- slow_for: seconds from the fault to the last call that was slow because the fault was not known yet.
- p99_back_after: seconds from the fault after which the p99 of all calls begun, while it is dead, is as before.
- returned: seconds from revival to the first call that it answered, and what was left of its ejection.

`python -m tests.faults.figures.recovery [FAULT…]`
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from tests.faults.figures.load import Load, Seen, ms, quantile, relay, until
from tests.faults.figures.provider import Provider
from tests.rig.relay_process import Fields, Upstreams, config

CONNECT = 1.0
FIRST_TOKEN = 2.0
FAULTS = ("kill", "stop", "503", "stall")
LONGEST_RETURN = 70.0
"""Seconds to wait for traffic."""


async def one(
    fault: str,
    *,
    rate: float = 50.0,
    warm: float = 10.0,
    dead: float = 8.0,
    after: float = 3.0,
    strategy: str = "least_inflight",
    first_token: float = FIRST_TOKEN,
    probe: Fields | None = None,
    model: Fields | None = None,
) -> dict[str, Any]:
    """One fault. Durations in seconds."""
    loop = asyncio.get_running_loop()
    async with Provider() as a, Provider() as b:
        own: Fields = {"timeouts": {"connect": f"{CONNECT}s", "first_token": f"{first_token}s"}}
        own |= {} if probe is None else {"probe": probe}
        upstreams: Upstreams = {
            name: own | {"base_url": p.base_url} for name, p in (("a", a), ("b", b))
        }
        pool = [{"upstream": "a"}, {"upstream": "b"}]
        fields = config(upstreams, {"m": {"pool": pool, "strategy": strategy} | (model or {})})
        async with relay(fields) as process:
            load = Load(process)
            marks: dict[str, float] = {}
            over = asyncio.Event()
            running = loop.create_task(load.at_rate(rate, over.is_set))
            await until(lambda: False, warm)
            marks["fault"] = loop.time()
            await a.fail(fault)
            await until(lambda: False, dead)
            states = _opened(process.lines)
            await a.revive(fault)
            marks["revival"] = loop.time()
            returned = await _returned(load, marks["revival"])
            await until(lambda: False, after)
            over.set()
            await running
            seen = await load.ended()
            metrics = await process.metrics()
            empty = sum(v for n, v in metrics.items() if n.startswith("relay_retry_budget_empty"))
            found = judged(seen, marks["fault"], marks["revival"], first_token)
            return {
                "fault": fault,
                "strategy": strategy,
                "first_token_s": first_token,
                "traffic_before_s": warm,
                "probe": probe,
                "model": model,
                **found,
                "ejections_while_dead": states,
                "returned_after_s": returned,
                "retry_budget_empty": int(empty),
            }


async def _returned(load: Load, revival: float) -> float | None:
    """Seconds until a call that began after the revival was answered by it."""
    lines = load.relay.calls
    start = len(lines)

    def back() -> bool:
        return any(
            line.get("upstream") == "a" and line.get("code") == 200 for line in lines[start:]
        )

    loop = asyncio.get_running_loop()
    return round(loop.time() - revival, 2) if await until(back, LONGEST_RETURN) else None


def _opened(lines: list[Fields]) -> int:
    return sum(line.get("upstream") == "a" and line.get("state") == "open" for line in lines)


def judged(seen: list[Seen], fault: float, revival: float, first_token: float) -> dict[str, Any]:
    before = [one for one in seen if one.began < fault - 1]
    usual = quantile((one.ttft or 0.0 for one in before), 0.99)
    slow_from = max(3 * usual, usual + 0.25)
    during = [one for one in seen if fault - 1 <= one.began < revival]
    lost = [one for one in seen if not one.good]
    cut = [one for one in lost if one.status == 200 and one.began < fault]
    slow = [one.began - fault for one in during if (one.ttft or 99.0) > slow_from]
    learning = [at for at in slow if at < max(2 * CONNECT, first_token) + 0.5]
    return {
        "calls": len(seen),
        "calls_while_dead": len(during),
        "errors_before_the_first_token": len(lost) - len(cut),
        "faults": sorted({one.fault for one in lost if one not in cut}),
        "cut_in_mid_stream": len(cut),
        "ttft_p99_before_ms": ms(usual),
        "slow_calls": len(slow),
        "slow_for_s": round(max(learning, default=0.0), 2),
        "slow_calls_later": len(slow) - len(learning),
        "ttft_p99_back_after_s": _back(during, fault, slow_from),
        "ttft_max_ms": ms(max((one.ttft or 0.0 for one in seen), default=0.0)),
    }


def _back(during: list[Seen], fault: float, slow_from: float) -> float | None:
    """Seconds after the fault from which on few enough are slow."""
    for tenth in range(100):
        late = [one.ttft or 99.0 for one in during if one.began >= fault + tenth / 10]
        if late and quantile(late, 0.99) <= slow_from:
            return tenth / 10
    return None


MORE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("stop", {"strategy": "weighted"}),
    ("stop", {"probe": {"interval": "2s"}}),
    ("stop", {"model": {"hedge": {"after": "300ms", "budget": "20%"}}}),
    # Where silence may last longer than the retry budget remembers, many calls are silent at once.
    ("stall", {"strategy": "weighted", "first_token": 10.0, "dead": 14.0}),
)
"""Besides the four faults with nothing but defaults."""


def _told(options: dict[str, Any]) -> dict[str, str]:
    """Options as they stand in a configuration, or in words."""
    told = dict(options)
    told |= told.pop("model", {})
    if "first_token" in told:
        told["first_token"] = f"{told['first_token']:g} s"
    dead = told.pop("dead", None)
    told |= {} if dead is None else {"dead for": f"{dead:g} s"}
    return {
        name: " ".join(map(str, value.values())) if isinstance(value, dict) else str(value)
        for name, value in told.items()
    }


def run(faults: tuple[str, ...] = FAULTS) -> dict[str, Any]:
    rows = [asyncio.run(one(fault)) for fault in faults]
    if faults == FAULTS:
        for fault, options in MORE:
            rows.append(asyncio.run(one(fault, **options)) | {"options": _told(options)})
    return {"recovery": rows}


if __name__ == "__main__":
    chosen = tuple(sys.argv[1:]) or FAULTS
    sys.stdout.write(json.dumps(run(chosen), indent=2) + "\n")
