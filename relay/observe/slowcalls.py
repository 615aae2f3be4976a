"""Says of a call whose first token was late where its time went: one line on stderr, without content.

Told by the ends of calls what time it is; a relay whose upstream is slow for everybody writes a few lines a second, and
how many it did not.
"""

from __future__ import annotations

from typing import Final

from relay.observe import logs
from relay.records import AttemptRecord, CallRecord

log = logs.get("calls")

MOST: Final = 5
"""Lines in a second: enough to see what they have in common."""


class SlowCalls:
    """An Observer of records."""

    __slots__ = ("_second", "_suppressed", "_told", "limit")

    def __init__(self, limit: float) -> None:
        self.limit = limit
        """`observability.slow_first_token`, seconds; may be set at any time (a reload)."""
        self._second = 0
        self._told = 0
        self._suppressed = 0

    def observe(self, records: list[CallRecord]) -> None:
        """A look at one number for each call."""
        limit = self.limit
        for record in records:
            ttft = record.ttft
            if ttft is not None and ttft > limit:
                self._late(record, ttft)

    def _late(self, record: CallRecord, ttft: float) -> None:
        second = int(record.received + record.duration)
        if second > self._second:
            self._second, self._told = second, 0
        if self._told >= MOST:
            self._suppressed += 1
            return
        self._told += 1
        fields: dict[str, logs.Field] = {"request_id": record.request_id}
        for name, value in (
            ("trace_id", record.trace_id),
            ("key", record.key),
            ("model", record.served_model),
            ("upstream", record.upstream),
            ("ttft_ms", _ms(ttft)),
            ("limit_ms", _ms(self.limit)),
            ("admission_ms", _ms(record.admission)),
            ("queue_ms", _ms(record.queue)),
            ("overhead_ms", _ms(record.overhead)),
        ):
            if value is not None:
                fields[name] = value
        fields["attempts"] = [_attempt(attempt) for attempt in record.attempts]
        if self._suppressed:
            fields["suppressed"], self._suppressed = self._suppressed, 0
        log.warning("slow_first_token", **fields)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _attempt(attempt: AttemptRecord) -> str:
    """`main ok after 912.3 ms, from 0.8 ms on`: when it began, and how long until its first token or its failure."""
    return (
        f"{attempt.upstream} {attempt.result} after {attempt.ms:.1f} ms,"
        f" from {attempt.at * 1000:.1f} ms on"
    )
