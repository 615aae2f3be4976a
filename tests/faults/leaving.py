"""How soon the upstream is let go when the client leaves, in every phase of a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.faults.stage import DAY
from tests.rig import scripts as say
from tests.rig.deadlines import within
from tests.rig.raw_client import KEY, RawClient, chat_body, get, request
from tests.rig.relay_process import Fields, Line, RelayProcess, Upstreams, config
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
    upstream: str = "open"
    """`narrow` has one place, which is taken, and `closed` never ends a handshake: neither gets the request."""

    @property
    def sent(self) -> bool:
        return self.upstream == "open"


PHASES: dict[str, Phase] = {
    "queued": Phase(MUTE, upstream="narrow"),
    "connecting": Phase(MUTE, upstream="closed"),
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
        """One call whose client leaves in this phase: seconds until the upstream was let go, and the log line.

        Of a call that is queued there is no upstream to let go: what is measured is the time until its record is read.
        """
        phase = PHASES[name]
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            if phase.upstream == "narrow":
                await stack.enter_async_context(self._taken())
            asked = len(self.upstream.exchanges)
            number = len(self.relay.calls)
            async with await RawClient.connect(self.relay.address) as client:
                body = chat_body(model=_model(name), stream=phase.stream)
                await client.send(request("POST", "/v1/chat/completions", body))
                peer = await self._reached(phase, asked)
                if phase.seen:
                    await client.head()
                    for event in say.EVENTS[: phase.seen]:
                        assert await client.event() == event
                left = loop.time()
                if leave == "half_close":
                    client.half_close()
                else:
                    await getattr(client, leave)()
                line = None
                if peer is None:
                    line = await self._record(name, number)
                    gone = loop.time()
                    assert len(self.upstream.exchanges) == asked, "it never got a place"
                else:
                    gone = await peer.left()
            self.measured.setdefault(name, []).append(gone - left)
            return gone - left, line or await self._record(name, number)

    async def _record(self, name: str, number: int) -> Line:
        """The record of the call to this phase's model, among those after the first `number`."""
        model = _model(name)
        return await self.relay.call(
            lambda line: (
                line.get("model") == model
                and any(line is each for each in self.relay.calls[number:])
            )
        )

    async def _reached(self, phase: Phase, asked: int) -> Exchange | Door | None:
        if phase.upstream == "closed":
            async with within():
                return await self.came.get()
        if phase.upstream == "narrow":
            # When the relay has answered this, it has read what was sent before.
            assert (await get(self.relay.address, "/v1/models")).status == 200
            return None
        exchange = await self.upstream.exchange(asked)
        await exchange.reached("here")
        return exchange

    @asynccontextmanager
    async def _taken(self) -> AsyncIterator[None]:
        """Another call has the one place of the narrow upstream, and gives it back at the end."""
        asked = len(self.upstream.exchanges)
        number = len(self.relay.calls)
        async with await RawClient.connect(self.relay.address) as client:
            await client.send(request("POST", "/v1/chat/completions", chat_body(model="holder")))
            exchange = await self.upstream.exchange(asked)
            await exchange.reached("here")
            yield
        await exchange.left()
        await self.relay.call(
            lambda line: (
                line.get("model") == "holder"
                and any(line is each for each in self.relay.calls[number:])
            )
        )


def _model(name: str) -> str:
    return f"m{list(PHASES).index(name)}"


def _answer(asked: Request) -> Script:
    name = asked.json()["model"]
    return MUTE if name == "holder" else list(PHASES.values())[int(name[1:])].script


@asynccontextmanager
async def bench(directory: Path) -> AsyncIterator[Bench]:
    came: asyncio.Queue[Door] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    door = await loop.create_server(lambda: Door(came), "127.0.0.1", 0)
    port = door.sockets[0].getsockname()[1]
    closed: Fields = {"base_url": f"https://127.0.0.1:{port}/v1", "timeouts": {"connect": "60s"}}
    keys = [{"id": "tester", "key": KEY, "limits": {"tokens_per_day": DAY, "concurrent": 2}}]
    async with door, Upstream(_answer) as upstream:
        models = {
            _model(name): {"pool": [{"upstream": phase.upstream}]} for name, phase in PHASES.items()
        }
        models["holder"] = {"pool": [{"upstream": "narrow"}]}
        narrow: Fields = {"base_url": upstream.base_url, "max_concurrent": 1}
        upstreams: Upstreams = {"open": upstream, "closed": closed, "narrow": narrow}
        fields = config(upstreams, models, keys)
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
    results = [item["result"] for item in line.get("attempts", [])]
    wrong = [f"{key}: {found[key]}" for key in wanted if found[key] != wanted[key]]
    expected = [] if phase.upstream == "narrow" else ["cancelled"]
    return wrong if results == expected else [*wrong, f"attempts: {results}"]


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
