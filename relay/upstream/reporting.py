"""The token counts that an upstream is asked for with every stream, and what to do when it refuses the question.

Few clients ask for a count, so the relay does, and keeps the answer to itself. An upstream that does not know the field
says so with a 400: it is asked again without, and left alone with the question for a while. What its streams used is
estimated then.
"""

from __future__ import annotations

from typing import Final

from relay.errors import PassedThrough
from relay.upstream.verdicts import Failure

NOTHING: Final = 0
FINAL: Final = 1
"""`stream_options.include_usage`: a count at the end."""
RUNNING: Final = 2
"""And vLLM's `continuous_usage_stats`: one with every event, so that a broken stream has one, too."""

ASKS: Final = {"none": NOTHING, "final": FINAL, "continuous": RUNNING}
"""By the words of `upstreams.*.usage`."""

LEFT_ALONE: Final = 600.0
"""Seconds until an upstream that refused is asked again: they learn."""

_FIELDS: Final = ("stream_options", "include_usage", "continuous_usage_stats")


class Reporting:
    """What one endpoint can be asked for. Lives as long as it."""

    __slots__ = ("_asks", "_refused_until")

    def __init__(self) -> None:
        self._asks = FINAL
        self._refused_until = 0.0

    def configure(self, usage: str) -> None:
        asks = ASKS[usage]
        if asks != self._asks:
            self._asks = asks
            self._refused_until = 0.0

    def asks(self, now: float) -> int:
        """What to ask for now."""
        return self._asks if now >= self._refused_until else NOTHING

    def refused(self, now: float) -> None:
        """It took without the question what it had refused with it."""
        self._refused_until = now + LEFT_ALONE


def is_refusal(failure: Failure) -> bool:
    """Whether an upstream seems to complain of the question. A client's own words may look so, too: try without."""
    error = failure.error
    if failure.result != "client_error" or not isinstance(error, PassedThrough):
        return False
    said = f"{error.param} {error.message}"
    return any(field in said for field in _FIELDS)
