"""Load for figures: calls at a rate or by several callers at once, and what each of them saw.

Here, unlike in a test, time is what is measured: calls begin when the clock says so.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from tests.rig.raw_client import KEY, Address, End, RawClient, chat_body, request
from tests.rig.relay_process import Fields, RelayProcess

PATIENCE = 60.0
"""Seconds a caller waits for its answer."""


@dataclass(slots=True)
class Seen:
    """One call as its caller saw it. Times are the loop's clock, in seconds."""

    began: float
    took: float = 0.0
    ttft: float | None = None
    """Until the first event with content; None when there was none."""
    status: int = 0
    whole: bool = False
    """It ended with `[DONE]` and the last chunk."""
    fault: str = ""
    request_id: str = ""
    attempts: int = 0
    upstream: str = ""
    """Both from the access log."""

    @property
    def good(self) -> bool:
        return self.status == 200 and self.whole


async def call(address: Address, *, key: str = KEY, **fields: Any) -> Seen:
    """One streamed call on a connection of its own."""
    loop = asyncio.get_running_loop()
    seen = Seen(loop.time())
    try:
        async with await RawClient.connect(address) as client:
            await client.send(request("POST", "/v1/chat/completions", chat_body(**fields), key=key))
            await client.head(timeout=PATIENCE)
            seen.status = client.status
            seen.request_id = client.headers.get("x-request-id", "")
            if client.status != 200:
                seen.fault = str((await client.rest()).error["code"])
            while client.status == 200 and (event := await client.event(PATIENCE)):
                if seen.ttft is None and b'"content":"' in event:
                    seen.ttft = loop.time() - seen.began
                seen.whole = event == b"data: [DONE]\n\n"
            end = (await client.rest()).end
            seen.whole = seen.whole and end is End.CLEAN
    except (OSError, EOFError, TimeoutError) as error:
        seen.fault = type(error).__name__
    seen.took = loop.time() - seen.began
    return seen


class Load:
    """Calls of one relay. Leaving the `async with` waits for those under way."""

    def __init__(self, relay: RelayProcess) -> None:
        self.relay = relay
        self.seen: list[Seen] = []
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, **fields: Any) -> asyncio.Task[None]:
        task = self._loop.create_task(self._one(fields))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def at_rate(self, rate: float, over: Callable[[], bool], **fields: Any) -> None:
        """`rate` calls a second, whether or not the ones before have ended, until `over` says so."""
        began = self._loop.time()
        number = 0
        while not over():
            await asyncio.sleep(max(0.0, began + number / rate - self._loop.time()))
            self.begin(**fields)
            number += 1

    async def ended(self) -> list[Seen]:
        """All calls, when each has ended and has its line in the access log."""
        await asyncio.gather(*self._tasks)
        wanted = {seen.request_id for seen in self.seen if seen.request_id}
        lines: dict[str, Fields] = {}

        def told() -> bool:
            lines.update({str(line["request_id"]): line for line in self.relay.calls[len(lines) :]})
            return wanted <= lines.keys()

        assert await until(told, PATIENCE), "a call has no line in the access log"
        for seen in self.seen:
            if seen.request_id in lines:
                line = lines[seen.request_id]
                seen.upstream = line.get("upstream") or ""
                seen.attempts = len(line.get("attempts") or ())
        return self.seen

    async def leave(self) -> None:
        """All callers under way hang up."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, fields: Fields) -> None:
        self.seen.append(await call(self.relay.address, **fields))


@asynccontextmanager
async def relay(fields: Fields) -> AsyncIterator[RelayProcess]:
    """A relay in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="relay-figures-") as folder:
        async with RelayProcess(fields, Path(folder)) as process:
            yield process


def quantile(values: Iterable[float], share: float) -> float:
    """The value that `share` of them do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else 0.0


def ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


async def until(there: Callable[[], bool], seconds: float) -> bool:
    """Looks at the clock and `there`; whether it came in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not there():
        if loop.time() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True
