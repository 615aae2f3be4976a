"""What the trace of an ended call says: one span for the call, one for its admission, one for each wait in a queue, one
for each attempt.

Made from the call's record alone, after its end and in another thread: a call itself pays for an id and a header. Names
of attributes are OpenTelemetry's (`gen_ai.*`, in development: https://github.com/open-telemetry/semantic-conventions-genai)
or ours (`relay.*`, whose values are those of metrics and access log). Tokens are told once, by the attempt that
served, as the convention wants it of the client of a model: else a backend that adds up would count them twice.

Not told: `gen_ai.response.model`. Nobody here reads the `model` of an answer (`shapes.Chunk` has no such field), and
reading it for a trace alone would cost every call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from relay.records import AttemptRecord, CallRecord

Value = str | bool | int | float

OPERATIONS: Final = {"chat_completions": "chat"}
"""Ours in the words of the convention (`gen_ai.operation.name`)."""

LONGEST: Final = 256
"""Characters of a text that a client or an upstream chose."""

_NANO: Final = 1_000_000_000
_NO_FAULT: Final = ("ok", "cancelled")
_FAILED: Final = ("upstream_error", "timeout", "stream_truncated", "overloaded")
"""Outcomes that are the server's fault; a refused client's are not (OpenTelemetry's HTTP conventions)."""


class Span(NamedTuple):
    """One span of a trace; times are Unix nanoseconds, ids numbers."""

    name: str
    kind: Literal["server", "internal", "client"]
    id: int
    parent: int
    """0 without one."""
    start: int
    end: int
    attributes: dict[str, Value]
    error: str | None = None
    """Why it failed; None if it did not."""


def spans_of(record: CallRecord, fresh: Callable[[], int]) -> list[Span]:
    """Those of a traced call, its own first. `fresh` makes ids for those that no header has named."""
    trace = record.trace
    assert trace is not None, "it is traced"
    found = [_call(record, trace.span, trace.parent)]
    waited = record.admission
    if waited is None and record.reason is not None and not record.attempts:
        waited = record.duration
    if waited is not None:
        error = record.reason if record.admission is None else None
        start, end = _times(record, 0.0, waited)
        told = _of(record, error)
        found.append(Span("admission", "internal", fresh(), trace.span, start, end, told, error))
    for wait in record.waits:
        found.append(_wait(record, wait, fresh(), trace.span))
    for attempt in record.attempts:
        # An idle connection that died under a request is a part of the attempt that goes on.
        if attempt.span:
            found.append(_attempt(record, attempt, trace.span))
    return found


def _times(record: CallRecord, at: float, lasted: float) -> tuple[int, int]:
    start = int(record.received * _NANO) + int(at * _NANO)
    return start, start + int(lasted * _NANO)


def _wait(record: CallRecord, wait: tuple[float, float], id: int, parent: int) -> Span:
    """One wait for a place at an upstream. It failed if it was the last thing that the call did."""
    attempts = record.attempts
    in_vain = wait is record.waits[-1] and not (attempts and attempts[-1].at > wait[0])
    error = record.reason if in_vain else None
    start, end = _times(record, *wait)
    return Span("queue", "internal", id, parent, start, end, _of(record, error), error)


def _of(record: CallRecord, error: str | None) -> dict[str, Value]:
    """What the spans say in which a call waits for us."""
    told: dict[str, Value] = {} if record.key is None else {"relay.key": record.key}
    if error is not None:
        told["error.type"] = error
    return told


def _call(record: CallRecord, id: int, parent: int) -> Span:
    operation = OPERATIONS.get(record.operation)
    told: dict[str, Value] = {
        "relay.request_id": record.request_id,
        "relay.operation": record.operation,
        "relay.outcome": record.outcome,
        "relay.upstream": record.upstream,
        "http.response.status_code": record.code,
    }
    name = record.operation
    if operation is not None:
        told["gen_ai.operation.name"] = operation
        told["gen_ai.request.stream"] = record.stream
        name = f"{operation} {record.served_model}" if record.served_model else operation
    if record.model is not None:
        told["gen_ai.request.model"] = record.model[:LONGEST]
    for field, value in (
        ("relay.key", record.key),
        ("relay.served_model", record.served_model),
        ("relay.cause", record.cause),
        ("relay.fallback", record.fallback),
        ("relay.client_request_id", record.client_request_id),
        ("relay.queue_seconds", record.queue),
        ("relay.overhead_seconds", record.overhead),
        ("relay.max_gap_seconds", record.max_gap),
        ("gen_ai.response.time_to_first_chunk", record.ttft),
    ):
        if value is not None:
            told[field] = value
    if record.hedged:
        told["relay.hedged"] = True
    if record.resumed:
        told["relay.resumed"] = True
    error = None
    if record.outcome in _FAILED or record.code >= 500:
        error = record.error or record.cause or record.outcome
    if error is not None or record.error is not None:
        told["error.type"] = error or record.error or ""
    start, end = _times(record, 0.0, record.duration)
    return Span(name, "server", id, parent, start, end, told, error)


def _attempt(record: CallRecord, attempt: AttemptRecord, parent: int) -> Span:
    told: dict[str, Value] = {
        "relay.upstream": attempt.upstream,
        "relay.result": attempt.result,
        "relay.answer_seconds": attempt.ms / 1000,
        "gen_ai.provider.name": attempt.upstream,
    }
    if attempt.host:
        told["server.address"], told["server.port"] = attempt.host, attempt.port
    operation = OPERATIONS.get(record.operation)
    if operation is not None:
        told["gen_ai.operation.name"] = operation
    if attempt is record.attempts[-1] and record.upstream == attempt.upstream:
        _serve(record, attempt, told)
    error = None if attempt.result in _NO_FAULT else attempt.result
    if error is not None:
        told["error.type"] = error
    # The record of an attempt is written some microseconds after the call's time was taken.
    lasted = max(0.0, min(attempt.lasted, record.duration - attempt.at))
    start, end = _times(record, attempt.at, lasted)
    name = f"{operation or record.operation} {attempt.upstream}"
    return Span(name, "client", attempt.span, parent, start, end, told, error)


def _serve(record: CallRecord, attempt: AttemptRecord, told: dict[str, Value]) -> None:
    """What only the attempt that served can say."""
    if record.ttft is not None:
        told["gen_ai.response.time_to_first_chunk"] = attempt.ms / 1000
    if record.served_model is not None:
        told["gen_ai.request.model"] = record.served_model
    if record.upstream_request_id is not None:
        told["relay.upstream_request_id"] = record.upstream_request_id[:LONGEST]
    usage = record.usage
    if usage is not None:
        told["gen_ai.usage.input_tokens"] = usage.input
        told["gen_ai.usage.output_tokens"] = usage.output
        if usage.cached:
            told["gen_ai.usage.cache_read.input_tokens"] = usage.cached
        if usage.reasoning:
            told["gen_ai.usage.reasoning.output_tokens"] = usage.reasoning
        told["relay.usage_source"] = usage.source
