"""`relay bench` in front of four scripted upstreams: the table and the chart that docs/bench-providers.md shows.

`python -m tests.providers` takes a minute, prints the command with its output, and draws `docs/bench-providers.svg`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.page.scene import Character, behaves
from tests.rig import Request, Stall, Upstream
from tests.rig.relay_process import ROOT
from tests.rig.scripts import Script
from tests.rig.upstream import Player

CHART: Final = ROOT / "docs" / "bench-providers.svg"
WORDS: Final = ("-n", "20", "--concurrency", "4", "--seed", "6", "--timeout", "8")

CHARACTERS: Final = {
    "near-by": Character(0.12, 0.02),
    "far-away": Character(0.38, 0.02),
    "breaks-off": Character(0.2, 0.012, breaks=0.15, throttles=0.1),
    "big-model": Character(1.4, 0.045),
}
MODELS: Final = {
    "deepseek-chat": {
        "pool": [{"upstream": name} for name in ("near-by", "far-away", "breaks-off")],
        "price": {"input": 0.27, "output": 0.42},
    },
    "qwen-max": {
        "pool": [{"upstream": "big-model"}],
        "price": {"input": 1.6, "output": 6.4},
    },
}


def hanging(name: str, chance: random.Random) -> Player:
    """`far-away` says nothing to one call of fifteen."""
    play = behaves(CHARACTERS[name], chance)

    def answer(request: Request) -> Script:
        script: Script = play(request)
        return [Stall()] if name == "far-away" and chance.random() < 1 / 15 else script

    return answer


async def measure(folder: Path) -> None:
    chance = random.Random(6)
    async with AsyncExitStack() as stack:
        upstreams = {}
        for name in CHARACTERS:
            upstream = await stack.enter_async_context(Upstream(hanging(name, chance)))
            upstreams[name] = {"base_url": upstream.base_url, "timeouts": {"first_token": "3s"}}
        fields = {"upstreams": upstreams, "models": MODELS}
        (folder / "config.yaml").write_text(json.dumps(fields), "utf-8")
        line = " ".join(("relay bench", *WORDS, "--chart", CHART.name))
        sys.stdout.write(f"$ {line}\n")
        sys.stdout.flush()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relay", "bench", *WORDS, "--chart", CHART.name),
            cwd=folder,
            env=dict(os.environ) | {"PYTHONPATH": str(ROOT)},
            stderr=asyncio.subprocess.STDOUT,
            stdin=asyncio.subprocess.DEVNULL,
        )
        await process.wait()
        shutil.copyfile(folder / CHART.name, CHART)


if __name__ == "__main__":
    with TemporaryDirectory() as made:
        asyncio.run(measure(Path(made)))
