"""Where the members of a JSON object stand in its bytes.

For byte-level edits: what is not edited keeps its spelling. Works only on JSON that msgspec has accepted (it does not
validate), looks at one level only, gives duplicates their due, and leaves the skipping of nested values to
msgspec, so that a hostile body costs C time, not Python time.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

MOST_MEMBERS: Final = 1024
"""Requests and events have some twenty. Each costs a microsecond or two here: a hostile body must not buy millions."""

_skip = msgspec.json.Decoder(msgspec.Raw).decode
_AFTER_VALUE = re.compile(r"trailing characters \(byte (\d+)\)")
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_KEY = re.compile(rb"[ \t\n\r]*+(" + _STRING + rb")[ \t\n\r]*+:[ \t\n\r]*+")
_SCALAR = re.compile(rb"(?:" + _STRING + rb"|[-+.0-9A-Za-z]++)[ \t\n\r]*+")


UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)
"""What msgspec raises for bad JSON: its own error, bad UTF-8 (a ValueError), nesting beyond the stack."""


class TooManyMembers(ValueError):
    """The object has more members than any honest one."""


class Member(NamedTuple):
    """One `"key": value` by its offsets."""

    key: bytes
    """As spelled, without its quotes."""
    start: int
    """Where the key's first quote stands."""
    value: int
    end: int
    """Where the comma or the brace after the value stands."""


def members(data: bytes, at: int = 0) -> list[Member]:
    """The members of the object that begins at the first `{` from `at` on, in their order."""
    at = data.index(b"{", at) + 1
    found: list[Member] = []
    while key := _KEY.match(data, at):
        if len(found) == MOST_MEMBERS:
            raise TooManyMembers
        value = key.end()
        scalar = _SCALAR.match(data, value)
        end = _end_of_container(data, value) if scalar is None else scalar.end()
        found.append(Member(key[1][1:-1], key.start(1), value, end))
        if data[end] == 0x7D:  # }
            break
        at = end + 1
    return found


def _end_of_container(data: bytes, at: int) -> int:
    """The offset of what follows the array or object at `at` and the blanks after it.

    msgspec cannot decode one value out of many, but it says where what it did not expect begins, counted from one.
    """
    try:
        _skip(memoryview(data)[at:])
    except msgspec.DecodeError as error:
        trailing = _AFTER_VALUE.search(str(error))
        if trailing is None:
            raise
        return at + int(trailing[1]) - 1
    raise ValueError("a value inside an object is followed by a comma or a brace")


def cuts(found: list[Member], key: bytes) -> list[tuple[int, int]]:
    """The ranges to cut out, in order, so that every member of that key is gone and its comma with it."""
    kept = len(found)
    while kept and found[kept - 1].key == key:
        kept -= 1
    ranges = [
        (member.start, following.start)
        for member, following in pairwise(found[: kept + 1])
        if member.key == key
    ]
    if kept < len(found):
        # The last ones: they take the comma before them along, if any member stays before it.
        ranges.append((found[kept - 1].end if kept else found[0].start, found[-1].end))
    return ranges
