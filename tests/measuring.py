"""`relay bench` in a test's own process, and streams for it to measure."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from relay.cli import main
from tests.rig import Close, Pause, Send, Upstream
from tests.rig import scripts as say
from tests.rig.relay_process import Fields
from tests.rig.scripts import Script, Step

WORD = say.delta({"content": "tide "})


def stream(
    first: float = 0.0, gap: float = 0.0, words: int = 5, *, usage: int | None = 12
) -> Script:
    """A whole one: the role at once, the first word after `first` seconds, another after each `gap`."""
    steps: list[Step] = [Send(say.SSE_HEAD), Send(say.frame(say.ROLE)), Pause(first)]
    for number in range(words):
        steps += [*([Pause(gap)] if number and gap else []), Send(say.frame(WORD))]
    closing = [say.FINISH]
    if usage is not None:
        counts = {"prompt_tokens": 30, "completion_tokens": usage, "total_tokens": 30 + usage}
        closing.append(say.usage_event(counts))
    return [*steps, Send(say.frame(b"".join((*closing, say.DONE)))), Send(say.LAST_CHUNK)]


CUT: Script = [Send(say.SSE_HEAD), Send(say.frame(WORD)), Send(say.frame(WORD)), Close()]
"""A stream that ends amid its words."""


@dataclass(frozen=True)
class Bench:
    """Runs the command in a thread of its own, as it has its own loop."""

    folder: Path
    capsys: pytest.CaptureFixture[str]

    def write(self, upstreams: dict[str, Upstream | Fields], **model: object) -> None:
        ready: Fields = {}
        for name, given in upstreams.items():
            fields = {"base_url": given.base_url} if isinstance(given, Upstream) else given
            ready[name] = {"api_keys": ["sk-upstream-1"]} | fields
        pool = [{"upstream": name} for name in upstreams]
        whole = {"upstreams": ready, "models": {"m": {"pool": pool} | model}}
        (self.folder / "config.yaml").write_text(json.dumps(whole), "utf-8")

    async def run(self, *words: str, code: int = 0) -> tuple[str, str]:
        """What it printed on stdout and stderr."""
        line = ["bench", "-c", str(self.folder / "config.yaml"), *words]
        assert await asyncio.to_thread(main, line) == code
        printed = self.capsys.readouterr()
        return printed.out, printed.err

    async def figures(self, *words: str, code: int = 0) -> dict[str, Fields]:
        """By upstream."""
        out, _ = await self.run("--json", *words, code=code)
        return {each["upstream"]: each for each in json.loads(out)["upstreams"]}
