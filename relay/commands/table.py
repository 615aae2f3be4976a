"""A table as text: columns that stand under each other also where a name is Chinese."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Final

GAP: Final = "  "
NOTHING: Final = "-"
"""In a cell for which there is no value."""


def render(head: Sequence[str], rows: Sequence[Sequence[str]], rule_before_last: bool) -> str:
    """The first column is text, the others are numbers; the last row may be a total under a rule."""
    widths = [max(width(row[at]) for row in (head, *rows)) for at in range(len(head))]
    lines = [_line(row, widths) for row in (head, *rows)]
    if rule_before_last:
        lines.insert(-1, GAP.join("-" * each for each in widths))
    return "\n".join(lines)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first = row[0] + " " * (widths[0] - width(row[0]))
    rest = (
        " " * (most - width(cell)) + cell for cell, most in zip(row[1:], widths[1:], strict=True)
    )
    return GAP.join((first, *rest)).rstrip()


def width(text: str) -> int:
    """Columns that a terminal gives to a text: two for a Chinese character, none for a combining mark."""
    columns = 0
    for character in text:
        if unicodedata.combining(character):
            continue
        columns += 2 if unicodedata.east_asian_width(character) in "WF" else 1
    return columns


def cut(text: str, most: int) -> str:
    """A text of at most so many columns; an ellipsis stands for what was cut off."""
    if width(text) <= most:
        return text
    while text and width(text) >= most:
        text = text[:-1]
    return text + "…" if most > 0 else ""
