"""A bar on stderr, in one line that is written anew, where somebody looks; nothing elsewhere."""

from __future__ import annotations

import os
import sys
from shutil import get_terminal_size
from time import monotonic
from typing import Final

from relay.commands.table import cut

CELLS: Final = 24
OFTEN: Final = 0.1
"""Seconds between two pictures at least."""


class Progress:
    """Of so many things; `close` takes the line away."""

    def __init__(self, whole: int) -> None:
        self._whole = whole
        self._shown = -OFTEN
        self._seen = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def show(self, done: int, told: str) -> None:
        now = monotonic()
        if not self._seen or (now - self._shown < OFTEN and done < self._whole):
            return
        self._shown = now
        full = CELLS * done // max(1, self._whole)
        line = f"[{'#' * full}{'.' * (CELLS - full)}] {done}/{self._whole}  {told}"
        self._write(cut(line, get_terminal_size().columns - 1))

    def close(self) -> None:
        if self._seen:
            self._write("")

    def _write(self, line: str) -> None:
        sys.stderr.write(f"\r{line}\x1b[K")
        sys.stderr.flush()
