"""Keys and groups as the admin writes them: what each may, and what they may use up. See `model` for the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from relay.config.types import (
    ClientKey,
    Count,
    Instant,
    KeyHash,
    Name,
    NetworkAddress,
    Section,
    Text,
    Usd,
)


class ModelLimits(Section):
    """Limits on the use of one model."""

    rpm: Count | None = Field(None, description="Calls per minute (default: none)")
    tpm: Count | None = Field(None, description="Tokens per minute (default: none)")
    concurrent: Count | None = Field(None, description="Calls at once (default: none)")
    requests_per_day: Count | None = Field(None, description="Calls per day, UTC (default: none)")
    tokens_per_day: Count | None = Field(None, description="Tokens per day, UTC (default: none)")
    tokens_per_month: Count | None = Field(
        None, description="Tokens per month, UTC (default: none)"
    )
    usd_per_day: Usd | None = Field(None, description="US$ per day, UTC (default: none)")
    usd_per_month: Usd | None = Field(None, description="US$ per month, UTC (default: none)")
    shadow: bool = Field(False, description="Count only, and refuse nothing")


class Limits(ModelLimits):
    models: dict[Name, ModelLimits] = Field(
        {}, description="Further limits on the use of single models, by name"
    )


class PreviousKey(Section):
    """What a key was before it was rotated."""

    hash: KeyHash = Field(description="SHA-256 of the key before a rotation (required)")
    until: Instant = Field(description="Refused from then on, UTC (required)")


class KeyConfig(Section):
    """A key of ours, for one client."""

    id: Name = Field(description="Its name in logs and metrics (required)")
    key: ClientKey | None = Field(
        None, description="The key itself; left out without one (default: none)"
    )
    hash: KeyHash | None = Field(
        None, description="Or its SHA-256, as `relay keys new` writes it (default: none)"
    )
    previous: list[PreviousKey] = Field(
        [], description="What it was before `relay keys rotate`, good for a while (default: none)"
    )
    models: list[Text] = Field(
        ["*"], description="Models it may use; * fits anything (default: all)"
    )
    limits: Limits = Field(Limits(), description="What it may use up")
    expires: Instant | None = Field(None, description="Refused from then on, UTC (default: never)")
    allow_ips: list[NetworkAddress] = Field(
        [], description="Addresses it may come from; [] for any"
    )
    abort_billing: Literal["delivered", "drain", "waive"] = Field(
        "delivered", description="A client leaves: bill what it got; drain: all; waive: nothing"
    )
    group: Name | None = Field(
        None, description="A name from groups, whose limits count too (default: none)"
    )
    weight: int = Field(1, ge=1, le=1_000_000, description="Its share of a queue's turns")
    on_revoke: Literal["finish", "cut"] = Field(
        "finish", description="A revoked key's running answers: finish, or cut"
    )

    @property
    def digest(self) -> bytes | None:
        """The SHA-256 of the key; None if the entry is left out."""
        key = self.key.get_secret_value() if self.key is not None else ""
        return self.hash or (hashlib.sha256(key.encode()).digest() if key else None)


def demo_id(taken: Callable[[str], bool]) -> str:
    """The id of the key that the relay makes up for the demo: it makes way for a configured key's."""
    id = "demo"
    while taken(id):
        id += "-key"
    return id


class GroupConfig(Section):
    limits: Limits = Field(Limits(), description="What all its keys together may use up")
