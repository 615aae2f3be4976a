"""Sends the spans of traced calls to a collector by OTLP: the one module that knows `opentelemetry`.

Rules that hold here:
- nothing of the library is imported before the first traced call has ended, and then in the exporter's own thread;
- the event loop hands over records and waits for nothing: what does not fit is dropped and counted;
- a collector that is away costs spans, and one line in the log until it is back.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from relay import __version__
from relay.observe import logs
from relay.observe.spans import Span, spans_of
from relay.records import CallRecord
from relay.tracecontext import new_span

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

log = logs.get("tracing")

MOST_WAITING: Final = 4096
"""Calls that wait for the collector, about two kilobytes each."""
MOST_AT_ONCE: Final = 256
"""Calls of one request: a megabyte at the most."""
COLLECT: Final = 1.0
"""Seconds for which calls are collected."""
LAST_SEND: Final = 3.0
"""Seconds the collector gets at the end."""


class Exporter:
    """Lives as long as the process. `observe` is an Observer of records."""

    __slots__ = (
        "_away",
        "_closing",
        "_env",
        "_exporter",
        "_lost",
        "_offered",
        "_over",
        "_queue",
        "_refused",
        "_taken",
        "_thread",
        "sent",
    )

    def __init__(self, env: Mapping[str, str] = os.environ) -> None:
        self._env = env
        self._queue: SimpleQueue[CallRecord | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._exporter: Any = None
        self._closing = False
        self._over = False
        """The time of the last ones is up."""
        self._away = False
        # Each number has one writer, the loop or the thread, so that none needs a lock.
        self._offered = 0
        self._refused = 0
        self._taken = 0
        self._lost = 0
        self.sent = 0
        """Traced calls that the collector took, since the start."""

    @property
    def dropped(self) -> int:
        """Traced calls lost since the start."""
        return self._refused + self._lost

    def observe(self, records: list[CallRecord]) -> None:
        """Less than a microsecond a call; never waits."""
        for record in records:
            if record.trace is None:
                continue
            if self._closing or self._offered - self._taken >= MOST_WAITING:
                self._refused += 1
                continue
            self._offered += 1
            self._queue.put(record)
            if self._thread is None:
                # A daemon: a collector that does not answer must not keep the process from ending.
                self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
                self._thread.start()

    def close(self, timeout: float = LAST_SEND) -> None:
        """Waits up to `timeout` seconds until all is sent; what is not counts as dropped."""
        self._closing = True
        thread = self._thread
        if thread is None:
            return
        self._queue.put(None)
        thread.join(timeout)
        if thread.is_alive():
            self._over = True
            if self._exporter is not None:
                # Ends its waiting between two tries.
                self._exporter.shutdown()
            thread.join(timeout / 10)
        if left := self._offered - self._taken:
            log.warning("traces_left", calls=left)

    # -- in the thread --

    def _run(self) -> None:
        # The library tells of each try; we tell of the first failure and of the end of it.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        resource: Any = None
        while batch := self._collect():
            try:
                if self._exporter is None:
                    resource, self._exporter = _prepare(self._env)
                if self._over:
                    return
                taken = _send(self._exporter, resource, batch)
                self._settle(len(batch), None if taken else "refused")
            except Exception as error:
                # Whatever the library, its settings or its transport raise: traces never harm calls.
                self._settle(len(batch), type(error).__name__)

    def _collect(self) -> list[CallRecord]:
        """The next batch, as soon as there is one; empty at the end."""
        first = self._queue.get()
        if first is None:
            return []
        batch, until = [first], monotonic() + COLLECT
        while len(batch) < MOST_AT_ONCE:
            try:
                item = self._queue.get(timeout=max(0.0, until - monotonic()))
            except Empty:
                break
            if item is None:
                self._queue.put(None)  # to be found again after this batch
                break
            batch.append(item)
        return batch

    def _settle(self, calls: int, fault: str | None) -> None:
        self._taken += calls
        if fault is None:
            self.sent += calls
            if self._away:
                log.info("traces_sent_again", dropped=self.dropped)
        else:
            self._lost += calls
            if not self._away:
                log.warning("traces_dropped", reason=fault)
        self._away = fault is not None


def _prepare(env: Mapping[str, str]) -> tuple[Resource, Any]:
    """Who we are, and what sends: it reads endpoint, headers, certificates and timeouts from the environment."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource

    about: dict[str, str | int] = {"service.version": __version__, "process.pid": os.getpid()}
    if not env.get("OTEL_SERVICE_NAME") and "service.name=" not in env.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        about["service.name"] = "relay"
    return Resource.create(about), OTLPSpanExporter()


def _send(exporter: Any, resource: Resource, batch: list[CallRecord]) -> bool:
    """Whether the collector took them."""
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExportResult
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    scope = InstrumentationScope("relay", __version__)
    flags = TraceFlags(TraceFlags.SAMPLED)
    kinds = {"server": SpanKind.SERVER, "internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT}

    def made(span: Span, trace_id: int, *, ours: bool) -> ReadableSpan:
        failed = span.error is not None
        return ReadableSpan(
            span.name,
            SpanContext(trace_id, span.id, is_remote=False, trace_flags=flags),
            parent=SpanContext(trace_id, span.parent, is_remote=not ours, trace_flags=flags)
            if span.parent
            else None,
            resource=resource,
            attributes=span.attributes,
            kind=kinds[span.kind],
            status=Status(StatusCode.ERROR, span.error) if failed else Status(),
            start_time=span.start,
            end_time=span.end,
            instrumentation_scope=scope,
        )

    spans = [
        made(span, int(record.trace.trace_id, 16), ours=number > 0)
        for record in batch
        if record.trace is not None
        for number, span in enumerate(spans_of(record, new_span))
    ]
    result = exporter.export(spans)
    return bool(result == SpanExportResult.SUCCESS)
