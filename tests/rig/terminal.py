"""A command under a real terminal: what it writes there, what is typed, and the modes it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from tests.rig.deadlines import within
from tests.rig.relay_process import PACKAGE

PICTURE = re.compile(r"\x1b\[H(.*?)\x1b\[J", re.DOTALL)
ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[78=>])")


class Terminal:
    """`relay WORDS` with stdin, stdout and stderr at a pseudo terminal. Leaving the `async with` kills it."""

    def __init__(
        self,
        *words: str,
        size: tuple[int, int] = (30, 110),
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`size`: lines and columns."""
        self._words = words
        self._size = size
        self._env = {"PATH": os.environ["PATH"], "PYTHONPATH": PACKAGE, "TERM": "xterm"}
        self._env |= dict(env or {})
        self._ours = self._theirs = -1
        self._changed = asyncio.Event()
        self.raw = ""
        """All that came."""
        self.modes: object = None
        """Before the command was started."""
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._ours, self._theirs = pty.openpty()
        self._set_size(*self._size)
        self.modes = termios.tcgetattr(self._theirs)
        asyncio.get_running_loop().add_reader(self._ours, self._read)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relay", *self._words),
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env=self._env,
            start_new_session=True,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        asyncio.get_running_loop().remove_reader(self._ours)
        os.close(self._ours)
        os.close(self._theirs)
        if error is not None:
            print(f"--- the terminal\n{self.text()}", file=sys.stderr)

    def text(self, start: int = 0) -> str:
        """What came from this offset of `raw` on, without the terminal's commands."""
        return ESCAPE.sub("", self.raw[start:])

    async def shows(self, text: str, start: int = 0) -> int:
        """Waits until this came after the offset; returns the offset of all that is to come."""
        async with within():
            while text not in self.text(start):
                await self.changed()
        return len(self.raw)

    async def paints(self, fits: Callable[[str], bool]) -> str:
        """Waits until the latest whole picture fits; returns it."""
        async with within():
            while not fits(self.picture):
                await self.changed()
        return self.picture

    @property
    def picture(self) -> str:
        whole = PICTURE.findall(self.raw)
        return ESCAPE.sub("", whole[-1]) if whole else ""

    async def changed(self) -> None:
        """Returns when more has come."""
        self._changed.clear()
        await self._changed.wait()

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def resize(self, lines: int, columns: int) -> None:
        """As a window does that is dragged. The session's leader is told by hand: it has no controlling terminal."""
        self._set_size(lines, columns)
        self.signal(signal.SIGWINCH)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def stopped(self) -> None:
        """Returns when it does not run: a signal to go on that came before would be lost."""
        assert self._process is not None
        async with within():
            await asyncio.to_thread(os.waitid, os.P_PID, self._process.pid, os.WSTOPPED)

    async def exit(self) -> int:
        assert self._process is not None
        async with within():
            code = await self._process.wait()
        self._read()
        return code

    @property
    def modes_now(self) -> object:
        return termios.tcgetattr(self._theirs)

    def _set_size(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _read(self) -> None:
        os.set_blocking(self._ours, False)
        with contextlib.suppress(BlockingIOError, OSError):
            while data := os.read(self._ours, 65536):
                self.raw += data.decode("utf-8", "replace")
        self._changed.set()
