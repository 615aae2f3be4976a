"""A thousand calls at once on a limit that holds exactly a few of them.

The admitted ones are held until every other one is refused, so that nothing is given back meanwhile: exactly as many as
the limit holds must be admitted. Then they end, having used half of what they reserved, and the calls come again:
exactly what was given back must be admitted.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relay.chatbody import decode
from tests.quotas.sites import Site
from tests.rig import Answer, Gate, RawClient, RelayProcess, Request, Upstream, config
from tests.rig import scripts as say
from tests.rig.raw_client import chat_body, request
from tests.rig.relay_process import Fields
from tests.rig.scripts import Script

NEED = 100
"""Tokens that a call may use at the most."""
TAKEN = decode(chat_body(max_tokens=1)).prompt_bound(0)
"""Those of them that its prompt may have."""
BODY = chat_body(max_tokens=NEED - TAKEN)
PRICE = 10
"""US$ per million tokens: a call costs 0.001 at the most."""


@dataclass(frozen=True)
class Limit:
    name: str
    value: float
    holds: int
    """Calls at once."""
    gives_back: int
    """Calls that what comes back has room for: each call has used half of what it reserved."""


LIMITS = (
    Limit("requests_per_day", 10, 10, 0),
    Limit("tokens_per_day", 10 * NEED, 10, 5),
    Limit("usd_per_day", 0.01, 10, 5),
    Limit("concurrent", 5, 5, 5),
)


@dataclass
class Found:
    """What came of all runs of one limit."""

    runs: int = 0
    calls: int = 0
    overspent: int = 0
    """Calls that were admitted beyond the limit."""
    refused: int = 0
    """Calls that were refused though the limit would have held them."""
    odd: list[str] = field(default_factory=list)
    """Answers that are neither."""


def key_of(limit: Limit, run: int) -> str:
    return f"sk-burst-{limit.name}-{run}-0123456789"


def keys(runs: int) -> list[Fields]:
    """A key for every limit and run, so that no run has to wait for midnight."""
    return [
        {
            "id": f"{limit.name}-{run}",
            "key": key_of(limit, run),
            "limits": {limit.name: limit.value},
        }
        for limit in LIMITS
        for run in range(runs)
    ]


class Provider:
    """Holds every stream after its first words until it is let go; then reports half of the need."""

    def __init__(self) -> None:
        self.upstream = Upstream(self.script)

    def script(self, asked: Request) -> Script:
        half = NEED // 2
        usage = {"prompt_tokens": TAKEN // 2, "completion_tokens": half - TAKEN // 2}
        usage["total_tokens"] = half
        events = [*say.EVENTS[3:-1], say.usage_event(usage), say.DONE]
        return say.sse(say.EVENTS[:3], Gate("end"), *say.sse(events)[1:])

    def let_go(self) -> None:
        for exchange in self.upstream.exchanges:
            exchange.open("end")


class Crowd:
    """Clients on connections that stay open from wave to wave, spread over all relays."""

    def __init__(self, relays: Sequence[RelayProcess]) -> None:
        self._relays = relays
        self._clients: list[RawClient] = []

    async def gather(self, count: int) -> None:
        for number in range(count):
            relay = self._relays[number % len(self._relays)]
            self._clients.append(await RawClient.connect(relay.address))

    async def leave(self) -> None:
        await asyncio.gather(*(client.close() for client in self._clients))

    async def wave(self, key: str, found: Found) -> list[RawClient]:
        """All ask at once. Returns those that were admitted, with their streams begun; the others are refused."""
        call = request("POST", "/v1/chat/completions", BODY, key=key)
        start = asyncio.Event()
        admitted: list[RawClient] = []

        async def one(client: RawClient) -> None:
            await start.wait()
            answer = None
            while answer is None or _says_later(answer):
                await client.send(call)
                await client.head(timeout=60)
                if client.status == 200:
                    admitted.append(client)
                    await client.event(timeout=60)
                    return
                answer = await client.rest(timeout=60)
            if answer.status != 429:
                found.odd.append(f"{answer.status} {answer.body[:200]!r}")

        asked = [asyncio.ensure_future(one(client)) for client in self._clients]  # noqa: TID251
        start.set()
        await asyncio.gather(*asked)
        found.calls += len(asked)
        return admitted


def _says_later(answer: Answer) -> bool:
    """A relay that shares two CPUs with a thousand clients may have too much to do to look at a limit at all."""
    return answer.status == 503 and answer.error["code"] == "server_is_overloaded"


async def used_up(relays: Sequence[RelayProcess], key: str, limit: str, ratio: float) -> None:
    """Returns when some relay says that so much of the limit is used: all that ended is settled."""
    name = f'relay_key_limit_ratio{{key="{key}",limit="{limit}"}}'
    for _ in range(2000):
        told = [(await relay.metrics()).get(name, -1.0) for relay in relays]
        if any(abs(each - ratio) < 1e-9 for each in told):
            return
    raise AssertionError(f"{name} is {told}, not {ratio}")


async def run(site: Site, runs: int, calls: int, folder: Path) -> dict[str, Found]:
    """Every limit so many times, at one site."""
    provider = Provider()
    found = {limit.name: Found() for limit in LIMITS}
    async with provider.upstream:
        price: Any = {"input": PRICE, "output": PRICE}
        models = {"m": {"pool": [{"upstream": "a"}], "price": price}}
        fields = config({"a": provider.upstream}, models, keys(runs))
        async with site(fields, folder) as relays:
            crowd = Crowd(relays)
            await crowd.gather(calls)
            for number in range(runs):
                for limit in LIMITS:
                    await _play(crowd, relays, provider, limit, number, found[limit.name])
            await crowd.leave()
    return found


async def _play(
    crowd: Crowd,
    relays: Sequence[RelayProcess],
    provider: Provider,
    limit: Limit,
    number: int,
    found: Found,
) -> None:
    found.runs += 1
    key = key_of(limit, number)
    for wave, holds in enumerate((limit.holds, limit.gives_back)):
        admitted = await crowd.wave(key, found)
        found.overspent += max(0, len(admitted) - holds)
        found.refused += max(0, holds - len(admitted))
        provider.let_go()
        await asyncio.gather(*(client.rest(timeout=60) for client in admitted))
        if wave == 0:
            half = limit.holds * NEED / 2 / (limit.holds * NEED)
            left = {"concurrent": 0.0, "requests_per_day": 1.0}.get(limit.name, half)
            await used_up(relays, f"{limit.name}-{number}", limit.name, left)


def line(site: str, limit: str, found: Found) -> str:
    return json.dumps({"site": site, "limit": limit, **vars(found)})
