"""The options of an upstream: where it is, the credentials for it, and our patience with it."""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    field_validator,
    model_validator,
)

from relay.config.types import (
    LARGEST_COUNT,
    BaseUrl,
    Count,
    ExistingFile,
    ProviderKey,
    Section,
    Text,
    TimeLimit,
    UrlPath,
)


class Queue(Section):
    max_wait: TimeLimit = Field(10.0, description="A call waits at most this long for its turn")
    max_calls: int = Field(
        1000, ge=0, le=LARGEST_COUNT, description="Waiting calls at most; 0 for no queue"
    )


class UpstreamTimeouts(Section):
    connect: TimeLimit = Field(3.0, description="To connect, TLS included")
    first_token: TimeLimit = Field(
        30.0, description="Streamed calls: silence before the first token"
    )
    idle: TimeLimit = Field(60.0, description="Silence in the middle of a stream")
    answer: TimeLimit = Field(600.0, description="Calls that do not stream: until the answer")
    total: TimeLimit = Field(1800.0, description="Any call, from start to end")


class UpstreamConnections(Section):
    max_idle: TimeLimit = Field(
        4.0, description="An idle one is closed after this; less than the provider's own limit"
    )
    max_age: TimeLimit = Field(
        300.0, description="Any is replaced after this, so that a changed address is followed"
    )
    max_kept: int = Field(
        1000, ge=0, le=LARGEST_COUNT, description="Idle ones kept at most, for each API key"
    )


SHORTEST_INTERVAL: Final = 1.0
"""Seconds between two probes."""


class Probe(Section):
    interval: TimeLimit = Field(
        10.0, description="It is asked as often while it is ejected, or a little more often"
    )
    path: UrlPath = Field("/models", description="What is asked for, below base_url; 2xx is good")

    @field_validator("interval")
    @classmethod
    def _not_at_once(cls, seconds: float) -> float:
        if seconds < SHORTEST_INTERVAL:
            raise ValueError(f"must be {SHORTEST_INTERVAL:g}s or longer")
        return seconds


class UpstreamConfig(Section):
    """A provider: where it is, the credentials for it, and our patience with it."""

    _left_out: bool = PrivateAttr(False)

    kind: Literal["openai", "demo"] = Field(
        "openai", description="openai, or demo: a canned answer from the relay itself"
    )
    base_url: BaseUrl | None = Field(
        None, description="Address of its API, up to /v1 (required, but for demo)"
    )
    api_keys: list[ProviderKey] = Field(
        [], description="They take turns; left out if all are empty (default: needs none)"
    )
    account: Text | None = Field(
        None, description="Upstreams of one account share its limits (default: its own)"
    )
    max_concurrent: Count | None = Field(None, description="Calls at once (default: no limit)")
    queue: Queue = Field(Queue(), description="Where calls wait while it is full")
    timeouts: UpstreamTimeouts = Field(UpstreamTimeouts(), description="Patience with it")
    connections: UpstreamConnections = Field(
        UpstreamConnections(), description="How long connections to it are kept"
    )
    probe: Probe | None = Field(
        None, description="While it is ejected, ask it ourselves, not by a call (default: off)"
    )
    usage: Literal["final", "continuous", "none"] = Field(
        "final", description="Token counts to ask streams for: final, continuous (vLLM), or none"
    )
    ca_file: ExistingFile | None = Field(
        None, description="Trust this certificate authority too (default: only the system's)"
    )

    @model_validator(mode="wrap")
    @classmethod
    def _without_empty_keys(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        made = handler(data)
        given = len(made.api_keys)
        made.api_keys[:] = [key for key in made.api_keys if key.get_secret_value()]
        made._left_out = given > 0 and not made.api_keys
        return made

    @property
    def left_out(self) -> bool:
        """It has keys by name only: their variables are empty."""
        return self._left_out
