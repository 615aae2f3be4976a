"""The access log: one JSON line per call, written when it has ended.

Rules that hold here:
- the fields and their order are a contract with whoever parses the log; a field without a value is left out;
- never bodies, credentials, other headers or query strings; texts of others are cut to `LONGEST`;
- one call is one line, whatever characters a client puts into its model's name.

A line is put together from its parts, which costs a third less than a struct and an encoder (docs/performance.md): most
texts are the same from call to call and are quoted once, and a number needs no quotes.
"""

from __future__ import annotations

from time import gmtime, strftime
from typing import Final, Literal

import msgspec

from relay.observe.linewriter import LineWriter, plain_lines, storable
from relay.records import AttemptRecord, CallRecord

Format = Literal["json", "off"]

LONGEST: Final = 256
"""Characters of a text that a client or an upstream chose."""

NANO_DOLLARS: Final = 1_000_000_000
"""A dollar's."""

QUOTES_KEPT: Final = 4096
"""Texts whose JSON is remembered."""

_THOUSANDTHS: Final = [f"{part:03d}" for part in range(1000)]

_encode = msgspec.json.Encoder().encode


class AccessLog:
    """An Observer of records. Remembers the second it last wrote a time for; the lines are the writer's."""

    __slots__ = ("_prefix", "_quotes", "_second", "_writer", "format")

    def __init__(self, writer: LineWriter, format: Format = "json") -> None:
        self.format: Format = format
        """May be set at any time (a reload)."""
        self._writer = writer
        self._quotes: dict[str, str] = {}
        self._second = -1
        self._prefix = ""

    @property
    def dropped(self) -> int:
        """Lines lost since the start."""
        return self._writer.dropped

    def observe(self, records: list[CallRecord]) -> None:
        """A few microseconds a record; never waits."""
        if self.format == "off" or not records:
            return
        parts: list[str] = []
        for record in records:
            self._line(record, parts)
        self._writer.write("".join(parts).encode(), len(records))

    def close(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds for the sink. False if lines had to be left behind."""
        return self._writer.close(timeout)

    def _line(self, record: CallRecord, out: list[str]) -> None:
        """Adds the parts of one line, in the order of the contract."""
        duration = record.duration
        self._time(record.received + duration, out)
        out.append(record.request_id)
        out.append('"')
        if record.client_request_id:
            out.append(',"client_request_id":')
            out.append(_json(record.client_request_id))
        if record.trace_id:
            out.append(',"trace_id":')
            out.append(_json(record.trace_id))
        self._who(record, out)
        self._how(record, out)
        out.append(',"hedged":true' if record.hedged else ',"hedged":false')
        if record.resumed:
            out.append(',"resumed":true')
        if record.fallback is not None:
            out.append(',"fallback":')
            out.append(self._quoted(record.fallback))
        _duration(',"queue_ms":', record.queue, out)
        _duration(',"ttft_ms":', record.ttft, out)
        _duration(',"overhead_ms":', record.overhead, out)
        _duration(',"max_gap_ms":', record.max_gap, out)
        _duration(',"duration_ms":', duration, out)
        if record.stream:
            out.append(',"events":')
            out.append(str(record.events))
        if record.usage is not None:
            _used(record, out)
        out.append("}\n")

    def _who(self, record: CallRecord, out: list[str]) -> None:
        if record.key is not None:
            out.append(',"key":')
            out.append(self._quoted(record.key))
        if record.client is not None:
            out.append(',"client":')
            out.append(self._quoted(record.client))
        out.append(',"operation":')
        out.append(self._quoted(record.operation))
        if record.model is not None:
            out.append(',"model":')
            out.append(self._quoted(record.model))
        if record.served_model is not None:
            out.append(',"served_model":')
            out.append(self._quoted(record.served_model))
        out.append(',"upstream":')
        out.append(self._quoted(record.upstream))
        if record.upstream_request_id:
            out.append(',"upstream_request_id":')
            out.append(_json(record.upstream_request_id))

    def _how(self, record: CallRecord, out: list[str]) -> None:
        out.append(',"stream":true,"code":' if record.stream else ',"stream":false,"code":')
        out.append(str(record.code))
        if record.error:
            out.append(',"error":')
            out.append(self._quoted(record.error))
        out.append(',"outcome":')
        out.append(self._quoted(record.outcome))
        if record.cause is not None:
            out.append(',"cause":')
            out.append(self._quoted(record.cause))
        before = ',"attempts":['
        for attempt in record.attempts:
            out.append(before)
            self._attempt(attempt, out)
            before = ","
        if record.attempts:
            out.append("]")

    def _attempt(self, attempt: AttemptRecord, out: list[str]) -> None:
        out.append('{"upstream":')
        out.append(self._quoted(attempt.upstream))
        out.append(',"result":')
        out.append(self._quoted(attempt.result))
        out.append(',"ms":')
        out.append(_ms(attempt.ms / 1000))
        out.append("}")

    def _quoted(self, text: str) -> str:
        """The JSON of a text that comes again."""
        found = self._quotes.get(text)
        if found is None:
            if len(text) > LONGEST:
                return _json(text)
            if len(self._quotes) >= QUOTES_KEPT:
                self._quotes.clear()
            found = self._quotes[text] = _json(text)
        return found

    def _time(self, at: float, out: list[str]) -> None:
        """RFC 3339 in UTC with milliseconds, and what follows it."""
        second = int(at)
        if second != self._second:
            self._second = second
            self._prefix = strftime('{"time":"%Y-%m-%dT%H:%M:%S.', gmtime(second))
        out.append(self._prefix)
        out.append(_THOUSANDTHS[int((at - second) * 1000)])
        out.append('Z","event":"call","request_id":"')


def _used(record: CallRecord, out: list[str]) -> None:
    usage = record.usage
    assert usage is not None, "the caller looked"
    out.append(',"input_tokens":')
    out.append(str(usage.input))
    if usage.cached:
        out.append(',"cached_tokens":')
        out.append(str(usage.cached))
    out.append(',"output_tokens":')
    out.append(str(usage.output))
    if usage.reasoning:
        out.append(',"reasoning_tokens":')
        out.append(str(usage.reasoning))
    out.append(',"source":"')
    out.append(usage.source)
    cost = record.cost
    if cost:
        part = cost % NANO_DOLLARS
        out.append('","cost_usd":')
        out.append(str(cost // NANO_DOLLARS))
        out.append(".")
        out.append(_THOUSANDTHS[part // 1_000_000])
        out.append(_THOUSANDTHS[part // 1000 % 1000])
        out.append(_THOUSANDTHS[part % 1000])
    else:
        out.append('"')


def _duration(name: str, seconds: float | None, out: list[str]) -> None:
    if seconds is not None:
        out.append(name)
        out.append(_ms(seconds))


def _ms(seconds: float) -> str:
    """Milliseconds with three decimals."""
    micros = int(seconds * 1_000_000 + 0.5)
    return str(micros // 1000) + "." + _THOUSANDTHS[micros % 1000]


def _json(text: str) -> str:
    """A text as JSON, cut, with everything escaped that a reader could not see."""
    if len(text) > LONGEST:
        text = text[:LONGEST] + "…"
    try:
        quoted = _encode(text)
    except UnicodeEncodeError:
        quoted = _encode(storable(text))
    return plain_lines(quoted).decode()
