"""Silences between the events of streams, counted where they happen.

A stream of a hundred events cannot carry its gaps in its record, and must not call a metric per event: it adds one to a
list here. The numbers outlive configurations, so that a reload never makes a counter go back.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable
from typing import Final

GAP_EDGES = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds; upper bounds, inclusive. The inter-token buckets that LLM gateways agree on."""


_WHOLE: Final = [bisect_left(GAP_EDGES, ms / 1000) for ms in range(1001)]


def bucket_of(gap: float) -> int:
    """`bisect_left(GAP_EDGES, gap)`, which looks at every edge, by a look into a table: no edge lies within a ms."""
    ms = gap * 1000
    if ms >= 1000:
        return bisect_left(GAP_EDGES, gap)
    whole = int(ms)
    return _WHOLE[whole if whole == ms else whole + 1]


class GapCounts:
    """The gaps of one (model, upstream): `counts[bisect_left(GAP_EDGES, gap)]`, the last one is over all edges.

    Streams add to `counts` and `total` themselves, on the event loop. Lives as long as the pair is configured.
    """

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts: list[int] = [0] * (len(GAP_EDGES) + 1)
        self.total: float = 0.0
        """Sum of the gaps, seconds."""

    def add(self, gap: float) -> None:
        self.counts[bucket_of(gap)] += 1
        self.total += gap


class GapTable:
    """One `GapCounts` per (model, upstream), handed out to each new snapshot. Lives as long as the process."""

    __slots__ = ("_pairs",)

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, str], GapCounts] = {}

    def of(self, model: str, upstream: str) -> GapCounts:
        """The same object for the same pair, before and after a reload."""
        pair = (model, upstream)
        counts = self._pairs.get(pair)
        if counts is None:
            counts = self._pairs[pair] = GapCounts()
        return counts

    def keep(self, pairs: Collection[tuple[str, str]]) -> None:
        """Forgets the pairs that a reload removed."""
        self._pairs = {pair: counts for pair, counts in self._pairs.items() if pair in pairs}

    def items(self) -> Iterable[tuple[tuple[str, str], GapCounts]]:
        return self._pairs.items()
