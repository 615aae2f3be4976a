"""Keys as the configuration holds them, and tables made of them, for the tests of principals."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from relay.admission.configured import (
    NO_LIMITS,
    AbortBilling,
    FormerLike,
    GroupLike,
    LimitsLike,
    Network,
    OnRevoke,
)
from relay.admission.principals import Principals
from tests.quota_rig import Group, Limits

KEY = "sk-relay-0123456789"
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC).timestamp()


@dataclass(frozen=True)
class Secret:
    """A key's text as the configuration holds it."""

    text: str

    def get_secret_value(self) -> str:
        return self.text


@dataclass(frozen=True)
class Key:
    id: str = "shop"
    key: Secret | None = Secret(KEY)
    hash: bytes | None = None
    models: tuple[str, ...] = ("*",)
    limits: LimitsLike = NO_LIMITS
    expires: datetime | None = None
    allow_ips: tuple[Network, ...] = field(default=())
    abort_billing: AbortBilling = "delivered"
    group: str | None = None
    weight: float = 1
    on_revoke: OnRevoke = "finish"
    previous: tuple[FormerLike, ...] = ()


GROUPS: dict[str, GroupLike] = {"team": Group(Limits())}


def table(*keys: Key) -> Principals:
    return Principals.build(keys, GROUPS)


def bearer(key: str) -> bytes:
    """The header that carries this key."""
    return b"Bearer " + key.encode()
