"""Programs that a run starts: each pinned to its CPUs, in a process group of its own that ends with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

PATIENCE_S = 15.0
"""For a program to end after SIGTERM."""


class ProgramError(Exception):
    """A program that did not start, or ended when it should not."""


class Program:
    """A process and its descendants, for as long as the `with` block."""

    def __init__(
        self,
        command: Sequence[str],
        cpus: Collection[int],
        home: Path,
        env: Mapping[str, str] | None = None,
        stdout: Path | None = None,
    ) -> None:
        """Starts it in `home`, where its stderr goes into a file; its stdout too, unless it is to be read.

        Raises:
            ProgramError: it cannot be started.
        """
        home.mkdir(parents=True, exist_ok=True)
        self.said = home / "stderr.txt"
        here = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "TMPDIR": str(home),
        }
        with self.said.open("wb") as stderr, contextlib.ExitStack() as files:
            out: IO[bytes] | int = subprocess.PIPE
            if stdout is not None:
                out = files.enter_context(stdout.open("wb"))
            try:
                self._process = subprocess.Popen(
                    list(command),
                    cwd=home,
                    env=here | dict(env or {}),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=stderr,
                    start_new_session=True,
                    preexec_fn=lambda: os.sched_setaffinity(0, cpus),
                )
            except OSError as error:
                raise ProgramError(f"{Path(command[0]).name}: {error.strerror}") from error

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def first_line(self) -> bytes:
        """The first line it prints; waits for it."""
        assert self._process.stdout is not None
        line: bytes = self._process.stdout.readline()
        return line

    def last_words(self) -> str:
        """The end of what it said on stderr."""
        text = self.said.read_text("utf-8", "replace").strip()
        return text.splitlines()[-1][-300:] if text else "it said nothing"

    def stop(self) -> bytes:
        """Ends it and all that it started; what it had printed and nobody read."""
        if self.running:
            self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE_S)
        # Its session is its own: nothing but its descendants is in this group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        printed = self._process.stdout
        if printed is None or printed.closed:
            return b""
        with printed:
            rest: bytes = printed.read()
        return rest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def pause(seconds: float) -> None:
    """For programs that do not say when they are done."""
    time.sleep(seconds)
