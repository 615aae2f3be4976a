"""What open pages cost a relay: `python -m tests.page.cost [--pages 100] [--seconds 10]`.

A relay of one process with twenty upstreams and a thousand keys that have limits and have called. Its CPU time is the
kernel's, without pages, with one, and with all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.rig import RelayProcess, Upstream, chat, config
from tests.rig.raw_client import request

UPSTREAMS = 20
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time of the relay, milliseconds for each second."""

    idle: float
    one: float
    """With one page."""
    all: float
    pages: int
    bytes: float
    """A page is sent in a second."""

    @property
    def page(self) -> float:
        return (self.all - self.one) / (self.pages - 1)


def cpu(pid: int) -> float:
    """Seconds of a process so far, in steps of the kernel's ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


class Page:
    """A page that reads all it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.received = 0

    async def read_on(self) -> None:
        self._writer.write(request("GET", "/events", key=None))
        try:
            while data := await self._reader.read(1 << 16):
                self.received += len(data)
        finally:
            self._writer.close()


async def measured(folder: Path, pages: int, seconds: float, keys: int) -> Cost:
    given = [
        {"id": f"app-{n}", "key": f"sk-{n:020}", "limits": {"rpm": 100, "tpm": 10**6}}
        for n in range(keys)
    ]
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(Upstream())
        fields = config({f"upstream-{n}": upstream for n in range(UPSTREAMS)}, None, given)
        fields["server"]["workers"] = 1
        relay = await stack.enter_async_context(RelayProcess(fields, folder))
        for key in given:
            await chat(relay.address, key=str(key["key"]))
        opened: list[Page] = []
        reading: list[asyncio.Task[None]] = []

        async def spent() -> float:
            before = cpu(relay.pid)
            await asyncio.sleep(seconds)
            return (cpu(relay.pid) - before) / seconds * 1000

        async def open_until(count: int) -> None:
            while len(opened) < count:
                opened.append(Page(*await asyncio.open_connection(*relay.admin)))
                reading.append(asyncio.get_running_loop().create_task(opened[-1].read_on()))

        idle = await spent()
        await open_until(1)
        one = await spent()
        await open_until(pages)
        before = [page.received for page in opened]
        everyone = await spent()
        # The one that was told least: all of them are told.
        news = [page.received - had for page, had in zip(opened, before, strict=True)]
        received = min(news) / seconds
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        return Cost(idle, one, everyone, pages, received)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.page.cost", description=__doc__)
    parser.add_argument("--pages", type=int, default=100)
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cost = asyncio.run(measured(Path(folder), given.pages, given.seconds, given.keys))
    sys.stdout.write(
        f"CPU, ms a second: without pages {cost.idle:.1f}, with one {cost.one:.1f}, "
        f"with {cost.pages} {cost.all:.1f}; a further page {cost.page:.3f}; "
        f"{cost.bytes / 1000:.1f} kB/s a page\n"
    )


if __name__ == "__main__":
    main()
