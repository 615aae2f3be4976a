"""`make faults`: plays everything many times, prints what came of it and writes it to `docs/faults.md`.

    python -m tests.faults --times 20 --streams 100000
    python -m tests.faults --only matrix,peers --times 2 --out faults.md

What was measured is kept part by part in `.cache/faults.json`, so that a part can be measured anew alone. The exit code
is 1 when anything was not as it should be.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from relay import __version__
from tests.faults import measured
from tests.faults.figures import page
from tests.faults.measured import Data, survived, truncations
from tests.faults.report import render
from tests.rig.relay_process import ROOT

KEPT = ROOT / ".cache" / "faults.json"

PARTS: dict[str, Callable[[argparse.Namespace], Data]] = {
    "matrix": lambda options: measured.matrix(options.times, tell),
    "peers": lambda options: measured.others(options.times, tell),
    "clients": lambda options: measured.of_clients(options.times, tell),
    "leaving": lambda options: measured.of_leaving(2 * options.times, tell),
    "sdks": lambda options: measured.of_sdks(max(1, options.times // 4), tell),
    "crosstalk": lambda options: measured.of_crosstalk(options.streams, tell),
    "figures": lambda _: page.measured(tell),
}


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--times", type=int, default=20, help="repetitions of every case")
    parser.add_argument("--streams", type=int, default=100_000, help="streams of the cross-talk")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "faults.md")
    return parser.parse_args()


def problems(data: Data) -> list[str]:
    """All that was not as it should be, in any part."""
    matrix = data["matrix"]
    found = list(matrix["wrong"])
    played, whole = survived(matrix["cases"], lambda each: each["verdicts"])
    _, looks = truncations(matrix)
    if whole < played or looks:
        found.append(f"{played - whole} calls did not survive, {looks} truncations look whole")
    for part in ("clients", "leaving"):
        found += data.get(part, {}).get("wrong", [])
    for name, each in data.get("sdks", {}).get("clients", {}).items():
        found += [f"{name}: {why}" for why in each["wrong"]]
        if each["whole"]:
            found.append(f"{name}: {each['whole']} broken streams looked whole")
    found += [f"cross-talk: {each}" for each in data.get("crosstalk", {}).get("foreign", [])]
    return found


def main() -> int:
    options = parsed()
    KEPT.parent.mkdir(exist_ok=True)
    data: Data = json.loads(KEPT.read_text("utf-8")) if KEPT.exists() else {}
    for part in options.only.split(","):
        data[part] = PARTS[part](options)
        command = "make faults"
        if (options.times, options.streams) != (20, 100_000):
            command += f" ARGS='--times {options.times} --streams {options.streams}'"
        data["about"] = {
            "command": command,
            "version": __version__,
            "python": platform.python_version(),
        }
        KEPT.write_text(json.dumps(data), "utf-8")
    if "matrix" not in data:
        return 0
    data = json.loads(KEPT.read_text("utf-8"))
    text = render(data)
    options.out.write_text(text, "utf-8")
    tell(text)
    found = problems(data)
    for line in found:
        tell(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
