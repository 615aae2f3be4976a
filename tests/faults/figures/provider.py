"""A provider in a process of its own, which can be killed, stopped, and told to misbehave; and comes back where it was.

Run as `python -m tests.faults.figures.provider PORT` it prints its port, reads its manners from stdin, one a line
(`good`, `503`, `stall`), and ends with stdin.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from types import TracebackType
from typing import Self

from tests.rig import scripts as say
from tests.rig.scripts import Pause, Script, Send, Stall, Step
from tests.rig.upstream import Request, Upstream
from tests.rig.upstream_process import spawned

TTFT = 0.03
"""Seconds before the first word."""
PACE = 0.02
"""Seconds between two words."""


class Provider:
    def __init__(self) -> None:
        self.port = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self) -> None:
        """On its port, if it had one before."""
        module = "tests.faults.figures.provider"
        self._process, self.port = await spawned(module, str(self.port))

    async def fail(self, how: str) -> None:
        """`kill` (-9), `stop` (SIGSTOP), `503`, or `stall` (a head, and nothing more)."""
        if how == "kill":
            await self._end()
        elif how == "stop":
            self._signal(signal.SIGSTOP)
        else:
            self._tell(how)

    async def revive(self, how: str) -> None:
        if how == "kill":
            await self.start()
        elif how == "stop":
            self._signal(signal.SIGCONT)
        else:
            self._tell("good")

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _tell(self, manners: str) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(f"{manners}\n".encode())

    async def _end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.communicate()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end()


class Manners:
    def __init__(self) -> None:
        self.now = "good"

    def answer(self, request: Request) -> Script:
        if request.head.startswith(b"GET "):
            listing = say.plain(200, {"object": "list", "data": []})
            return listing if self.now == "good" else self._bad()
        return paced() if self.now == "good" else self._bad()

    def _bad(self) -> Script:
        return say.error(503) if self.now == "503" else [Send(say.SSE_HEAD), Stall()]


def paced(ttft: float = TTFT, pace: float = PACE) -> Script:
    """A streamed answer as a quick model writes it."""
    steps: list[Step] = [Send(say.SSE_HEAD), Pause(ttft)]
    for item in say.EVENTS:
        steps += [Send(say.frame(item))]
        if item in say.WORDS:
            steps += [Pause(pace)]
    return [*steps, Send(say.LAST_CHUNK)]


async def serve(port: int) -> None:
    manners = Manners()
    upstream = Upstream(manners.answer)
    upstream.port = port
    async with upstream:
        sys.stdout.write(f"{upstream.port}\n")
        sys.stdout.flush()
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            manners.now = line.decode().strip()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
