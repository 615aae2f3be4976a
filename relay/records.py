"""What is left of a call when it has ended: one `CallRecord`, emitted once.

Metrics, access log and ledger observe records; the core knows none of them. The names of label values
(outcome, cause, result, source) are written down here and in `errors.Outcome` only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Literal

from relay.content import Content
from relay.errors import Outcome, RelayError
from relay.tracecontext import Trace
from relay.usage import Usage

Cause = Literal[
    "done",
    "client_gone",
    "write_stall",
    "drain",
    "revoked",
    "total_timeout",
    "idle_timeout",
    "slow_stream",
    "upstream_reset",
    "upstream_truncated",
    "bad_framing",
    "line_too_long",
    "error_event",
    "done_missing",
    "encoded",
]
"""How a committed stream ended (`relay_stream_end_total`); `done_missing` is a complete one."""


class AttemptRecord:
    """One try of an upstream: `result` is a label of `relay_upstream_attempts_total`."""

    __slots__ = ("at", "host", "lasted", "ms", "port", "result", "span", "upstream")

    def __init__(
        self,
        upstream: str,
        result: str,
        ms: float,
        at: float = 0.0,
        lasted: float = 0.0,
        span: int = 0,
        host: str = "",
        port: int = 0,
    ) -> None:
        self.upstream = upstream
        self.result = result
        self.ms = ms
        """Until it committed or failed."""
        self.at = at
        """When it began, seconds from the call's receipt."""
        self.lasted = lasted
        """Seconds until its upstream was let go: of a stream until its end."""
        self.span = span
        """Its id in the call's trace; 0 without one."""
        self.host = host
        """Where it went: the upstream's own host and `port`, as `base_url` names them; "" if nobody told."""
        self.port = port


class CallRecord:
    """The facts of one call. Times are durations in seconds from the call's receipt, None if it never came so far.

    Class attributes are the defaults, so that a call sets only what happened to it. It has no slots for
    that reason; an instance lives as long as its call plus the batch that is observed together, the last few a second
    longer: until the page is told of them.
    """

    request_id: str = ""
    client_request_id: str | None = None
    trace_id: str | None = None
    trace: Trace | None = None
    """Of a call that is traced."""
    received: float = 0.0
    """Unix time of receipt, seconds."""
    key: str | None = None
    group: str | None = None
    """The key's, whose limits count too."""
    client: str | None = None
    """The client's address as the trusted proxies tell it."""
    operation: str = "other"
    model: str | None = None
    """As the client asked."""
    served_model: str | None = None
    """The configured model that answered (metrics label `model`; unknown names are `other` there)."""
    upstream: str = "none"
    upstream_request_id: str | None = None
    stream: bool = False
    admitted: bool = False
    """All limits let it pass; from then on it counts in the ledger."""
    code: int = 0
    error: str | None = None
    """Our error code (`upstream_unreachable`, …), or the error's type when it has no code."""
    outcome: Outcome = "ok"
    cause: Cause | None = None
    reason: str | None = None
    """Why it was refused (`relay_refused_total`)."""
    attempts: tuple[AttemptRecord, ...] = ()
    hedged: bool = False
    resumed: bool = False
    """Another upstream went on with a stream that the first one broke."""
    fallback: str | None = None
    admission: float | None = None
    """Receipt to the word of the quota authority that it may begin."""
    queue: float | None = None
    waits: tuple[tuple[float, float], ...] = ()
    """Of a call that queued: when each of its waits began, and how long it lasted. Together they are `queue`."""
    queued_at: str | None = None
    """The upstream in whose line it stood; of several the one it would have liked best."""
    ttft: float | None = None
    """Receipt to the first event with content, reasoning or a tool call; plain calls have none."""
    overhead: float | None = None
    """Time the relay itself added before the first token."""
    max_gap: float | None = None
    """Longest silence between data events after the first token, seconds."""
    duration: float = 0.0
    events: int = 0
    usage: Usage | None = None
    cost: int = 0
    """Nano-dollars."""
    content: Content | None = None
    """What was asked and answered, where the key is one whose content is logged."""

    def refused(self, error: RelayError) -> None:
        """The answer is this error."""
        self.code = error.status
        self.outcome = error.outcome
        self.error = error.code or error.type
        self.reason = error.reason

    def tried(self, attempt: AttemptRecord) -> None:
        self.attempts = (*self.attempts, attempt)


Observer = Callable[[list[CallRecord]], None]
"""Is told of ended calls in batches, in the order of their ends. Must not block and must not raise."""

BATCH: Final = 64
"""Records observed together: what an observer does once per batch costs nothing per call."""
BATCH_WAIT: Final = 0.05
"""Seconds the first record of a batch waits for the others."""


class Batch:
    """Collects records for the observers. Lives as long as the process; `flush` at its end."""

    __slots__ = ("_loop", "_observers", "_records", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, observers: Sequence[Observer]) -> None:
        self._loop = loop
        self._observers = observers
        self._records: list[CallRecord] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, record: CallRecord) -> None:
        records = self._records
        records.append(record)
        if len(records) >= BATCH:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(BATCH_WAIT, self.flush)

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._records:
            records, self._records = self._records, []
            for observer in self._observers:
                observer(records)
