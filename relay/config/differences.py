"""What an edit changes, as a unified diff without secrets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from difflib import SequenceMatcher
from itertools import islice
from typing import Final, TypeVar

S = TypeVar("S")

CONTEXT: Final = 3
"""Lines that are shown around a change."""
LONGEST_SHOWN: Final = 200
"""Changed lines that are shown; of an import nobody reads more."""

_KEY: Final = re.compile(r"\bsk-[A-Za-z0-9_-]{4,}")
_OPTION: Final = re.compile(r"""(\b(?:key|token)"?\s*:\s*)(?!["']?(?:\$\{|file:)|\s|$)[^\s].*""")
"""A secret as text; what names a variable or a file is none."""


def unified(
    name: str, before: Sequence[S], after: Sequence[S], show: Callable[[S], str]
) -> Iterator[str]:
    """The lines of a diff, in one hunk, since an edit changes one place; nothing if nothing is changed.

    Takes time for what changes only: a file of 100,000 lines is fine.
    """
    start = 0
    shortest = min(len(before), len(after))
    while start < shortest and before[start] == after[start]:
        start += 1
    if start == len(before) == len(after):
        return
    end = 0
    while end < shortest - start and before[-1 - end] == after[-1 - end]:
        end += 1
    first = max(0, start - CONTEXT)
    rest = min(end, CONTEXT)
    old = before[first : len(before) - end + rest]
    new = after[first : len(after) - end + rest]
    yield f"--- {name}"
    yield f"+++ {name}"
    yield f"@@ -{_span(first, len(old))} +{_span(first, len(new))} @@"
    lines = _hunk(list(map(show, old)), list(map(show, new)))
    yield from islice(lines, LONGEST_SHOWN)
    if next(lines, None) is not None:
        yield "… (more lines)"


def _span(first: int, count: int) -> str:
    return f"{first + 1 if count else first},{count}"


def _hunk(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    if min(len(old), len(new)) > LONGEST_SHOWN:
        # Beyond what is shown nobody sees what a comparison would take long to find.
        old, new = old[: LONGEST_SHOWN + 1], new[: LONGEST_SHOWN + 1]
    for kind, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            yield from (f" {veiled(line)}" for line in old[i:j])
        else:
            yield from (f"-{veiled(line)}" for line in old[i:j])
            yield from (f"+{veiled(line)}" for line in new[k:m])


def veiled(line: str) -> str:
    """A line without what may be a key, also in a comment."""
    return _OPTION.sub(r"\1…", _KEY.sub("sk-…", line.rstrip("\r")))
