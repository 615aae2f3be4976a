"""What is billed against what the upstreams themselves counted, over very many calls that end in every way.

Streams that end well, clients that leave in the middle, upstreams that reset, upstreams so slow that a hedge overtakes
them. The upstreams keep books of their own: a prompt is a token for every four bytes of its messages, an answer one for
every event with content. Whole answers must agree to the token; where a stream was cut off the answer may differ by the
one event that was on its way. The sum must be what the limit of the key has counted.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.quotas.burst import used_up
from tests.quotas.sites import Site
from tests.rig import Pause, RawClient, RelayProcess, Request, Reset, Send, Stall, Upstream, config
from tests.rig import scripts as say
from tests.rig.raw_client import KEY, chat_body, request
from tests.rig.relay_process import Line
from tests.rig.scripts import Script, Step
from tests.rig.upstream import Exchange

AT_ONCE = 48
BYTES = 400
"""Of a prompt, about: all are alike, so that their tokens are learnt soon."""
WORDS = 10
PACE = 0.004
"""Seconds between two events."""
SLOW = 2.0
"""Seconds before the first one where a hedge shall overtake."""
LIMIT = 50_000_000
"""Tokens a day: never reached."""

LESSONS = 16
"""Whole calls before all others, that teach every process how many tokens a prompt has."""

FATES = ("whole",) * 12 + ("leaves",) * 4 + ("resets",) * 3 + ("slow",)


def fate_of(tag: int) -> str:
    if tag < LESSONS:
        return "whole"
    return FATES[random.Random(tag).randrange(len(FATES))]


def cut_of(tag: int) -> int:
    """After how many events with content it is cut."""
    return random.Random(tag + 1).randrange(1, WORDS)


def prompt(tag: int) -> str:
    return f"call-{tag:08d} ".ljust(BYTES, "x")


def tag_of(asked: Request) -> int:
    at = asked.body.find(b"call-") + 5
    return int(asked.body[at : at + 8])


class Books:
    """One upstream, and what it has counted."""

    def __init__(self, slowed: set[int]) -> None:
        """`slowed`: calls that one of the upstreams has kept waiting already."""
        self.upstream = Upstream(self.script)
        self._slowed = slowed

    def script(self, asked: Request) -> Script:
        tag = tag_of(asked)
        fate, cut = fate_of(tag), cut_of(tag)
        steps: list[Step] = []
        if fate == "slow" and tag not in self._slowed:
            self._slowed.add(tag)
            steps.append(Pause(SLOW))
        steps.append(Send(say.SSE_HEAD + say.frame(say.ROLE)))
        for number in range(WORDS):
            if fate == "resets" and number == cut:
                # What was sent must have been read: a reset takes back what still lies in the kernel.
                return [*steps, Pause(50 * PACE), Reset()]
            if fate == "leaves" and number == cut + 1:
                # One is on its way when the client leaves.
                return [*steps, Stall()]
            steps += [Send(say.frame(say.delta({"content": "word "}))), Pause(PACE)]
        taken = self.taken(asked)
        usage = {"prompt_tokens": taken, "completion_tokens": WORDS, "total_tokens": taken + WORDS}
        end = (say.FINISH, say.usage_event(usage), say.DONE)
        return [*steps, Send(b"".join(map(say.frame, end)) + say.LAST_CHUNK)]

    def taken(self, asked: Request) -> int:
        return len(json.dumps(asked.json()["messages"])) // 4

    def given(self, exchange: Exchange) -> int:
        """Events with content that went out, as far as the socket took them."""
        head = len(say.SSE_HEAD + say.frame(say.ROLE))
        word = len(say.frame(say.delta({"content": "word "})))
        return min(WORDS, max(0, exchange.sent - head) // word)


@dataclass
class Found:
    calls: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    whole: int = 0
    """Whole answers, of which"""
    wrong: int = 0
    """so many were not billed to the token."""
    cut: int = 0
    furthest: int = 0
    """The largest difference of a cut answer's tokens, in events."""
    prompts: int = 0
    """The largest difference of a cut answer's prompt, in tokens."""
    hedged: int = 0
    billed: int = 0
    """All tokens."""
    counted: int = 0
    """As the limit of the key counted them."""


async def run(site: Site, calls: int, folder: Path) -> Found:
    slowed: set[int] = set()
    books = {name: Books(slowed) for name in "ab"}
    key = [{"id": "tester", "key": KEY, "limits": {"tokens_per_day": LIMIT}}]
    pool = [{"upstream": "a"}, {"upstream": "b", "tier": 1}]
    hedge: Any = {"after": "300ms", "budget": "100%"}
    models = {"m": {"pool": pool, "hedge": hedge, "retry": {"attempts": 3, "budget": "100%"}}}
    async with books["a"].upstream as first, books["b"].upstream as second:
        fields = config({"a": first, "b": second}, models, key)
        async with site(fields, folder) as relays:
            asked = await _all(relays, range(LESSONS), 1)
            asked += await _all(relays, range(LESSONS, calls), AT_ONCE)
            lines = await _lines(relays, asked)
            found = judge(lines, books)
            ratio = found.billed / LIMIT
            await used_up(relays, "tester", "tokens_per_day", ratio)
            found.counted = found.billed
    return found


async def _all(relays: list[RelayProcess], calls: range, at_once: int) -> Counter[int]:
    """How many calls each of the relays got."""
    left = iter(calls)
    asked: Counter[int] = Counter()

    async def client(number: int) -> None:
        while (tag := next(left, None)) is not None:
            which = (number + tag) % len(relays)
            asked[which] += 1
            async with await RawClient.connect(relays[which].address) as one:
                await _one(one, tag)

    async with asyncio.TaskGroup() as group:
        for number in range(at_once):
            group.create_task(client(number))
    return asked


async def _one(client: RawClient, tag: int) -> None:
    messages = [{"role": "user", "content": prompt(tag)}]
    body = chat_body(messages=messages, max_tokens=WORDS * 2)
    name = {"X-Request-Id": f"call-{tag}"}
    await client.send(request("POST", "/v1/chat/completions", body, headers=name))
    await client.head()
    if fate_of(tag) == "leaves":
        # The event with the role, and so many with content.
        for _ in range(1 + cut_of(tag)):
            await client.event()
        await client.reset()
    else:
        await client.rest()


async def _lines(relays: list[RelayProcess], asked: Counter[int]) -> list[Line]:
    """The line of every call."""
    for which, relay in enumerate(relays):
        has_all = partial(_has, relay, asked[which])
        await relay.call(has_all, timeout=60)
    return [line for relay in relays for line in relay.calls]


def _has(relay: RelayProcess, count: int, _: Line) -> bool:
    return len(relay.calls) >= count


def judge(lines: list[Line], books: dict[str, Books]) -> Found:
    served = {
        (name, tag_of(exchange.request)): exchange
        for name, book in books.items()
        for exchange in book.upstream.exchanges
    }
    found = Found(len(lines))
    for line in lines:
        tag = int(line["client_request_id"].removeprefix("call-"))
        _compare(found, line, books[line["upstream"]], served[line["upstream"], tag])
    return found


def _compare(found: Found, line: Line, book: Books, exchange: Exchange) -> None:
    taken = book.taken(exchange.request)
    found.billed += line["input_tokens"] + line["output_tokens"]
    found.ends[line["outcome"]] += 1
    found.hedged += line.get("hedged", False)
    if line["outcome"] == "ok":
        found.whole += 1
        found.wrong += (line["input_tokens"], line["output_tokens"]) != (taken, WORDS)
        return
    found.cut += 1
    # The event with the role counts as one here, and not with the upstream.
    given = line["output_tokens"] - 1
    found.furthest = max(found.furthest, abs(given - book.given(exchange)))
    found.prompts = max(found.prompts, abs(line["input_tokens"] - taken))
