"""Whose key a call carries: the table of keys and the look-up.

Rules that hold inside: a key is known by its SHA-256 only, and looked up by that digest in a dict,
so no comparison ever touches key text and timing tells nothing about it; whatever bytes a client
sends, the answer is a principal or one of three errors; no error repeats what was sent.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fnmatch import translate
from functools import lru_cache
from hashlib import sha256
from typing import Final

from relay.admission.configured import (
    NO_LIMITS,
    AbortBilling,
    FiledKeys,
    GroupLike,
    Holder,
    KeyLike,
    LimitsLike,
    Network,
    NoKeys,
    OnRevoke,
)
from relay.errors import AddressNotAllowed, InvalidKey, NoKey, RelayError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_SCHEME: Final = b"bearer "
_KNOWN_MODELS: Final = 256
"""Verdicts a principal remembers: model names are the client's words, so memory must be bounded."""


STEP: Final = 256
"""Principals between two breaths: a fraction of a millisecond."""


class Principal:
    """One key's rights, as configured. Lives until the next reload, or the last call it began."""

    __slots__ = (
        "_allowed",
        "_pattern",
        "abort_billing",
        "demo",
        "digest",
        "expires",
        "former",
        "group",
        "id",
        "limits",
        "models",
        "networks",
        "on_revoke",
        "restricted",
        "revoked",
        "weight",
    )

    def __init__(
        self,
        id: str,
        digest: bytes,
        *,
        models: Sequence[str] = ("*",),
        limits: LimitsLike = NO_LIMITS,
        expires: float | None = None,
        networks: Sequence[Network] = (),
        group: str | None = None,
        abort_billing: AbortBilling = "delivered",
        weight: float = 1,
        on_revoke: OnRevoke = "finish",
        former: Mapping[bytes, float] | None = None,
        demo: bool = False,
    ) -> None:
        self.id = id
        self.digest = digest
        self.models = models
        self.limits = limits
        self.expires = expires
        """Unix time, seconds."""
        self.networks = networks
        self.group = group
        self.abort_billing = abort_billing
        self.weight = weight
        self.on_revoke = on_revoke
        self.former: Mapping[bytes, float] = {} if former is None else former
        """Digests it had before it was rotated, and until when each is good (Unix time, seconds)."""
        self.demo = demo
        """Usable from loopback only."""
        self.restricted = bool(demo or networks or former or expires is not None)
        """Whether the digest alone is not enough."""
        self.revoked = False
        """A reload has taken it away: whoever has not begun yet is refused."""
        self._pattern: re.Pattern[str] | None = None
        self._allowed: dict[str, bool] | None = None

    def __repr__(self) -> str:
        return f"<Principal {self.id}>"

    def allows(self, model: str) -> bool:
        """Whether one of the key's globs matches the whole name; case counts, blanks too."""
        allowed = self._allowed
        if allowed is None or len(allowed) >= _KNOWN_MODELS:
            allowed = self._allowed = {}
        verdict = allowed.get(model)
        if verdict is None:
            verdict = allowed[model] = self._matches(model)
        return verdict

    def _matches(self, model: str) -> bool:
        pattern = self._pattern
        if pattern is None:
            pattern = self._pattern = _compile(tuple(self.models))
        return pattern.match(model) is not None

    def refuse(self, digest: bytes, client_ip: str | None, wall: float, local: bool) -> None:
        """Raise when the key is right but may not be used now, or not from there."""
        error: RelayError
        until = self.former.get(digest)
        if self.expires is not None and wall >= self.expires:
            error = InvalidKey("This API key has expired.")
        elif until is not None and wall >= until:
            error = InvalidKey("This API key has been replaced: use the new one.")
        elif not self._may_come_from(client_ip, local):
            error = AddressNotAllowed()
        else:
            return
        error.key = self.id
        raise error

    def _may_come_from(self, client_ip: str | None, local: bool) -> bool:
        address = _address(client_ip) if client_ip else None
        if self.demo:
            return local or (address is not None and address.is_loopback)
        if not self.networks:
            return True
        return address is not None and any(address in network for network in self.networks)


class Principals:
    """Every key of one configuration, by digest and by id. Lives until the next reload.

    Keys of key files are compiled when they call: a hundred thousand that never do cost nothing here.
    """

    __slots__ = ("_filed", "_groups", "by_digest", "by_id")

    def __init__(
        self, principals: Iterable[Principal] = (), filed: FiledKeys | None = None
    ) -> None:
        self.by_digest: dict[bytes, Principal] = {}
        self.by_id: dict[str, Principal] = {}
        """All but those of key files."""
        self._filed: FiledKeys = NoKeys() if filed is None else filed
        for principal in principals:
            self.add(principal)

    @classmethod
    def build(
        cls,
        keys: Iterable[KeyLike],
        groups: Mapping[str, GroupLike],
        filed: FiledKeys | None = None,
    ) -> Principals:
        """Compile configured keys; an entry with neither key nor hash is left out.

        Who read `filed` has made sure that their groups exist, and that no id or key is there twice or among `keys`.
        """
        principals = cls((), filed)
        for key in keys:
            digest = _digest_of(key)
            if digest is None:
                continue
            if key.group is not None and key.group not in groups:
                raise ValueError(f"key {key.id}: there is no group {key.group}")
            principals.add(_compiled(key, digest))
        return principals

    def __len__(self) -> int:
        return len(self.by_id) + len(self._filed)

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and self.get(id) is not None

    def get(self, id: str) -> Holder | None:
        """Who has this id."""
        return self.by_id.get(id) or self._filed.of_id(id)

    def of_id(self, id: str) -> Principal | None:
        """Who has this id, compiled."""
        principal = self.by_id.get(id)
        if principal is None:
            key = self._filed.of_id(id)
            digest = None if key is None else _digest_of(key)
            principal = None if digest is None else self._find(digest)
        return principal

    def expiries(self) -> Iterator[tuple[str, float]]:
        """(id, Unix time) of the keys that expire."""
        for principal in self.by_id.values():
            if principal.expires is not None:
                yield principal.id, principal.expires
        for key in self._filed.expiring:
            if key.expires is not None:
                yield key.id, _unix(key.expires)

    def add(self, principal: Principal) -> None:
        """Two principals share neither an id (their use would be one) nor a key (whose call?)."""
        if principal.id in self:
            raise ValueError(f"two keys have the id {principal.id}")
        digests = [principal.digest, *principal.former]
        for digest in digests:
            other = self._find(digest)
            if other is not None:
                raise ValueError(f"{other.id} and {principal.id}: same key")
        self.by_id[principal.id] = principal
        for digest in digests:
            self.by_digest[digest] = principal

    def add_demo(self, key: str, models: Sequence[str], id: str = "demo") -> Principal:
        """Let `key` in for `models`, from loopback only. `id` must be free."""
        principal = Principal(id, key_digest(key), models=models, demo=True)
        self.add(principal)
        return principal

    def knows(self, digest: bytes) -> bool:
        """Whether this is the digest of a key, or was before a rotation."""
        return digest in self.by_digest or self._filed.of_digest(digest) is not None

    def retire(self, breathe: Callable[[], None]) -> None:
        """Forgets everybody little by little, in any thread. Only when nobody will ask again."""
        self.by_id.clear()
        while self.by_digest:
            for _ in range(min(STEP, len(self.by_digest))):
                self.by_digest.popitem()
            breathe()

    def _find(self, digest: bytes) -> Principal | None:
        """Whose key has this digest; one of a key file is compiled at its first call."""
        principal = self.by_digest.get(digest)
        if principal is None:
            key = self._filed.of_digest(digest)
            own = None if key is None else _digest_of(key)
            if key is not None and own is not None:
                # By whichever of its digests it calls, it is one.
                principal = _compiled(key, own)
                for one in (digest, own, *principal.former):
                    self.by_digest[one] = principal
        return principal

    def authenticate(
        self,
        authorization: bytes | None,
        client_ip: str | None,
        wall: float,
        local: bool = False,
    ) -> Principal:
        """The principal of an `Authorization` header's bytes, exactly as sent.

        `local`: the peer is on loopback and names nobody whom it speaks for. That is enough for the demo key, while
        `client_ip` may be unknown, because loopback is usually a trusted proxy.

        Everything behind `Bearer` and one space is the key: a further blank makes another one.
        """
        if not authorization or authorization[:7].lower() != _SCHEME:
            raise NoKey
        token = authorization[7:]
        if not token or token.isspace():
            raise NoKey
        digest = sha256(token).digest()
        principal = self.by_digest.get(digest) or self._find(digest)
        if principal is None:
            raise InvalidKey
        if principal.restricted:
            principal.refuse(digest, client_ip, wall, local)
        return principal


def key_digest(key: str) -> bytes:
    """The 32 bytes a key is known by."""
    return sha256(key.encode("utf-8", "surrogatepass")).digest()


def nano_dollars(dollars: Decimal | float | None) -> int | None:
    """Configured dollars as whole nano-dollars, exact for what the admin wrote."""
    return None if dollars is None else int(Decimal(str(dollars)) * 10**9)


def _compiled(key: KeyLike, digest: bytes) -> Principal:
    expires = key.expires
    return Principal(
        key.id,
        digest,
        models=key.models,
        limits=key.limits,
        expires=None if expires is None else _unix(expires),
        networks=key.allow_ips,
        group=key.group,
        abort_billing=key.abort_billing,
        weight=key.weight,
        on_revoke=key.on_revoke,
        former={one.hash: _unix(one.until) for one in key.previous},
    )


def _digest_of(key: KeyLike) -> bytes | None:
    if key.hash is not None:
        return key.hash
    text = key.key.get_secret_value() if key.key is not None else ""
    return key_digest(text) if text else None


def _unix(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


@lru_cache(maxsize=1024)
def _compile(globs: tuple[str, ...]) -> re.Pattern[str]:
    """One pattern for all globs; keys that share their globs share it."""
    return re.compile("|".join(translate(glob) for glob in globs) or r"(?!)")


@lru_cache(maxsize=1024)
def _address(text: str) -> Address | None:
    """The address a client's text means; an IPv4 one mapped into IPv6 is that IPv4 one."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
