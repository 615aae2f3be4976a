"""The 95th percentile of an endpoint's own times to first token: from when on its silence is unusual.

The last `KEPT` streamed attempts count, those among them that a hedge overtook with the time they had been silent so
far: left out, the slow ones would vanish from the sample, and hedges would breed hedges.
"""

from __future__ import annotations

from typing import Final

KEPT: Final = 200
"""Samples; of the minutes in which they came the traffic decides."""
ENOUGH: Final = 50
"""Below so many the percentile is the opinion of two or three calls."""
RENEWED: Final = 10
"""Samples after which it is worked out anew."""


class Silences:
    """Seconds of silence before the first token, of one endpoint. Lives as long as it."""

    __slots__ = ("_at", "_p95", "_samples", "_since")

    def __init__(self) -> None:
        self._samples: list[float] = []
        self._at = 0
        self._since = 0
        self._p95 = 0.0

    def add(self, seconds: float) -> None:
        if len(self._samples) < KEPT:
            self._samples.append(seconds)
        else:
            self._samples[self._at] = seconds
            self._at = (self._at + 1) % KEPT
        self._since += 1

    def p95(self) -> float | None:
        """Seconds; None as long as there are not enough samples."""
        count = len(self._samples)
        if count < ENOUGH:
            return None
        if not self._p95 or self._since >= RENEWED:
            self._p95 = sorted(self._samples)[min(count - 1, count * 95 // 100)]
            self._since = 0
        return self._p95
