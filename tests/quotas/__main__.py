"""`make quotas`: plays every part many times, prints what came of it, and keeps it in `.cache/quotas.json`.

    python -m tests.quotas --only burst --runs 5

The exit code is 1 when anything was not as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from tests.quotas import burst, cost, drift, faults, messages, sites
from tests.redis_rig import RedisServer, Server, program
from tests.rig.relay_process import ROOT

KEPT = ROOT / ".cache" / "quotas.json"

Rows = list[dict[str, Any]]


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _of_burst(options: argparse.Namespace) -> tuple[Rows, list[str]]:
    rows, wrong = [], []
    for name, site in sites.all_of(tell).items():
        with TemporaryDirectory() as folder:
            found = asyncio.run(burst.run(site, options.runs, 1000, Path(folder)))
        for limit, each in found.items():
            rows.append({"site": name, "limit": limit} | vars(each))
            tell(json.dumps(rows[-1]))
            if each.overspent or each.refused or each.odd:
                wrong.append(f"burst, {name}, {limit}: {each}")
    return rows, wrong


def _of_drift(options: argparse.Namespace) -> tuple[Rows, list[str]]:
    rows, wrong = [], []
    for name, site in sites.all_of(tell).items():
        with TemporaryDirectory() as folder:
            each = asyncio.run(drift.run(site, options.calls, Path(folder)))
        rows.append({"site": name} | vars(each))
        tell(json.dumps(rows[-1]))
        if each.wrong or each.furthest > 1:
            wrong.append(f"drift, {name}: {each}")
    return rows, wrong


def _of_cost(_: argparse.Namespace) -> tuple[Rows, list[str]]:
    rows: Rows = []
    for name, each in cost.run(100_000, 5).items():
        rows.append({"place": name, "code": cost.CODE, "us": each})
        tell(f"{name}: {median(each):.2f} µs ({cost.CODE})")
    return rows, []


def _of_redis(options: argparse.Namespace) -> tuple[Rows, list[str]]:
    """What every fault of a Redis costs."""
    rows: Rows = []
    wrong: list[str] = []
    if program() is None:
        tell("redis-server is missing: its part is left out")
        return rows, wrong
    for fault in faults.FAULTS:
        for _ in range(options.times):
            with TemporaryDirectory() as folder:
                row = asyncio.run(faults.play(fault, Path(folder)))
            rows.append(vars(row) | {"added_ms": round(row.added_ms, 1)})
            tell(json.dumps(rows[-1]))
            wrong += [f"redis, {fault.name}: {each}" for each in row.wrong()]
    return rows, wrong


def _of_messages(_: argparse.Namespace) -> tuple[Rows, list[str]]:
    """What a busy key costs a Redis that several relays share."""
    rows: Rows = []
    if program() is None:
        return rows, []
    with TemporaryDirectory() as folder, RedisServer(Path(folder)) as server:
        for relays in (1, 4, 16):
            found = messages.run(Server(server.client()), relays, 10_000)
            rows.append(vars(found) | {"messages": round(found.messages, 3)})
            tell(json.dumps(rows[-1]))
    wrong = [str(row) for row in rows if row["relays"] == 4 and row["messages"] > 0.3]
    return rows, wrong


PARTS: dict[str, Callable[[argparse.Namespace], tuple[Rows, list[str]]]] = {
    "burst": _of_burst,
    "drift": _of_drift,
    "cost": _of_cost,
    "redis": _of_redis,
    "messages": _of_messages,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.quotas")
    parser.add_argument("--runs", type=int, default=20, help="bursts of every limit")
    parser.add_argument("--calls", type=int, default=10_000, help="calls of the drift")
    parser.add_argument("--times", type=int, default=3, help="of every fault of a Redis")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    options = parser.parse_args()
    KEPT.parent.mkdir(exist_ok=True)
    data = json.loads(KEPT.read_text("utf-8")) if KEPT.exists() else {}
    wrong: list[str] = []
    for part in options.only.split(","):
        data[part], found = PARTS[part](options)
        wrong += found
        KEPT.write_text(json.dumps(data), "utf-8")
    for line in wrong:
        tell(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
