"""A relay of several workers, and who serves whom: what the tests of workers have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.rig import Answer, Gate, RawClient, RelayProcess, Request, Upstream, chat
from tests.rig import scripts as say
from tests.rig.raw_client import KEY, chat_body, request
from tests.rig.relay_process import Fields, Line

HELD = say.sse(say.EVENTS[:3], Gate("end"), *say.sse(say.EVENTS[3:])[1:])
CHAT = request("POST", "/v1/chat/completions", chat_body())
MODELS = request("GET", "/v1/models")
MOST_CONNECTIONS = 200


def several(workers: int, fields: Fields) -> Fields:
    fields["server"]["workers"] = workers
    return fields


def limited(**limits: int) -> list[dict[str, Any]]:
    return [{"id": "tester", "key": KEY, "limits": limits}]


def started(name: str, pid: int = 0) -> Callable[[Line], bool]:
    """A line that says so, of another process than this one."""
    return lambda line: (
        line.get("event") == "process_started" and line["process"] == name and line["pid"] != pid
    )


async def pid_of(relay: RelayProcess, name: str) -> int:
    line = await relay.log(started(name))
    assert isinstance(line["pid"], int)
    return line["pid"]


def children_of(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")


def runs(pid: int) -> bool:
    return Path(f"/proc/{pid}/exe").exists()


def about(event: str, **fields: object) -> Callable[[Line], bool]:
    """A line of this event with these fields."""
    return lambda line: (
        line.get("event") == event
        and all(line.get(name) == value for name, value in fields.items())
    )


def worker_of(headers: dict[str, str]) -> str:
    """What all requests of one worker process have in common."""
    return headers["x-request-id"][:16]


async def introduced(relay: RelayProcess, stack: AsyncExitStack) -> tuple[str, RawClient]:
    """A connection, and which worker accepted it."""
    client = await stack.enter_async_context(await RawClient.connect(relay.address))
    answer = await client.ask(MODELS)
    return worker_of(answer.headers), client


async def gathered(relay: RelayProcess, stack: AsyncExitStack, most: int) -> list[RawClient]:
    """So many connections of one and the same worker."""
    found: dict[str, list[RawClient]] = {}
    for _ in range(MOST_CONNECTIONS):
        worker, client = await introduced(relay, stack)
        clients = found.setdefault(worker, [])
        clients.append(client)
        if len(clients) == most:
            return clients
    raise AssertionError("connections are not spread as expected")


async def spread(relay: RelayProcess, stack: AsyncExitStack, workers: int) -> list[RawClient]:
    """One connection for each worker."""
    found: dict[str, RawClient] = {}
    for _ in range(MOST_CONNECTIONS):
        worker, client = await introduced(relay, stack)
        found.setdefault(worker, client)
        if len(found) == workers:
            return list(found.values())
    raise AssertionError("connections are not spread as expected")


async def begun(client: RawClient) -> None:
    """A stream that has come as far as its gate."""
    await client.send(CHAT)
    await client.head()
    await client.event()


class Load:
    """An upstream's player that counts how many calls run at once."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0

    def __call__(self, asked: Request) -> list[say.Step]:
        self.running += 1
        self.most = max(self.most, self.running)
        rest = say.sse(say.EVENTS[3:])[1:]
        return say.sse(say.EVENTS[:3], say.Pause(0.05), say.Do(self._ends), *rest)

    def _ends(self) -> None:
        self.running -= 1


async def storm(relay: RelayProcess, calls: int, **fields: Any) -> list[Answer]:
    return await asyncio.gather(*(chat(relay.address, timeout=60, **fields) for _ in range(calls)))


async def shown(relay: RelayProcess, series: str, value: float) -> None:
    """Returns when the page says so; the scenario's own deadline ends the asking."""
    while (await relay.metrics()).get(series) != value:
        pass


def narrow(upstream: Upstream, most: int = 7, line: int = 0) -> Fields:
    """An upstream that takes so many calls at once, and for which so many may wait."""
    queue = {"max_calls": line, "max_wait": "20s"}
    return {"base_url": upstream.base_url, "max_concurrent": most, "queue": queue}
