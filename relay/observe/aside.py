"""What is told of ended calls beside the numbers, the access log and the ledger: traces, slow calls, contents.

Nothing here costs a call anything that does not ask for it. One of it per process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from relay.config.model import Config
from relay.observe import contentlog, logs, tracing
from relay.observe.otlp import Exporter
from relay.observe.slowcalls import SlowCalls
from relay.records import Observer
from relay.tracecontext import Tracer

log = logs.get("tracing")


class Aside:
    """Lives as long as the process."""

    def __init__(self, config: Config, env: Mapping[str, str] = os.environ) -> None:
        self._slow = SlowCalls(config.observability.slow_first_token)
        plan = tracing.plan(env)
        for note in plan.notes:
            log.warning("notice", notice=note)
        self.tracer: Tracer | None = plan.tracer
        """Who decides which calls are traced; None if none is."""
        self._exporter = None if plan.tracer is None else Exporter(env)
        if self._exporter is not None:
            log.info("tracing", sampler=plan.sampler)

    @property
    def observers(self) -> list[Observer]:
        exporter = self._exporter
        return [
            self._slow.observe,
            contentlog.observe,
            *([] if exporter is None else [exporter.observe]),
        ]

    @property
    def traces(self) -> tuple[int, int]:
        """Traced calls sent, and lost."""
        exporter = self._exporter
        return (0, 0) if exporter is None else (exporter.sent, exporter.dropped)

    def follow(self, config: Config) -> None:
        """This configuration is in effect."""
        self._slow.limit = config.observability.slow_first_token

    def close(self) -> None:
        """Waits some seconds for what is to be sent."""
        if self._exporter is not None:
            self._exporter.close()
