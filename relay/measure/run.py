"""A run: every target is called as often, in turn, so that all of them see the same minutes.

Each round calls every target once, in an order drawn by the seed; `concurrency` calls are under way at a time, over all
targets together. So nobody's calls are early and nobody's late, and no place in the row is anybody's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final
from urllib.parse import urlsplit

from relay.measure.call import Caller, Sample, open_session
from relay.measure.targets import Target
from relay.upstream.demo import DemoServer
from relay.upstream.scrub import Scrubber

PROMPT: Final = (
    "Explain to a visitor by the sea how the tides come about, in plain prose of about 200 words."
)
HEADING: Final = 64
"""Bytes around a prompt, at most: what makes each its own, and what an upstream's template adds to it."""

Told = Callable[[int, Sample], None]
"""Is told of each call that has ended: the target's place in the row, and the sample."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is done. `timeout`: seconds for one call, None: as each target allows."""

    targets: Sequence[Target]
    calls: int
    """To each target."""
    concurrency: int
    most_tokens: int
    prompt: str
    seed: int
    timeout: float | None = None

    def worst(self) -> tuple[int, list[str]]:
        """Nano-dollars that all of it can cost, and the names of those of which nobody knows."""
        cost, unknown = 0, []
        taken = len(self.prompt.encode()) + HEADING
        for target in self.targets:
            if target.price is not None:
                cost += self.calls * target.price.worst(taken, self.most_tokens)
            elif not target.demo:
                unknown.append(target.name)
        return cost, unknown

    def order(self) -> Iterator[int]:
        """The targets as they are called, by their places."""
        draw = Random(self.seed)  # noqa: S311  an order is no secret
        row = list(range(len(self.targets)))
        for _ in range(self.calls):
            draw.shuffle(row)
            yield from row


async def run(plan: Run, told: Told) -> None:
    """Makes all calls. Cancelling it gives up those that are under way, of which nothing is told."""
    demo = DemoServer() if any(target.demo for target in plan.targets) else None
    if demo is not None:
        await demo.start()
    try:
        await _call_all(plan, [_placed(target, demo) for target in plan.targets], told)
    finally:
        if demo is not None:
            await demo.close()


def _placed(target: Target, demo: DemoServer | None) -> Target:
    if demo is None or not target.demo:
        return target
    url = f"http://127.0.0.1:{demo.port}/v1"
    return replace(target, base_url=url, keys=(demo.credential,))


async def _call_all(plan: Run, targets: Sequence[Target], told: Told) -> None:
    scrub = Scrubber(
        [key for target in targets for key in target.keys if key],
        [urlsplit(target.base_url).hostname or "" for target in targets],
    )
    turns = plan.order()
    numbers = [0] * len(targets)
    async with open_session() as session:
        callers = [
            Caller(session, target, plan.most_tokens, scrub, plan.timeout) for target in targets
        ]

        async def work() -> None:
            for place in turns:
                number = numbers[place]
                numbers[place] += 1
                # Its own number in front: no answer, and no part of the prompt, is in anybody's cache.
                prompt = f"[{plan.seed}.{number}] {plan.prompt}"
                told(place, await callers[place].call(number, prompt))

        async with asyncio.TaskGroup() as group:
            for _ in range(plan.concurrency):
                group.create_task(work())
