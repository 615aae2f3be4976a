"""Keys, groups and a gate over them, as small as a test needs: nothing here asserts a behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from relay.admission.configured import AbortBilling, FormerLike, GroupLike, Network, OnRevoke
from relay.admission.gate import Gate, Lease, Need
from relay.admission.principals import Principal, Principals, key_digest
from relay.errors import RelayError

NOW = 86_400.0
"""A monotonic clock that has run for a day, seconds."""
WALL = 1_800_000_000.0
"""Unix time: a day in January 2027."""


@dataclass(frozen=True)
class ModelLimits:
    rpm: int | None = None
    tpm: int | None = None
    concurrent: int | None = None
    requests_per_day: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    usd_per_day: float | None = None
    usd_per_month: float | None = None
    shadow: bool = False


@dataclass(frozen=True)
class Limits(ModelLimits):
    models: dict[str, ModelLimits] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    limits: Limits


@dataclass(frozen=True)
class Key:
    id: str
    limits: Limits
    group: str | None = None
    hash: bytes | None = None
    key: None = None
    models: tuple[str, ...] = ("*",)
    expires: datetime | None = None
    allow_ips: tuple[Network, ...] = field(default=())
    abort_billing: AbortBilling = "delivered"
    weight: float = 1
    on_revoke: OnRevoke = "finish"
    previous: tuple[FormerLike, ...] = ()


def configure(
    keys: dict[str, Limits],
    members: dict[str, str] | None = None,
    groups: dict[str, Limits] | None = None,
) -> tuple[Principals, dict[str, GroupLike]]:
    compiled: dict[str, GroupLike] = {
        name: Group(limits) for name, limits in (groups or {}).items()
    }
    table = [
        Key(id, limits, group=(members or {}).get(id), hash=key_digest(id))
        for id, limits in keys.items()
    ]
    return Principals.build(table, compiled), compiled


def single(**limits: Any) -> tuple[Gate, Principal]:
    principals, groups = configure({"shop": Limits(**limits)})
    return Gate(principals, groups), principals.by_id["shop"]


def grouped(key: Limits, group: Limits) -> tuple[Gate, Principal]:
    principals, groups = configure({"shop": key}, {"shop": "team"}, {"team": group})
    return Gate(principals, groups), principals.by_id["shop"]


def ask(
    gate: Gate,
    principal: Principal,
    now: float = NOW,
    *,
    tokens: int = 0,
    worst: int = 0,
    cost: int = 0,
    wall: float = WALL,
) -> Lease | RelayError:
    try:
        return gate.reserve(principal, "m", Need(tokens, worst, cost), now, wall)
    except RelayError as error:
        return error


def admitted(answer: Lease | RelayError) -> Lease:
    assert isinstance(answer, Lease), answer
    return answer


def refused(answer: Lease | RelayError) -> RelayError:
    assert isinstance(answer, RelayError)
    return answer


def ratios(gate: Gate, now: float = NOW, wall: float = WALL) -> dict[tuple[str, str], float]:
    return {(key, limit): ratio for key, limit, ratio in gate.iter_ratios(now, wall)}
