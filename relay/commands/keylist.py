"""`relay keys list`: every key, what it may, and in which state it is. Prints as it reads: 100,000 take no memory."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from time import time
from typing import TYPE_CHECKING, Final

from relay.commands.terms import OK, Command, Failure, config_path, say

if TYPE_CHECKING:
    from relay.keys.survey import Row

HEADINGS: Final = ("ID", "STATE", "EXPIRES", "GROUP", "MODELS", "LIMITS", "PLACE")
MEASURED: Final = 1000
"""Rows that the widths of the columns are made for."""
WIDEST: Final = 40
"""Characters a column is made wide for; a longer text pushes the rest to the right."""

Line = tuple[str, ...]


def keys(arguments: argparse.Namespace) -> int:
    from relay.config.faults import ConfigErrors
    from relay.config.values import read_duration
    from relay.keys.survey import survey

    path, now = config_path(arguments), time()
    try:
        within = None if arguments.expiring is None else read_duration(arguments.expiring)
    except ValueError as error:
        raise Failure(f"--expiring {error}") from None
    try:
        rows: Iterator[Row] = survey(path, os.environ, now)
        if within is not None:
            rows = (row for row in rows if row.expires and row.expires.timestamp() <= now + within)
        if arguments.group is not None:
            rows = (row for row in rows if row.group == arguments.group)
        if arguments.json:
            _as_json(rows)
        else:
            for line in _table(_line(row, now) for row in rows):
                say(line)
    except ConfigErrors as errors:
        raise Failure(str(errors.faults[0])) from None
    return OK


def _as_json(rows: Iterable[Row]) -> None:
    """A list with a line for each key."""
    out, start = sys.stdout, "[\n"
    for row in rows:
        out.write(f"{start}{json.dumps(row.as_json(), ensure_ascii=False)}")
        start = ",\n"
    out.write("[]\n" if start == "[\n" else "\n]\n")


def _line(row: Row, now: float) -> Line:
    expires = (
        "-"
        if row.expires is None
        else f"{row.expires_text} ({_away(row.expires.timestamp() - now)})"
    )
    return (
        row.id,
        row.state,
        expires,
        row.group or "-",
        " ".join(row.models) or "-",
        row.limits_text or "-",
        row.place,
    )


def _away(seconds: float) -> str:
    """How long that is, roughly."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if abs(seconds) >= length:
            count = f"{abs(seconds) / length:.0f}{unit}"
            break
    else:
        count = f"{abs(seconds):.0f}s"
    return f"in {count}" if seconds > 0 else f"{count} ago"


def _table(lines: Iterator[Line]) -> Iterator[str]:
    first = [HEADINGS, *islice(lines, MEASURED)]
    widths = [
        min(WIDEST, max(len(line[column]) for line in first)) for column in range(len(HEADINGS))
    ]
    for line in chain(first, lines):
        cells = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--json", action="store_true", help="a JSON list, a line for each key")
    add("--expiring", metavar="TIME", help="only what expires within this, such as 30d, or has")
    add("--group", metavar="NAME", help="only keys of this group")


COMMANDS: Final = (Command(("keys", "list"), "show keys, without secrets", keys, _options),)
