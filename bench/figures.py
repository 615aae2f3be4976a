"""What was measured, as data: samples, and the medians and ranges that a report shows.

A ratio is made within a round, of two programs that were measured minutes apart at most; the median is taken of the
ratios. Absolute figures drift with the machine, ratios much less.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

import msgspec

from bench.machine import Machine
from bench.tools import Report


class Sample(msgspec.Struct, frozen=True):
    """One case, played once against one program."""

    case: str
    peer: str
    round: int
    figures: dict[str, float]
    """By name; the unit is part of it: `us_per_request`, `delay_p99_ms`."""
    point: str = ""
    """Where on a scale, for cases that have one: `1000` open streams."""
    failed: int = 0
    """Calls without a good answer."""
    note: str = ""
    loads: list[Report] = []


class Skipped(msgspec.Struct, frozen=True):
    """What could not be measured, and why."""

    what: str
    why: str


class Results(msgspec.Struct):
    """A whole run: `docs/benchmarks.json`."""

    machine: Machine
    versions: dict[str, str]
    """Of the programs that were measured."""
    kinds: dict[str, str]
    """What they are, in a word or two."""
    options: dict[str, str]
    """How long and how often was measured."""
    samples: list[Sample]
    skipped: list[Skipped]


class Spread(msgspec.Struct, frozen=True):
    """Several values of one figure."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    return Spread(statistics.median(values), min(values), max(values), len(values))


def values(
    samples: Iterable[Sample], case: str, peer: str, figure: str, point: str = ""
) -> dict[int, float]:
    """The figure in each round in which it was measured."""
    return {
        sample.round: sample.figures[figure]
        for sample in samples
        if (sample.case, sample.peer, sample.point) == (case, peer, point)
        and figure in sample.figures
    }


def absolute(
    samples: Iterable[Sample], case: str, peer: str, figure: str, point: str = ""
) -> Spread | None:
    return spread(list(values(samples, case, peer, figure, point).values()))


def ratio(of: dict[int, float], to: dict[int, float]) -> Spread | None:
    """Round by round; rounds that lack one of the two do not count."""
    return spread(
        [of[number] / to[number] for number in sorted(of.keys() & to.keys()) if to[number] > 0]
    )


def against(
    samples: Sequence[Sample], case: str, peer: str, yardstick: str, figure: str, point: str = ""
) -> Spread | None:
    """A program's figure as a multiple of another's."""
    return ratio(
        values(samples, case, peer, figure, point), values(samples, case, yardstick, figure, point)
    )


def points(samples: Iterable[Sample], case: str) -> list[str]:
    """The points of a case, as they were measured."""
    return list(dict.fromkeys(sample.point for sample in samples if sample.case == case))


def peers(samples: Iterable[Sample], case: str) -> list[str]:
    return list(dict.fromkeys(sample.peer for sample in samples if sample.case == case))


def failed(samples: Iterable[Sample], fits: Callable[[Sample], bool]) -> int:
    return sum(sample.failed for sample in samples if fits(sample))
