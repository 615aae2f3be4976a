"""What admission reads of a configuration: keys, groups and their limits, without knowing where they stand."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Literal, Protocol

AbortBilling = Literal["delivered", "drain", "waive"]
OnRevoke = Literal["finish", "cut"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class SecretLike(Protocol):
    def get_secret_value(self) -> str: ...


class ModelLimitsLike(Protocol):
    """What admission reads of configured limits; None is no limit. Money is in dollars."""

    @property
    def rpm(self) -> int | None: ...
    @property
    def tpm(self) -> int | None: ...
    @property
    def concurrent(self) -> int | None: ...
    @property
    def requests_per_day(self) -> int | None: ...
    @property
    def tokens_per_day(self) -> int | None: ...
    @property
    def tokens_per_month(self) -> int | None: ...
    @property
    def usd_per_day(self) -> Decimal | float | None: ...
    @property
    def usd_per_month(self) -> Decimal | float | None: ...
    @property
    def shadow(self) -> bool: ...


class LimitsLike(ModelLimitsLike, Protocol):
    """The limits of a key or group, and those of single models besides."""

    @property
    def models(self) -> Mapping[str, ModelLimitsLike]: ...


class GroupLike(Protocol):
    @property
    def limits(self) -> LimitsLike: ...


class FormerLike(Protocol):
    """What a key was before a rotation."""

    @property
    def hash(self) -> bytes: ...
    @property
    def until(self) -> datetime: ...


class KeyLike(Protocol):
    """What admission reads of a configured key."""

    @property
    def id(self) -> str: ...
    @property
    def key(self) -> SecretLike | None: ...
    @property
    def hash(self) -> bytes | None: ...
    @property
    def previous(self) -> Sequence[FormerLike]: ...
    @property
    def models(self) -> Sequence[str]: ...
    @property
    def limits(self) -> LimitsLike: ...
    @property
    def expires(self) -> datetime | None: ...
    @property
    def allow_ips(self) -> Sequence[Network]: ...
    @property
    def abort_billing(self) -> AbortBilling: ...
    @property
    def group(self) -> str | None: ...
    @property
    def weight(self) -> float: ...
    @property
    def on_revoke(self) -> OnRevoke: ...


class FiledKeys(Protocol):
    """Very many configured keys, compiled one by one when they first call. All of them have a hash."""

    def __len__(self) -> int: ...
    def of_id(self, id: str) -> KeyLike | None: ...
    def of_digest(self, digest: bytes) -> KeyLike | None: ...
    @property
    def expiring(self) -> Sequence[KeyLike]: ...


class NoKeys:
    """No key files."""

    def __init__(self) -> None:
        self.expiring: list[KeyLike] = []

    def __len__(self) -> int:
        return 0

    def of_id(self, id: str) -> KeyLike | None:
        return None

    def of_digest(self, digest: bytes) -> KeyLike | None:
        return None


class Holder(Protocol):
    """Whoever has an id, as the gate sees it: a principal, or a key of a file that has not called yet."""

    @property
    def id(self) -> str: ...
    @property
    def limits(self) -> LimitsLike: ...
    @property
    def group(self) -> str | None: ...


class NoLimits:
    """The limits of a key that has none."""

    rpm: int | None = None
    tpm: int | None = None
    concurrent: int | None = None
    requests_per_day: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    usd_per_day: Decimal | float | None = None
    usd_per_month: Decimal | float | None = None
    shadow: bool = False

    def __init__(self) -> None:
        self.models: Mapping[str, ModelLimitsLike] = {}


NO_LIMITS: LimitsLike = NoLimits()
