"""JSON lines as `key_files` are written: read some at a time, taken apart with every fault, and told with their places.

No message shows a text that may be a key.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from relay.config.faults import Fault, Loc, path_of

LARGEST_FILE: Final = 512 * 1024 * 1024
"""Bytes; about two million keys."""
LONGEST_LINE: Final = 64 * 1024
"""Bytes. A key with a thousand patterns is shorter."""
MOST_TOLD: Final = 50
"""Faulty lines of one file that are told in full; the rest is counted."""
BATCH: Final = 8 * 1024
"""Bytes that are read between two breaths: some forty keys, a fifth of a millisecond."""


BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
"""Some editors put it in front."""

Problem = tuple[Loc, str]
"""Place in the line, sentence."""


class Unreadable(Exception):
    """A file that cannot be read at all; the message says why."""


class Wrong(Exception):
    """A line that is no key."""

    def __init__(self, found: list[Problem]) -> None:
        self.found = found


def batches(path: Path) -> Iterator[list[bytes]]:
    """The lines of a file, some at a time. Raises Unreadable."""
    try:
        # A pipe must not make us wait for its other end.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            known = os.fstat(handle)
            if not stat.S_ISREG(known.st_mode):
                raise Unreadable("cannot be read: it is not a file")
            if known.st_size > LARGEST_FILE:
                raise Unreadable(f"is larger than {LARGEST_FILE >> 20} MiB")
            lines = file.readlines(BATCH)
            if lines:
                lines[0] = lines[0].removeprefix(BYTE_ORDER_MARK)
            while lines:
                yield lines
                lines = file.readlines(BATCH)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it cannot be read"
        raise Unreadable(f"cannot be read: {reason}") from None


def parse(text: bytes) -> dict[str, Any]:
    """A line as values. Raises Wrong."""
    shape = 'must be a JSON object, such as {"id": "shop", "hash": "sha256:…"}'
    if len(text) > LONGEST_LINE:
        raise Wrong([((), f"is longer than {LONGEST_LINE >> 10} KiB")])
    if not text.startswith(b"{"):
        raise Wrong([((), shape)])
    try:
        msgspec.json.decode(text)
        twice: list[Problem] = []
        data: dict[str, Any] = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, twice))
    except (msgspec.MsgspecError, ValueError) as error:
        raise Wrong([((), _broken(error))]) from None
    except RecursionError:
        raise Wrong([((), "is nested too deep")]) from None
    if twice:
        raise Wrong(twice)
    return data


def _broken(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "is not UTF-8 text"
    at = re.search(r"\(byte ([0-9]+)\)", str(error))
    place = f" (at its byte {int(at[1]) + 1})" if at else ""
    return f"is not JSON{place}: one object per line, names and texts in double quotes"


def _once(pairs: list[tuple[str, Any]], twice: list[Problem]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            twice.append(((name,), f"'{name}' is given twice"))
        found[name] = value
    return found


def variables(data: Mapping[str, Any]) -> Iterator[Problem]:
    """In this file `${KEY}` would be a key that anybody can guess."""
    for name, value in data.items():
        texts = value if isinstance(value, list) else [value]
        if any(isinstance(text, str) and "${" in text for text in texts):
            yield (name,), "has a ${: variables are not put into key files"


class Report:
    """The faults of one file: the first lines that have any in full, of the rest how many there are."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._told: list[Fault] = []
        self._lines = 0
        self._last = 0

    @property
    def full(self) -> bool:
        """What comes now is counted only."""
        return self._lines >= MOST_TOLD

    def add(self, number: int, line: bytes, problems: Sequence[Problem]) -> None:
        self._lines += 1
        if self._lines > MOST_TOLD:
            self._last = self._last or number
            return
        for loc, sentence in problems:
            column = _column(line, loc)
            self._told.append(Fault(self._file, number, column, sentence, path_of(loc)))

    def faults(self) -> list[Fault]:
        more = self._lines - MOST_TOLD
        if more > 0:
            others = (
                f", and so {'has' if more == 2 else 'have'} {more - 1:,} more" if more > 1 else ""
            )
            self._told.append(Fault(self._file, self._last, 1, f"has faults{others}"))
        return self._told


def _column(line: bytes, loc: Loc) -> int:
    """Where the option is written; where the line begins if it is not."""
    at = 0
    for part in loc:
        if isinstance(part, str):
            found = re.compile(rb'"%b"\s*:' % re.escape(part.encode())).search(line, at)
            if found is None:
                break
            at = found.start()
    # Columns count signs, not bytes.
    return len(line[:at].decode("utf-8", "replace")) + 1
