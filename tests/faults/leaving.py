"""How soon the upstream is let go when the client leaves, in every phase of a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.faults.stage import DAY
from tests.rig import scripts as say
from tests.rig.deadlines import within
from tests.rig.raw_client import KEY, RawClient, chat_body, request
from tests.rig.relay_process import Fields, Line, RelayProcess, config
from tests.rig.scripts import Gate, Script, Stall
from tests.rig.upstream import Exchange, Request, Upstream

Leave = Literal["close", "reset", "half_close"]
LEAVES: tuple[Leave, ...] = ("close", "reset", "half_close")

PROMPT = 0.25
"""Seconds within which the upstream must be let go."""

HERE = Gate("here")
MUTE: Script = [HERE, Stall()]


@dataclass(frozen=True, slots=True)
class Phase:
    script: Script
    stream: bool = True
    seen: int = 0
    """Events that the client has got by then; none: the call has not committed."""
    sent: bool = True
    """The request has reached the upstream."""


PHASES: dict[str, Phase] = {
    # "queued" has its place here: a call that waits for a free place at its upstream.
    "connecting": Phase(MUTE, sent=False),
    "before the head": Phase(MUTE),
    "before the first token": Phase(say.sse([say.ROLE], HERE, Stall())),
    "mid-stream, silent": Phase(say.sse(say.EVENTS[:3], HERE, Stall()), seen=3),
    "inside an event": Phase(say.sse([*say.EVENTS[:3], b"data: {"], HERE, Stall()), seen=3),
    "plain, before the answer": Phase(MUTE, stream=False),
}


class Door(asyncio.Protocol):
    """Takes connections, answers no TLS hello, and knows when each was left."""

    def __init__(self, came: asyncio.Queue[Door]) -> None:
        self._came = came
        self.gone = asyncio.Event()
        self.gone_at = 0.0

    def data_received(self, data: bytes) -> None:
        self._came.put_nowait(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone_at = asyncio.get_running_loop().time()
        self.gone.set()

    async def left(self) -> float:
        async with within():
            await self.gone.wait()
        return self.gone_at


@dataclass(slots=True)
class Bench:
    """A relay with an upstream for each phase."""

    relay: RelayProcess
    upstream: Upstream
    came: asyncio.Queue[Door]
    measured: dict[str, list[float]] = field(default_factory=dict)

    async def leave(self, name: str, leave: Leave) -> tuple[float, Line]:
        """One call whose client leaves in this phase: seconds until the upstream was let go, and the log line."""
        phase = PHASES[name]
        asked = len(self.upstream.exchanges)
        async with await RawClient.connect(self.relay.address) as client:
            body = chat_body(model=_model(name), stream=phase.stream)
            await client.send(request("POST", "/v1/chat/completions", body))
            peer = await self._reached(phase, asked)
            if phase.seen:
                await client.head()
                for event in say.EVENTS[: phase.seen]:
                    assert await client.event() == event
            left = asyncio.get_running_loop().time()
            if leave == "half_close":
                client.half_close()
            else:
                await getattr(client, leave)()
            gone = await peer.left()
        number = sum(map(len, self.measured.values()))
        self.measured.setdefault(name, []).append(gone - left)
        line = await self.relay.call(lambda line: self.relay.calls.index(line) >= number)
        return gone - left, line

    async def _reached(self, phase: Phase, asked: int) -> Exchange | Door:
        if not phase.sent:
            async with within():
                return await self.came.get()
        exchange = await self.upstream.exchange(asked)
        await exchange.reached("here")
        return exchange


def _model(name: str) -> str:
    return f"m{list(PHASES).index(name)}"


def _answer(asked: Request) -> Script:
    return list(PHASES.values())[int(asked.json()["model"][1:])].script


@asynccontextmanager
async def bench(directory: Path) -> AsyncIterator[Bench]:
    came: asyncio.Queue[Door] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    door = await loop.create_server(lambda: Door(came), "127.0.0.1", 0)
    port = door.sockets[0].getsockname()[1]
    closed: Fields = {"base_url": f"https://127.0.0.1:{port}/v1", "timeouts": {"connect": "60s"}}
    keys = [{"id": "tester", "key": KEY, "limits": {"tokens_per_day": DAY, "concurrent": 1}}]
    async with door, Upstream(_answer) as upstream:
        models = {
            _model(name): {"pool": [{"upstream": "open" if phase.sent else "closed"}]}
            for name, phase in PHASES.items()
        }
        fields = config({"open": upstream, "closed": closed}, models, keys)
        async with RelayProcess(fields, directory) as relay:
            yield Bench(relay, upstream, came)


def complaints(name: str, line: Line) -> list[str]:
    """What is wrong with the record of a call whose client left."""
    phase = PHASES[name]
    wanted = {
        "outcome": "client_cancelled",
        "code": 200 if phase.seen else 499,
        "cause": "client_gone" if phase.seen else None,
        "events": phase.seen if phase.stream else None,
        "source": "estimated" if phase.sent else None,
        "output_tokens": phase.seen if phase.sent else None,
    }
    found = {key: line.get(key) for key in wanted}
    results = [item["result"] for item in line["attempts"]]
    wrong = [f"{key}: {found[key]}" for key in wanted if found[key] != wanted[key]]
    return wrong if results == ["cancelled"] else [*wrong, f"attempts: {results}"]


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
