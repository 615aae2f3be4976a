"""Adds up what a process tells the page of its calls (`telling`), until somebody takes it: an observer of records.

Every call passes here, whether a page is open or not, so it is compiled; what is told is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Final, TypeVar

from relay.page.facts import LATEST, TRIES_TOLD, Call, Failure, Served, Try
from relay.page.sums import Sums
from relay.page.telling import NANO_DOLLARS, Telling
from relay.records import CallRecord

TOLD: Final = 20
"""Failed calls of one telling, and as many refused ones and ones of playgrounds: the latest."""
PLAYGROUND: Final = "playground-"
"""So begins the `x-request-id` that the playground sends, and nobody else needs to."""
OTHER: Final = "other"
_FAILED: Final = frozenset(
    {"degraded", "overloaded", "stream_truncated", "timeout", "upstream_error"}
)
_REFUSED: Final = frozenset({"client_error", "rate_limited"})
_NO_FAULT: Final = frozenset({"client_error", "stale_conn", "no_descriptor"})
"""Results of attempts for which no upstream is to blame."""
THROTTLED: Final = "rate_limited"

T = TypeVar("T")


class Teller:
    """Collects for the next telling. Lives as long as the process; `observe` is an Observer of records."""

    __slots__ = ("_latest", "_models", "_next", "_upstreams")

    def __init__(self) -> None:
        self._next = Telling()
        self._latest: deque[CallRecord] = deque(maxlen=LATEST)
        """Kept as they are: of thousands a second the last few are told."""
        self._models: frozenset[str] = frozenset()
        self._upstreams: frozenset[str] = frozenset()

    def configure(self, models: Collection[str], upstreams: Collection[str]) -> None:
        """These are the names that may be told from now on."""
        self._models = frozenset(models)
        self._upstreams = frozenset(upstreams)

    def take(self) -> Telling:
        """What is new since the last call of this."""
        taken, self._next = self._next, Telling()
        taken.latest = [self._call(record) for record in self._latest]
        self._latest.clear()
        return taken

    def observe(self, records: list[CallRecord]) -> None:
        """About two microseconds a call."""
        whole = self._next.all
        known = self._upstreams
        latest = self._latest
        for record in records:
            outcome = record.outcome
            if outcome != "ok":
                self._ended_otherwise(record, outcome)
            elif not record.admitted:
                # A list of models, or a browser that asks whether it may: nobody waits for an answer of a model.
                continue
            whole.calls += 1
            latest.append(record)
            if record.ttft is not None:
                whole.began(record.ttft)
            last = record.upstream
            sums = None
            for attempt in record.attempts:
                name = attempt.upstream
                if name in known:
                    sums = self._of(name)
                    sums.calls += 1
                    if attempt.result != "ok":
                        self._attempted(name, attempt.result, sums)
                    last = name
            if sums is not None and last == record.upstream:
                _answered(record, sums, whole)
            asked_as = record.client_request_id
            if asked_as is not None and asked_as.startswith(PLAYGROUND):
                _keep(self._next.served, self._served(record))

    def _ended_otherwise(self, record: CallRecord, outcome: str) -> None:
        told = self._next
        if outcome in _FAILED:
            told.all.failed += 1
            _keep(told.failures, self._failure(record))
        elif outcome in _REFUSED:
            told.all.refused += 1
            _keep(told.refusals, self._failure(record))
        else:
            told.all.cancelled += 1

    def _of(self, upstream: str) -> Sums:
        sums = self._next.upstreams.get(upstream)
        if sums is None:
            sums = self._next.upstreams[upstream] = Sums()
        return sums

    def _attempted(self, upstream: str, result: str, sums: Sums) -> None:
        if result == "cancelled":
            sums.cancelled += 1
        elif result not in _NO_FAULT:
            sums.failed += 1
            sums.refused += result == THROTTLED
            self._next.errors[upstream] = result

    def _model(self, record: CallRecord) -> str | None:
        model = record.served_model or record.model
        return model if model is None or model in self._models else OTHER

    def _tries(self, record: CallRecord) -> list[Try]:
        known = self._upstreams
        return [
            Try(t.upstream if t.upstream in known else OTHER, t.result, round(t.ms, 1))
            for t in record.attempts[-TRIES_TOLD:]
        ]

    def _failure(self, record: CallRecord) -> Failure:
        return Failure(
            record.received + record.duration,
            record.request_id,
            record.outcome,
            record.code,
            record.upstream,
            self._model(record),
            record.key,
            record.error,
            record.cause,
            record.reason,
            self._tries(record),
            round(record.duration, 4),
        )

    def _call(self, record: CallRecord) -> Call:
        ttft, usage = record.ttft, record.usage
        writing = 0.0 if ttft is None else record.duration - ttft
        return Call(
            record.received + record.duration,
            record.request_id,
            record.outcome,
            record.code,
            record.upstream,
            self._model(record),
            record.key,
            ttft,
            usage.output / writing if usage is not None and writing > 0 else None,
            round(record.duration, 4),
        )

    def _served(self, record: CallRecord) -> Served:
        usage = record.usage
        return Served(
            record.received + record.duration,
            record.request_id,
            record.outcome,
            record.upstream,
            self._tries(record),
            record.ttft,
            record.overhead,
            record.duration,
            0 if usage is None else usage.input,
            0 if usage is None else usage.output,
            record.cost / NANO_DOLLARS,
        )


def _answered(record: CallRecord, sums: Sums, whole: Sums) -> None:
    """Tokens, money and times are those of the upstream that answered: the last one that was tried."""
    usage, ttft = record.usage, record.ttft
    if usage is not None:
        output = usage.output
        sums.tokens += output
        whole.tokens += output
        sums.cost += record.cost
        whole.cost += record.cost
    if ttft is not None:
        sums.began(record.attempts[-1].ms / 1000)
        if usage is not None:
            sums.written += usage.output
            sums.writing += record.duration - ttft


def _keep(kept: list[T], one: T) -> None:
    kept.append(one)
    if len(kept) > TOLD:
        del kept[0]
