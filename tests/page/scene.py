"""A relay with something to show: four upstreams, each with a character, five apps with limits, steady traffic."""

from __future__ import annotations

import asyncio
import contextlib
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.rig import RelayProcess, Request, Upstream, config
from tests.rig import scripts as say
from tests.rig.scripts import Pause, Reset, Script, Send, Step

TEXT = (
    "The moon pulls the oceans, and the water follows it around the world in two broad waves. "
    "Twice a day the sea comes up to meet the shore, and twice it goes away again. "
    "When sun and moon stand in one line their pulls add up, and the tide runs higher than before."
)


@dataclass(frozen=True, slots=True)
class Character:
    """How an upstream behaves; times in seconds."""

    first: float
    pace: float
    fails: float = 0.0
    """Of its answers: a 502."""
    breaks: float = 0.0
    """Of its streams: a reset in the middle."""
    throttles: float = 0.0


UPSTREAMS = {
    "deepseek": Character(0.28, 0.02),
    "holysheep": Character(0.34, 0.025, breaks=0.01),
    "siliconflow": Character(2.1, 0.05),
    "vllm-local": Character(0.16, 0.03, fails=0.12),
}
KEYS: dict[str, dict[str, Any]] = {
    "shop-frontend": {"rpm": 160, "concurrent": 12},
    "mobile-app": {"tpm": 400_000},
    "batch-reports": {"usd_per_day": 0.19},
    "support-bot": {"rpm": 200, "usd_per_month": 40},
    "research": {"tpm": 900_000, "usd_per_month": 25},
}
ENDS = {"support-bot": timedelta(days=5, hours=3), "mobile-app": timedelta(days=12)}
SHARES = {"shop-frontend": 8, "mobile-app": 5, "batch-reports": 2, "support-bot": 4, "research": 2}


def key_of(app: str) -> str:
    return f"sk-{app}-0123456789abcdef"


def behaves(character: Character, chance: random.Random) -> Any:
    """A player of scripts: what the upstream says to a request."""

    def play(request: Request) -> Script:
        if chance.random() < character.fails:
            return say.error(502)
        if chance.random() < character.throttles:
            return say.error(429, headers=b"Retry-After: 2\r\n")
        head = Pause(character.first * chance.uniform(0.7, 1.4))
        words = [say.delta({"content": word + " "}) for word in TEXT.split(" ")]
        steps: list[Step] = [head, Send(say.SSE_HEAD), Send(say.frame(say.ROLE))]
        broken = chance.randrange(len(words)) if chance.random() < character.breaks else None
        for place, word in enumerate(words):
            steps += [Send(say.frame(word)), Pause(character.pace * chance.uniform(0.4, 1.6))]
            if place == broken:
                return [*steps, Reset()]
        usage = {
            "prompt_tokens": 420,
            "completion_tokens": len(words),
            "total_tokens": 420 + len(words),
        }
        end = (say.FINISH, say.usage_event(usage), say.DONE)
        return [*steps, *(Send(say.frame(item)) for item in end), Send(say.LAST_CHUNK)]

    return play


class Scene:
    """Lives as long as its `async with`; `traffic` until then."""

    def __init__(self, directory: Path, seed: int = 7, callers: int = 10) -> None:
        self._chance = random.Random(seed)
        self._stack = AsyncExitStack()
        self._directory = directory
        self._callers = callers
        self._tasks: list[asyncio.Task[None]] = []
        self.upstreams: dict[str, Upstream] = {}
        self.relay: RelayProcess

    async def __aenter__(self) -> Self:
        enter = self._stack.enter_async_context
        for name, character in UPSTREAMS.items():
            self.upstreams[name] = await enter(Upstream(behaves(character, self._chance)))
        now = datetime.now(UTC)  # noqa: TID251  it is the relay's clock by which keys expire
        expires = {app: (now + after).isoformat() for app, after in ENDS.items()}
        fields = config(
            {
                name: {"base_url": upstream.base_url, "max_concurrent": 40}
                for name, upstream in self.upstreams.items()
            },
            {
                "deepseek-chat": {
                    "pool": [{"upstream": name} for name in UPSTREAMS],
                    "strategy": "weighted",
                    "price": {"input": 2.7, "output": 11},
                },
                "qwen-max": {
                    "pool": [{"upstream": "siliconflow"}],
                    "price": {"input": 16, "output": 64},
                },
            },
            [
                {"id": app, "key": key_of(app), "limits": limits, "expires": expires.get(app)}
                for app, limits in KEYS.items()
            ],
        )
        self.relay = await enter(RelayProcess(fields, self._directory))
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._call_on()) for _ in range(self._callers)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.__aexit__(kind, error, trace)

    async def _call_on(self) -> None:
        apps, shares = list(SHARES), list(SHARES.values())
        while True:
            (app,) = self._chance.choices(apps, shares)
            model = "qwen-max" if self._chance.random() < 0.05 else "deepseek-chat"
            with contextlib.suppress(ConnectionError):
                await self.relay.chat(
                    key=key_of(app), model=model, stream=True, max_tokens=64, timeout=60
                )
            await asyncio.sleep(self._chance.uniform(0.2, 1.2))
