"""`make quotas`: plays every part many times, prints what came of it, and keeps it in `.cache/quotas.json`.

    python -m tests.quotas --only burst --runs 5

The exit code is 1 when anything was not as it should be.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import uvloop

from tests.quotas import burst, cost, drift, sites
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
            found = uvloop.run(burst.run(site, options.runs, 1000, Path(folder)))
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
            each = uvloop.run(drift.run(site, options.calls, Path(folder)))
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


PARTS: dict[str, Callable[[argparse.Namespace], tuple[Rows, list[str]]]] = {
    "burst": _of_burst,
    "drift": _of_drift,
    "cost": _of_cost,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.quotas")
    parser.add_argument("--runs", type=int, default=20, help="bursts of every limit")
    parser.add_argument("--calls", type=int, default=10_000, help="calls of the drift")
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
