"""A terminal of which the whole is used for a while, and which is then as it was before.

Rules that hold here:
- whatever ends the command, the lines, the cursor and the modes that were there come back (`close`, and twice is once);
- a line never takes more columns than there are, and holds no command of somebody else's;
- a terminal that is not told how (`TERM=dumb`) gets one picture under the other.
"""

from __future__ import annotations

import codecs
import os
import sys
import termios
import tty
from collections.abc import Mapping, Sequence
from shutil import get_terminal_size
from typing import Any, Final, Literal

from relay.commands.table import cut

Look = Literal["plain", "bad", "warn", "good", "soft", "head"]
Line = tuple[str, Look]

COLOURS: Final[Mapping[Look, str]] = {
    "bad": "\x1b[1;31m",
    "warn": "\x1b[33m",
    "good": "\x1b[32m",
    "soft": "\x1b[2m",
    "head": "\x1b[1m",
}
RESET: Final = "\x1b[0m"
ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[2J"
"""The alternate screen, without a cursor, empty."""
LEAVE: Final = "\x1b[?25h\x1b[?1049l"


def shown(line: str, columns: int) -> str:
    """As it may be written: names come from a file, reasons from a server."""
    return cut("".join(one if one.isprintable() else "?" for one in line), columns)


class Screen:
    """stdin and stdout. Lives from `open` to `close`."""

    def __init__(self) -> None:
        term = os.environ.get("TERM", "")
        self.full = sys.stdout.isatty() and term not in ("", "dumb")
        """Commands of a terminal are understood."""
        self._colours = self.full and not os.environ.get("NO_COLOR")
        self._modes: list[Any] | None = None
        self._open = False

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        found = get_terminal_size()
        return found.columns, found.lines

    def open(self) -> None:
        if not self.full or self._open:
            return
        self._open = True
        if sys.stdin.isatty():
            self._modes = termios.tcgetattr(sys.stdin)
            # Keys come one by one and unseen; Ctrl-C stays a signal.
            tty.setcbreak(sys.stdin)
        self._write(ENTER)

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        if self._modes is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._modes)
        self._write(LEAVE)

    def paint(self, lines: Sequence[Line]) -> None:
        columns, rows = self.size
        if not self.full:
            self._write("".join(f"{shown(text, columns)}\n" for text, _ in (*lines, ("", "plain"))))
            return
        # Over what stands there, line by line: an emptied screen would flicker. A line is emptied before it is
        # written: after it, the cursor may stand on its last sign.
        drawn = [f"\x1b[K{self._drawn(line, columns)}" for line in lines[:rows]]
        self._write("\x1b[H" + "\n".join(drawn) + "\x1b[J")

    def _drawn(self, line: Line, columns: int) -> str:
        text, look = line
        colour = COLOURS.get(look) if self._colours else None
        text = shown(text, columns)
        return text if colour is None else f"{colour}{text}{RESET}"

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def speaks_unicode() -> bool:
    """Whether stdout can show signs beyond ASCII."""
    return codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"
