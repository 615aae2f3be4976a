"""What the page and `/status.json` tell: the shapes, in one place.

Rules that hold here:
- nothing of a prompt, an answer, a credential or an address; a model's name is a configured one, else `other`;
- every list has a bound, whatever clients and upstreams do.
"""

from __future__ import annotations

from typing import Literal

import msgspec

FAILURES = 50
"""The latest calls that failed, and as many that were refused."""
SERVED = 20
"""The latest calls of playgrounds."""
KEYS = 20
"""The limits that are nearest to their end."""
NEAR = 0.8
"""The used part of a limit from which a key counts as near."""
ENDS = 10
"""Keys that expire soon, and as many that have."""
LATEST = 50
"""Calls of any outcome."""
FAULTS = 5
"""Of a configuration that could not be used."""
TRIES_TOLD = 5
"""Attempts told of one call."""

Level = Literal["good", "note", "warn", "bad"]


class Try(msgspec.Struct, array_like=True):
    """One attempt at an upstream: `result` is a label of `relay_upstream_attempts_total`."""

    upstream: str
    result: str
    ms: float


class Failure(msgspec.Struct, omit_defaults=True):
    """A call that did not end as its client wished."""

    at: float
    """Its end, Unix time."""
    request_id: str
    outcome: str
    code: int
    upstream: str
    model: str | None = None
    key: str | None = None
    error: str | None = None
    cause: str | None = None
    reason: str | None = None
    tries: list[Try] = []
    duration: float = 0.0


class Served(msgspec.Struct, omit_defaults=True):
    """A call of a playground: who answered, and what the relay measured. Times in seconds."""

    at: float
    request_id: str
    outcome: str
    upstream: str
    tries: list[Try] = []
    ttft: float | None = None
    overhead: float | None = None
    duration: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0


class Call(msgspec.Struct, omit_defaults=True):
    """A call of any outcome. Times in seconds."""

    at: float
    """Its end, Unix time."""
    request_id: str
    outcome: str
    code: int
    upstream: str
    model: str | None = None
    key: str | None = None
    ttft: float | None = None
    """Of a stream."""
    speed: float | None = None
    """Output tokens per second of a stream, once it writes."""
    duration: float = 0.0


class UpstreamStatus(msgspec.Struct):
    """An upstream now, and in the last minutes (`window_seconds`)."""

    name: str
    states: dict[str, int]
    """Endpoints by state."""
    inflight: int
    max_concurrent: int | None
    waiting: int = 0
    """Calls in its queue."""
    attempts: int = 0
    failed: int = 0
    """Of the attempts; those that were given up for another one are none."""
    last_error: str | None = None
    """The `result` of the latest failed attempt."""
    last_error_at: float | None = None
    throttled: int = 0
    """Of the failed ones: answered by 429."""
    ttft_p50: float | None = None
    """From the attempt to its first token, seconds, of streams; within five per cent."""
    ttft_p95: float | None = None
    tokens_per_second: float = 0.0
    """Output tokens of calls that ended in the last minute."""
    speed: float | None = None
    """Tokens per second of one stream, once it writes."""
    spend_today: float = 0.0
    """US dollars since midnight UTC."""


class Totals(msgspec.Struct):
    """All calls that ended in the last minutes; times from receipt, seconds."""

    calls: int = 0
    failed: int = 0
    """Nobody wanted that, and no client caused it."""
    refused: int = 0
    """By a limit of their key, or for a fault of their own."""
    cancelled: int = 0
    calls_per_second: float = 0.0
    """In the last minute."""
    tokens_per_second: float = 0.0
    ttft_p50: float | None = None
    ttft_p95: float | None = None
    slow_share: float | None = None
    """Of the streams: first token later than `ttft_target`."""
    waiting: int = 0
    spend_today: float = 0.0
    spend_since: float = 0.0
    """Unix time: midnight UTC, or later if the ledger could not be read."""


class KeyUse(msgspec.Struct):
    """How much of a limit is used, of the tighter of key and group."""

    key: str
    limit: str
    ratio: float


class KeyEnd(msgspec.Struct):
    """When a key expires, or has (Unix time)."""

    key: str
    at: float


class Reload(msgspec.Struct, omit_defaults=True):
    """The latest time that the configuration was read anew."""

    at: float
    """Unix time."""
    successful: bool
    changes: dict[str, list[str]] = {}
    """By section: names with +, - or ~ before them, as the log has them."""
    faults: list[str] = []
    """Why it was not used: the first few."""
    more_faults: int = 0


class History(msgspec.Struct):
    """One value for each step of the window, oldest first."""

    step_seconds: float = 0.0
    ttft: dict[str, list[float | None]] = {}
    """By upstream: median seconds to the first token; None where no stream began."""
    failed: dict[str, list[int]] = {}
    """By upstream: failed attempts."""
    calls: list[int] = []
    failures: list[int] = []


class Finding(msgspec.Struct, omit_defaults=True):
    """One thing worth saying; the page has the words for each `code`."""

    about: Literal["users", "upstreams", "keys", "relay"]
    code: str
    level: Level
    facts: dict[str, str | float] = {}


class StatusReport(msgspec.Struct):
    """The relay as `/status.json` tells it."""

    version: str
    uptime_seconds: float
    config_path: str
    config_digest: str
    inflight_streams: int
    upstreams: list[UpstreamStatus]
    at: float = 0.0
    """Unix time of all this."""
    window_seconds: float = 0.0
    ttft_target: float = 0.0
    totals: Totals = msgspec.field(default_factory=Totals)
    keys: list[KeyUse] = []
    """The tightest first."""
    keys_near: int = 0
    """Limits of which more than four fifths are used, of the thousand keys that called first."""
    keys_expiring: int = 0
    """Keys that expire within a fortnight."""
    keys_expired: int = 0
    expiring: list[KeyEnd] = []
    """The next ones first."""
    expired: list[KeyEnd] = []
    """The latest first."""
    reload_successful: bool = True
    reloaded_at: float = 0.0
    """When the configuration in effect was put into effect, Unix time."""
    reload: Reload | None = None
    """None before the first one."""
    history: History = msgspec.field(default_factory=History)
    failures: list[Failure] = []
    """The latest first, and so in the three below."""
    refusals: list[Failure] = []
    served: list[Served] = []
    latest: list[Call] = []


class Answer(StatusReport):
    """The same, with its readiness, and what to make of it all."""

    ready: bool = True
    reason: str | None = None
    degraded: list[str] = []
    data_port: int = 0
    """Where clients are served."""
    public_url: str | None = None
    """Where they reach it through a proxy (`server.public_url`)."""
    headline: list[Finding] = []
