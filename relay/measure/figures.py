"""What the calls to one target come to.

A percentile is a call that was really made: the smallest value that so many do not exceed. A silence that was given up
counts as if the token had come then: left out, an upstream that hangs would look fast.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from relay.measure.call import Sample
from relay.measure.targets import Target
from relay.usage import Usage

ANSWER: Final = 1000
"""Tokens of the answer whose time is told."""
MILLION: Final = 1_000_000
NANO: Final = 10**9
KINDS_TOLD: Final = 20
"""Ways to fail that are told of one target."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one figure over the calls, or over the gaps of all calls."""

    count: int
    p50: float
    p95: float
    longest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """None without any."""
        ordered = sorted(values)
        if not ordered:
            return None
        return cls(len(ordered), _share(ordered, 0.5), _share(ordered, 0.95), ordered[-1])


def _share(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


@dataclass(frozen=True, slots=True)
class Failed:
    """Calls that failed in the same way; `said`: the upstream's own words of the last one, scrubbed."""

    result: str
    status: int | None
    count: int
    said: str


@dataclass(frozen=True, slots=True)
class Figures:
    """Times in seconds; None is what no call has shown."""

    target: Target
    samples: Sequence[Sample]
    connect: Spread | None
    ttft: Spread | None
    silent: int
    """Calls that were given up before their first token."""
    floor: float | None
    """The shortest of these silences: what is as long in `ttft` is a lower bound."""
    gaps: Spread | None
    rate: Spread | None
    """Tokens per second of a stream that writes."""
    answer: Spread | None
    """For 1,000 tokens."""
    used: Usage
    """Of all calls."""
    estimated: int
    """Calls whose tokens nobody has reported."""
    cost: int | None
    """Nano-dollars; None without a price."""
    failed: Sequence[Failed]

    @property
    def whole(self) -> int:
        return sum(sample.whole for sample in self.samples)

    @property
    def stability(self) -> float | None:
        """Whole streams of all calls."""
        return self.whole / len(self.samples) if self.samples else None

    @property
    def per_million(self) -> float | None:
        """US dollars per million tokens, prompt and answer in the mixture that was measured."""
        tokens = self.used.input + self.used.output
        return None if self.cost is None or not tokens else self.cost / NANO * MILLION / tokens


def figures_of(target: Target, samples: Sequence[Sample]) -> Figures:
    gaps: array[float] = array("d")
    for sample in samples:
        gaps.extend(sample.gaps)
    silences = [one.ttft for one in samples if one.silent and one.ttft is not None]
    used = [(sample.usage, sample.at) for sample in samples if sample.usage is not None]
    price = target.price
    return Figures(
        target=target,
        samples=samples,
        connect=Spread.of(_known(one.connect for one in samples)),
        ttft=Spread.of(_known(one.ttft for one in samples)),
        silent=len(silences),
        floor=min(silences, default=None),
        gaps=Spread.of(gaps),
        rate=Spread.of(_known(one.rate for one in samples)),
        answer=Spread.of(_known(one.time_for(ANSWER) for one in samples)),
        used=Usage(
            sum(usage.input for usage, _ in used),
            sum(usage.output for usage, _ in used),
            sum(usage.cached for usage, _ in used),
            sum(usage.reasoning for usage, _ in used),
        ),
        estimated=sum(usage.source == "estimated" for usage, _ in used),
        cost=None if price is None else sum(price.cost(usage, at) for usage, at in used),
        failed=_failed(samples),
    )


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _failed(samples: Sequence[Sample]) -> list[Failed]:
    """The most frequent first."""
    kinds: Counter[tuple[str, int | None]] = Counter()
    said: dict[tuple[str, int | None], str] = {}
    for sample in samples:
        if not sample.whole:
            kind = (sample.result, sample.status)
            kinds[kind] += 1
            said[kind] = sample.said or said.get(kind, "")
    return [
        Failed(result, status, count, said[result, status])
        for (result, status), count in kinds.most_common(KINDS_TOLD)
    ]
