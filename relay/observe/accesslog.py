"""The access log: one JSON line per call, written when it has ended.

Rules that hold here:
- the fields and their order are a contract with whoever parses the log; a field without a value is left out;
- never bodies, credentials, other headers or query strings; texts of others are cut to `LONGEST`;
- one call is one line, whatever characters a client puts into its model's name.
"""

from __future__ import annotations

from time import gmtime, strftime
from typing import Literal

import msgspec

from relay.observe.linewriter import LineWriter, plain_lines, storable
from relay.records import AttemptRecord, CallRecord

Format = Literal["json", "off"]

LONGEST = 256
"""Characters of a text that a client or an upstream chose."""

NANO_DOLLARS = 1_000_000_000
"""A dollar's."""


class _Attempt(msgspec.Struct, gc=False):
    upstream: str
    result: str
    ms: float


class _Line(msgspec.Struct, omit_defaults=True, gc=False):
    """The line. Every field can be left out, so that the order here is the order there."""

    time: str | None = None
    event: str | None = None
    request_id: str | None = None
    client_request_id: str | None = None
    trace_id: str | None = None
    key: str | None = None
    client: str | None = None
    operation: str | None = None
    model: str | None = None
    served_model: str | None = None
    upstream: str | None = None
    upstream_request_id: str | None = None
    stream: bool | None = None
    code: int | None = None
    error: str | None = None
    outcome: str | None = None
    cause: str | None = None
    attempts: list[_Attempt] | None = None
    hedged: bool | None = None
    fallback: str | None = None
    queue_ms: float | None = None
    ttft_ms: float | None = None
    overhead_ms: float | None = None
    max_gap_ms: float | None = None
    duration_ms: float | None = None
    events: int | None = None
    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    source: str | None = None
    cost_usd: float | None = None


FIELDS: tuple[str, ...] = _Line.__struct_fields__


class AccessLog:
    """An Observer of records. Remembers the second it last wrote a time for; the lines are the writer's."""

    __slots__ = ("_encode_lines", "_prefix", "_second", "_writer", "format")

    def __init__(self, writer: LineWriter, format: Format = "json") -> None:
        self.format = format
        """May be set at any time (a reload)."""
        self._writer = writer
        self._encode_lines = msgspec.json.Encoder().encode_lines
        self._second = -1
        self._prefix = ""

    @property
    def dropped(self) -> int:
        """Lines lost since the start."""
        return self._writer.dropped

    def observe(self, records: list[CallRecord]) -> None:
        """About three microseconds a record; never waits."""
        if self.format == "off" or not records:
            return
        lines = [self._line(record) for record in records]
        try:
            block = self._encode_lines(lines)
        except UnicodeEncodeError:
            for line in lines:
                _mend(line)
            block = self._encode_lines(lines)
        self._writer.write(plain_lines(block), len(lines))

    def close(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds for the sink. False if lines had to be left behind."""
        return self._writer.close(timeout)

    def _line(self, record: CallRecord) -> _Line:
        usage = record.usage
        duration = record.duration
        attempts = record.attempts
        line = _Line(
            self._time(record.received + duration),
            "call",
            record.request_id,
            record.client_request_id and _short(record.client_request_id),
            record.trace_id and _short(record.trace_id),
            record.key,
            record.client,
            record.operation,
            record.model and _short(record.model),
            record.served_model,
            record.upstream,
            record.upstream_request_id and _short(record.upstream_request_id),
            record.stream,
            record.code,
            record.error and _short(record.error),
            record.outcome,
            record.cause,
            [_attempt(attempt) for attempt in attempts] if attempts else None,
            record.hedged,
            record.fallback,
            None if record.queue is None else _ms(record.queue),
            None if record.ttft is None else _ms(record.ttft),
            None if record.overhead is None else _ms(record.overhead),
            None if record.max_gap is None else _ms(record.max_gap),
            _ms(duration),
            record.events if record.stream else None,
        )
        if usage is not None:
            line.input_tokens = usage.input
            line.cached_tokens = usage.cached or None
            line.output_tokens = usage.output
            line.reasoning_tokens = usage.reasoning or None
            line.source = usage.source
            line.cost_usd = record.cost / NANO_DOLLARS if record.cost else None
        return line

    def _time(self, at: float) -> str:
        """RFC 3339 in UTC with milliseconds."""
        second = int(at)
        if second != self._second:
            self._second = second
            self._prefix = strftime("%Y-%m-%dT%H:%M:%S.", gmtime(second))
        return f"{self._prefix}{int((at - second) * 1000):03d}Z"


def _attempt(attempt: AttemptRecord) -> _Attempt:
    return _Attempt(attempt.upstream, attempt.result, int(attempt.ms * 1000 + 0.5) / 1000)


def _ms(seconds: float) -> float:
    """Milliseconds with three decimals; `round` would cost twice as much."""
    return int(seconds * 1_000_000 + 0.5) / 1000


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def _mend(line: _Line) -> None:
    """Makes every text of a line encodable."""
    for name in FIELDS:
        value = getattr(line, name)
        if isinstance(value, str):
            setattr(line, name, storable(value))
