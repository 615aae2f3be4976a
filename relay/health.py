"""Whether the process lives, whether it should get new calls, and what limps.

Upstreams and stores that fail make a relay *degraded*, never not ready: an outage behind it must not take it out of its
balancer, where it can still answer, fall back or tell the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Literal

import msgspec

Phase = Literal["starting", "ready", "draining"]

STALL = 1.0
"""Seconds of silence of the loop's own beat after which it counts as stalled."""
BEAT = 0.25
"""Seconds between two beats."""

_encode = msgspec.json.Encoder().encode


class Health:
    """The answers of `/livez` and `/readyz`. Lives as long as the process."""

    __slots__ = ("_beat", "degraded", "draining", "overloaded", "phase")

    def __init__(self, degraded: Callable[[], list[str]] = list) -> None:
        self.phase: Phase = "starting"
        self.degraded = degraded
        self.draining: Callable[[], bool] = bool
        """Whether all of a relay of several processes is."""
        self.overloaded: Callable[[], bool] = bool
        """Whether most of what is new has been refused for a while."""
        self._beat = monotonic()

    def beat(self) -> None:
        """The loop says that it turns."""
        self._beat = monotonic()

    def livez(self) -> tuple[int, bytes]:
        return 200, b'{"status":"alive"}'

    def readyz(self) -> tuple[int, bytes]:
        """200 when new calls are welcome, 503 with the reason when not."""
        reason = self.reason()
        if reason is not None:
            return 503, _encode({"status": "not ready", "reason": reason})
        return 200, _encode({"status": "ready", "degraded": self.degraded()})

    def reason(self) -> str | None:
        """Why no new call should come, None when they may."""
        if self.phase != "ready":
            return self.phase
        if self.draining():
            return "draining"
        if monotonic() - self._beat > STALL + BEAT:
            return "stalled"
        if self.overloaded():
            return "overloaded"
        return None
