"""Numbers of some calls together, and when their first tokens came: additive, so that seconds and processes add up.

Times go into buckets of ten per cent; a percentile is the middle of its bucket, and so within five per cent.
"""

from __future__ import annotations

from math import log
from typing import Final

import msgspec

FINEST: Final = 0.001
"""Seconds of the first bucket."""
_STEP: Final = 1.1
_SCALE: Final = 1 / log(_STEP)
LAST: Final = 145
"""The bucket of 1,000 seconds and more."""


def bucket(seconds: float) -> int:
    """0 is up to a millisecond."""
    if seconds <= FINEST:
        return 0
    return min(int(log(seconds / FINEST) * _SCALE) + 1, LAST)


def middle(number: int) -> float:
    """Seconds that a bucket stands for."""
    return FINEST * float(_STEP ** (number - 0.5))


def percentile(times: dict[int, int], share: float) -> float | None:
    """Seconds that `share` of the times does not exceed; None without any."""
    left = sum(times.values()) * share
    if left <= 0:
        return None
    for number in sorted(times):
        left -= times[number]
        if left <= 0:
            return middle(number)
    return middle(max(times))


def later_than(times: dict[int, int], seconds: float) -> float | None:
    """Which share of the times is longer; None without any."""
    count = sum(times.values())
    if not count:
        return None
    return sum(times[number] for number in times if middle(number) > seconds) / count


class Sums(msgspec.Struct, array_like=True):
    """Of the calls of a process, or of the attempts at an upstream."""

    calls: int = 0
    failed: int = 0
    refused: int = 0
    """Of an upstream: by 429."""
    cancelled: int = 0
    tokens: int = 0
    """Output."""
    written: int = 0
    """Of these, the ones of streams."""
    writing: float = 0.0
    """Seconds between first token and end, of all streams together."""
    cost: int = 0
    """Nano-dollars."""
    ttft: dict[int, int] = {}
    """Streams by bucket."""

    def add(self, other: Sums, sign: int = 1) -> None:
        """`sign` -1 takes away what was added before."""
        self.calls += sign * other.calls
        self.failed += sign * other.failed
        self.refused += sign * other.refused
        self.cancelled += sign * other.cancelled
        self.tokens += sign * other.tokens
        self.written += sign * other.written
        self.writing += sign * other.writing
        self.cost += sign * other.cost
        times = self.ttft
        for number, count in other.ttft.items():
            left = times.get(number, 0) + sign * count
            if left > 0:
                times[number] = left
            else:
                times.pop(number, None)

    def copy(self) -> Sums:
        made = Sums()
        made.add(self)
        return made

    def began(self, seconds: float) -> None:
        """A stream's first token came after so long."""
        number = bucket(seconds)
        times = self.ttft
        times[number] = times.get(number, 0) + 1
