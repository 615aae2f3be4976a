"""How long the commands of keys take on a key file with very many.

    python -m tests.keytimes --keys 100000

Each is a process of its own, as an admin starts it; the median of three: seconds by the clock, and of the processor,
which a busy machine does not stretch. The exit code is 1 when one that changes a key takes a second of it or more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Final

from relay.keys.entries import hash_of
from tests.rig.relay_process import ROOT

RUNS: Final = 3
LONGEST: Final = 1.0
"""Seconds of the processor that a command may take that changes one key."""


def write(folder: Path, count: int) -> None:
    """A configuration whose keys stand in a file."""
    (folder / "config.yaml").write_text("models: {m: {static: hello}}\nkey_files: [keys.jsonl]\n")
    with (folder / "keys.jsonl").open("w") as file:
        for number in range(count):
            file.write(
                f'{{"id": "c-{number:06d}", "hash": "{hash_of(str(number))}", "models": ["m"], '
                f'"limits": {{"rpm": 60, "usd_per_month": 50}}, "expires": "2031-01-01"}}\n'
            )


def commands(count: int) -> Iterator[tuple[str, list[list[str]]]]:
    """What is measured, and how it is said each time."""
    ids = [f"c-{count * place // 4:06d}" for place in range(1, RUNS + 1)]
    yield "new", [["new", "--file", "--id", f"n-{at}", "--models", "m"] for at in range(RUNS)]
    yield "rotate", [["rotate", id] for id in ids]
    yield "revoke", [["revoke", id] for id in ids]
    yield "list", [["list"]] * RUNS
    yield "list --json", [["list", "--json"]] * RUNS


def took(folder: Path, arguments: list[str]) -> tuple[float, float]:
    """Seconds from the start of the process to its end, and of the processor."""
    begin, before = perf_counter(), _spent()
    subprocess.run(
        [sys.executable, "-m", "relay", "keys", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
    )
    return perf_counter() - begin, _spent() - before


def _spent() -> float:
    """Seconds of the processor that ended children have used."""
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.keytimes")
    parser.add_argument("--keys", type=int, default=100_000)
    count = parser.parse_args().keys
    right = True
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, count)
        for command, runs in commands(count):
            times = [took(folder, arguments) for arguments in runs]
            seconds, spent = (round(median(each), 3) for each in zip(*times, strict=True))
            row = {"command": f"keys {command}", "keys": count, "seconds": seconds, "cpu": spent}
            sys.stdout.write(json.dumps(row | {"N": len(runs)}) + "\n")
            right = right and (spent < LONGEST or command.startswith("list"))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
