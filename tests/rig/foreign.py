"""An OpenAI-compatible server that this project did not write: aimock, from npm, with canned answers.

It shares nothing with the relay, neither code nor author, so what passes between it and an SDK is a fair judge.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from types import TracebackType
from typing import Self

from tests.rig.deadlines import SCALE, within
from tests.rig.ports import free_port
from tests.rig.sdks import NODE, PACKAGES, TESTS, require

SERVER = PACKAGES / "@copilotkit" / "aimock"
FIXTURES = TESTS / "node" / "fixtures.json"


def alike(seen: object) -> str:
    """What was seen as text, without the names and times that every answer makes anew."""
    text = seen if isinstance(seen, str) else json.dumps(seen, sort_keys=True, ensure_ascii=False)
    text = re.sub(r'"(chatcmpl-|call_)[\w-]+"', r'"\1*"', text)
    return re.sub(r'"created": ?\d+', '"created": *', text)


class ForeignServer:
    """aimock as a process; `base_url` answers like OpenAI."""

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self._options = options
        self._process: asyncio.subprocess.Process | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> Self:
        require(NODE, SERVER)
        binary = PACKAGES / ".bin" / "llmock"
        self._process = await asyncio.create_subprocess_exec(
            *(str(NODE), str(binary), "-p", str(self.port), "-f", str(FIXTURES)),
            *self._options,
            env={"PATH": os.environ["PATH"]},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert self._process.stdout is not None
        try:
            async with within(20 * SCALE):
                while line := await self._process.stdout.readline():
                    if re.search(rb"listening|:%d" % self.port, line):
                        return self
        except TimeoutError:
            pass
        await self._stop()
        raise AssertionError("the foreign server did not start")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stop()

    async def _stop(self) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()
