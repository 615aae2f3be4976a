"""Makes client keys. The relay stores only their hashes, so a key is shown once, by whoever made it.

A key has 256 bits from the system's randomness: one round of SHA-256 is enough to keep it, nothing to guess.
"""

from __future__ import annotations

import hashlib
import secrets
import string
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from relay.config.faults import explain, path_of
from relay.config.model import KeyConfig

ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
SIGNS: Final = 43
"""62 to the 43rd is just above 2 to the 256th."""


class KeyRefused(ValueError):
    """What was asked for is no entry of `keys`; the message says why."""


def new_key() -> str:
    return "sk-" + "".join(secrets.choice(ALPHABET) for _ in range(SIGNS))


def entry_of(
    key: str,
    *,
    id: str,
    models: Sequence[str],
    limits: Mapping[str, int],
    expires: str | None = None,
) -> dict[str, Any]:
    """The entry of `keys` for a key, with its hash. Raises KeyRefused."""
    digest = hashlib.sha256(key.encode()).hexdigest()
    entry: dict[str, Any] = {"id": id, "hash": f"sha256:{digest}", "models": list(models)}
    if limits:
        entry["limits"] = dict(limits)
    if expires is not None:
        entry["expires"] = expires
    try:
        KeyConfig.model_validate(entry)
    except ValidationError as error:
        faults = [f"{path_of(loc)} {text}" for loc, _, text in explain(error, entry)]
        raise KeyRefused("; ".join(faults)) from None
    return entry
