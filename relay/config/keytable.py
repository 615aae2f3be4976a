"""The keys of `key_files` as they lie in memory: hundreds of thousands, at some 300 bytes each.

Keys mostly differ in who they are, not in what they may, so what they may is one `Plan` for many. None of this is
seen by the garbage collector (`gc=False`; nothing here can be part of a circle), or a full collection would stop the
event loop for as long as it takes to look at every key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from relay.config.types import LARGEST_COUNT, LARGEST_USD
from relay.config.values import Network, read_network

SHOWN: Final = 3
"""Ids that are remembered as examples of a plan."""
STEP: Final = 256
"""Keys between two breaths: a fifth of a millisecond at most."""

_Count = Annotated[int, Meta(ge=1, le=LARGEST_COUNT)]
_Usd = Annotated[float, Meta(gt=0, le=LARGEST_USD)]


class FiledLimits(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """As `model.Limits`."""

    rpm: _Count | None = None
    tpm: _Count | None = None
    concurrent: _Count | None = None
    requests_per_day: _Count | None = None
    tokens_per_day: _Count | None = None
    tokens_per_month: _Count | None = None
    usd_per_day: _Usd | None = None
    usd_per_month: _Usd | None = None


NO_LIMITS: Final = FiledLimits()


class Plan(Struct, frozen=True, gc=False):
    """What a key may, without who it is. The fields are those of `model.KeyConfig`."""

    models: tuple[str, ...] = ("*",)
    limits: FiledLimits = NO_LIMITS
    group: str | None = None
    weight: int = 1
    abort_billing: Literal["delivered", "drain", "waive"] = "delivered"
    on_revoke: Literal["finish", "cut"] = "finish"


class FiledKey(Struct, frozen=True, gc=False):
    """One key. Reads like a `model.KeyConfig` whose key is known by its hash."""

    id: str
    hash: bytes
    plan: Plan
    expires: datetime | None = None
    addresses: tuple[str, ...] = ()
    """`allow_ips` as text: a network takes ten times the room, and most keys are not in use."""

    @property
    def allow_ips(self) -> tuple[Network, ...]:
        return tuple(map(read_network, self.addresses))

    @property
    def key(self) -> None:
        """Its text is not kept."""
        return None

    @property
    def models(self) -> tuple[str, ...]:
        return self.plan.models

    @property
    def limits(self) -> FiledLimits:
        return self.plan.limits

    @property
    def group(self) -> str | None:
        return self.plan.group

    @property
    def weight(self) -> int:
        return self.plan.weight

    @property
    def abort_billing(self) -> Literal["delivered", "drain", "waive"]:
        return self.plan.abort_billing

    @property
    def on_revoke(self) -> Literal["finish", "cut"]:
        return self.plan.on_revoke


class Use:
    """How many keys have a plan, and the first few of them."""

    __slots__ = ("count", "ids", "plan")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.count = 0
        self.ids: list[str] = []


class KeyTable:
    """All keys of all key files, by id and by hash, and what notices say of them. Filled once, then only read."""

    __slots__ = ("by_digest", "by_id", "expiring", "left_out", "weak")

    def __init__(self) -> None:
        self.by_id: dict[str, FiledKey] = {}
        self.by_digest: dict[bytes, FiledKey] = {}
        self.expiring: list[FiledKey] = []
        """Those that expire, in the order of the files."""
        self.left_out: list[str] = []
        """Ids of entries without a key or a hash; they are no keys of this table."""
        self.weak: list[str] = []
        """Ids of keys that are short enough to be guessed."""

    def __len__(self) -> int:
        return len(self.by_id)

    def add(self, key: FiledKey) -> FiledKey | None:
        """Returns the key that has the same id or hash already, if there is one; then this one is not added."""
        taken = self.by_id.setdefault(key.id, key)
        if taken is not key:
            return taken
        taken = self.by_digest.setdefault(key.hash, key)
        if taken is not key:
            del self.by_id[key.id]
            return taken
        if key.expires is not None:
            self.expiring.append(key)
        return None

    def uses(self) -> Iterable[Use]:
        """Every plan and who has it, counted now."""
        found: dict[int, Use] = {}
        for key in self.by_id.values():
            plan = key.plan
            use = found.get(id(plan))
            if use is None:
                use = found[id(plan)] = Use(plan)
            if use.count < SHOWN:
                use.ids.append(key.id)
            use.count += 1
        return found.values()

    def retire(self, breathe: Callable[[], None]) -> None:
        """Lets all keys go, little by little. For a table that nobody will ask again, in any thread: a hundred
        thousand that go at once hold the interpreter for tens of milliseconds, wherever that happens.
        """
        piles: tuple[dict[Any, Any], ...] = (self.by_id, self.by_digest)
        for pile in piles:
            while pile:
                for _ in range(min(STEP, len(pile))):
                    pile.popitem()
                breathe()
        while self.expiring:
            del self.expiring[-STEP:]
            breathe()
