"""Makes client keys, and says what becomes of an entry that is rotated or revoked.

The relay stores only hashes, so a key is shown once, by whoever made it. A key has 256 bits from the system's
randomness: one round of SHA-256 is enough to keep it, nothing to guess.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import string
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import ValidationError

from relay.config.faults import explain, path_of
from relay.config.keymodel import KeyConfig
from relay.config.values import read_instant, write_instant

ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
SIGNS: Final = 43
"""62 to the 43rd is just above 2 to the 256th."""


class KeyRefused(ValueError):
    """What was asked for cannot be an entry of `keys`, or done to one; the message says why."""


def new_key() -> str:
    return "sk-" + "".join(secrets.choice(ALPHABET) for _ in range(SIGNS))


def hash_of(key: str) -> str:
    """As the configuration has it."""
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def entry_of(
    key: str,
    *,
    id: str,
    models: Sequence[str],
    limits: Mapping[str, float],
    **more: Any,
) -> dict[str, Any]:
    """The entry of `keys` for a key, with its hash. What is None in `more` is left out. Raises KeyRefused."""
    entry: dict[str, Any] = {"id": id, "hash": hash_of(key), "models": list(models)}
    if limits:
        entry["limits"] = dict(limits)
    entry |= {name: value for name, value in more.items() if value is not None}
    try:
        KeyConfig.model_validate(entry)
    except ValidationError as error:
        faults = [f"{path_of(loc)} {text}" for loc, _, text in explain(error, entry)]
        raise KeyRefused("; ".join(faults)) from None
    return entry


# --- what becomes of an entry ---------------------------------------------------------------------


def rotated(entry: Mapping[str, Any], key: str, grace: float, wall: float) -> dict[str, Any]:
    """The options that change when `key` takes the place of the one in an entry; None takes an option out.

    The old one stays good for `grace` seconds, and what earlier rotations have left until it is over. Without a grace
    none of them is good any more. Raises KeyRefused where the old one cannot be known.
    """
    former: list[Any] = []
    old = _hash_in(entry)
    if grace > 0:
        former += [one for one in _listed(entry.get("previous")) if not _is_over(one, wall)]
        until = datetime.fromtimestamp(math.ceil(wall + grace), UTC)
        former.append({"hash": old, "until": write_instant(until)})
    options: dict[str, Any] = {"hash": hash_of(key)}
    if former:
        options["previous"] = former
    gone = ["key"] if former else ["key", "previous"]
    return options | {name: None for name in gone if name in entry}


def revoked_and_cut(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The options that change when an entry stays without a key, to say that running answers end."""
    gone = {name: None for name in ("hash", "key", "previous") if name in entry}
    return {"on_revoke": "cut", **gone}


def _hash_in(entry: Mapping[str, Any]) -> str:
    id = entry.get("id")
    given, text = entry.get("hash"), entry.get("key")
    for name, value in (("hash", given), ("key", text)):
        if isinstance(value, str) and "${" in value:
            raise KeyRefused(
                f"the {name} of '{id}' comes from a variable: change what it holds and restart, "
                "or write the hash into the file"
            )
    if isinstance(given, str) and given:
        return given
    if isinstance(text, str) and text.startswith("file:"):
        raise KeyRefused(
            f"the key of '{id}' stands in a file of its own: change it there and reload, "
            "or write its hash into the configuration"
        )
    if isinstance(text, str) and text:
        return hash_of(text)
    raise KeyRefused(f"'{id}' has neither a key nor a hash that could be replaced")


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else []


def _is_over(former: Any, wall: float) -> bool:
    try:
        return read_instant(former["until"]).timestamp() <= wall
    except (TypeError, KeyError, ValueError):
        return False
