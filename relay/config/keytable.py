"""The keys of `key_files` as they lie in memory: hundreds of thousands, at some 300 bytes each.

Keys mostly differ in who they are, not in what they may, so what they may is one `Plan` for many. None of this is
seen by the garbage collector (`gc=False`; nothing here can be part of a circle), or a full collection would stop the
event loop for as long as it takes to look at every key.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct
from msgspec.structs import astuple

from relay.config.types import LARGEST_COUNT, LARGEST_USD
from relay.config.values import Network, read_network

SHOWN: Final = 3
"""Ids that are remembered as examples of a plan."""
SHARDS: Final = 64
STEP: Final = 1024
"""Keys between two breaths: a fifth of a millisecond at most."""

_Count = Annotated[int, Meta(ge=1, le=LARGEST_COUNT)]
_Usd = Annotated[float, Meta(gt=0, le=LARGEST_USD)]


class FiledModelLimits(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """As `model.ModelLimits`."""

    rpm: _Count | None = None
    tpm: _Count | None = None
    concurrent: _Count | None = None
    requests_per_day: _Count | None = None
    tokens_per_day: _Count | None = None
    tokens_per_month: _Count | None = None
    usd_per_day: _Usd | None = None
    usd_per_month: _Usd | None = None
    shadow: bool = False


class FiledLimits(FiledModelLimits, frozen=True, gc=False, forbid_unknown_fields=True):
    """As `model.Limits`."""

    models: dict[str, FiledModelLimits] = {}

    def __hash__(self) -> int:
        """Of what can be hashed; few plans differ in the rest only."""
        return hash((*astuple(self)[:-1], *self.models))


NO_LIMITS: Final = FiledLimits()


class Plan(Struct, frozen=True, gc=False):
    """What a key may, without who it is. The fields are those of `model.KeyConfig`."""

    models: tuple[str, ...] = ("*",)
    limits: FiledLimits = NO_LIMITS
    group: str | None = None
    weight: int = 1
    abort_billing: Literal["delivered", "drain", "waive"] = "delivered"
    on_revoke: Literal["finish", "cut"] = "finish"


class FormerHash(Struct, frozen=True, gc=False):
    """As `model.PreviousKey`."""

    hash: bytes
    until: datetime


class FiledKey(Struct, frozen=True, gc=False):
    """One key. Reads like a `model.KeyConfig` whose key is known by its hash."""

    id: str
    hash: bytes
    plan: Plan
    expires: datetime | None = None
    addresses: tuple[str, ...] = ()
    """`allow_ips` as text: a network takes ten times the room, and most keys are not in use."""
    previous: tuple[FormerHash, ...] = ()

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
    """All keys of all key files, and what notices say of them. Filled once, then only read."""

    __slots__ = ("_by_digest", "_by_id", "cut", "expiring", "keys", "left_out", "weak")

    def __init__(self) -> None:
        # One table of 100,000 would hold the interpreter for 15 ms whenever it grows.
        self._by_id: list[dict[str, FiledKey]] = [{} for _ in range(SHARDS)]
        self._by_digest: list[dict[bytes, FiledKey]] = [{} for _ in range(SHARDS)]
        self.keys: list[FiledKey] = []
        """In the order of the files."""
        self.expiring: list[FiledKey] = []
        """Those that expire, in the same order."""
        self.left_out: list[str] = []
        """Ids of entries without a key or a hash; they are no keys of this table."""
        self.cut: list[str] = []
        """Those of them that ask for an end of running answers."""
        self.weak: list[str] = []
        """Ids of keys that are short enough to be guessed."""

    def __len__(self) -> int:
        return len(self.keys)

    def of_id(self, id: str) -> FiledKey | None:
        return self._by_id[hash(id) % SHARDS].get(id)

    def of_digest(self, digest: bytes) -> FiledKey | None:
        """The key that has this SHA-256 (32 bytes), or had it before a rotation."""
        return self._by_digest[digest[0] % SHARDS].get(digest)

    def add(self, key: FiledKey) -> FiledKey | None:
        """Returns the key that has the same id or hash already, if there is one; then this one is not added."""
        id, digest = key.id, key.hash
        ids = self._by_id[hash(id) % SHARDS]
        taken = ids.setdefault(id, key)
        if taken is not key:
            return taken
        taken = self._by_digest[digest[0] % SHARDS].setdefault(digest, key)
        if taken is not key:
            del ids[id]
            return taken
        twin = self._add_former(key) if key.previous else None
        if twin is not None:
            del ids[id]
            return twin
        self.keys.append(key)
        if key.expires is not None:
            self.expiring.append(key)
        return None

    def _add_former(self, key: FiledKey) -> FiledKey | None:
        """Adds what the key was before. Returns who has one of these hashes already, if need be the key itself; then
        none of its hashes is there.
        """
        added = [key.hash]
        for former in key.previous:
            digest = former.hash
            known = self._by_digest[digest[0] % SHARDS]
            taken = known.get(digest)
            if taken is not None:
                for one in added:
                    del self._by_digest[one[0] % SHARDS][one]
                return taken
            known[digest] = key
            added.append(digest)
        return None

    def uses(self, breathe: Callable[[], None]) -> list[Use]:
        """Every plan and who has it, counted now."""
        found: dict[int, Use] = {}
        for number, key in enumerate(self.keys):
            if number % STEP == 0:
                breathe()
            plan = key.plan
            use = found.get(id(plan))
            if use is None:
                use = found[id(plan)] = Use(plan)
            if use.count < SHOWN:
                use.ids.append(key.id)
            use.count += 1
        return list(found.values())

    def retire(self, breathe: Callable[[], None]) -> None:
        """Lets all keys go, little by little. For a table that nobody will ask again, in any thread: a hundred
        thousand that go at once hold the interpreter for tens of milliseconds, wherever that happens.
        """
        self.expiring.clear()
        for ids, digests in zip(self._by_id, self._by_digest, strict=True):
            ids.clear()
            digests.clear()
            breathe()
        while self.keys:
            del self.keys[-STEP:]
            breathe()
