"""A scripted upstream in a process of its own, so that it can be killed as the kernel kills: at
once, mid-byte.

Run as `python -m tests.rig.upstream_process`, it prints its port and then one line per request.
It answers every call with a stream whose words come `PACE` seconds apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from types import TracebackType
from typing import Self

from tests.rig import scripts as say
from tests.rig.deadlines import within
from tests.rig.relay_process import ROOT
from tests.rig.scripts import Do, Pause, Script, Send, Step
from tests.rig.upstream import Request, Upstream

PACE = 0.05
"""Seconds between two words, as a quick model writes."""


async def spawned(module: str, *args: str) -> tuple[asyncio.subprocess.Process, int]:
    """A Python process of this repository, and the port that it prints first."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *args),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with within():
        return process, int(await process.stdout.readline())


class UpstreamProcess:
    """`kill()` is kill -9. Leaving the `async with` kills it too."""

    def __init__(self) -> None:
        self.port = 0
        self.requests = 0
        self.begun = 0
        """Answers whose first word was written."""
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def has_begun(self, times: int) -> None:
        """Returns when it has written the first word of so many answers."""
        async with within(), self._changed:
            await self._changed.wait_for(lambda: self.begun >= times)

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)

    async def __aenter__(self) -> Self:
        self._process, self.port = await spawned("tests.rig.upstream_process")
        self._reader = asyncio.get_running_loop().create_task(self._count())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        assert self._reader is not None
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.kill()
        await self._reader
        await self._process.communicate()

    async def _count(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            async with self._changed:
                self.requests += line == b"request\n"
                self.begun += line == b"begun\n"
                self._changed.notify_all()


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def paced(request: Request) -> Script:
    tell("request")
    steps: list[Step] = [Send(say.SSE_HEAD)]
    for item in say.EVENTS:
        steps += [Pause(PACE), Send(say.frame(item))]
        if item == say.WORDS[0]:
            steps.append(Do(lambda: tell("begun")))
    return [*steps, Send(say.LAST_CHUNK)]


async def serve() -> None:
    """Runs until stdin closes, so that it never outlives the test that started it."""
    async with Upstream(paced) as upstream:
        tell(str(upstream.port))
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        await reader.read()


if __name__ == "__main__":
    asyncio.run(serve())
