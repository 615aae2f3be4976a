"""All keys of a configuration one after the other, as a list shows them: what each may, where it stands, its state.

Each entry is judged by itself, so that a fault elsewhere, or a variable that is not set in an admin's shell, hides
nothing but what it touches. Nothing of a key's text or hash is in a `Row`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError

from relay.config.document import Document
from relay.config.faults import ConfigErrors, Fault, explain, path_of
from relay.config.file import read
from relay.config.keyfiles import KeyFiles, without_a_break
from relay.config.keylines import Unreadable, Wrong
from relay.config.keymodel import KeyConfig
from relay.config.keytable import FiledKey, FiledLimits
from relay.config.rules import key_files, known_keys
from relay.config.types import Reading
from relay.config.values import write_instant
from relay.keys.intake import without_defaults

LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True)
class Row:
    """One key."""

    id: str
    place: str
    """File and line."""
    state: str
    models: tuple[str, ...] = ()
    limits: Mapping[str, Any] | None = None
    """Those that are set, as they are written."""
    group: str | None = None
    expires: datetime | None = None
    until: datetime | None = None
    """Until when one of its former keys is good."""

    @property
    def expires_text(self) -> str | None:
        return None if self.expires is None else write_instant(self.expires)

    @property
    def limits_text(self) -> str:
        return _limits_text(self.limits or {})

    def as_json(self) -> dict[str, Any]:
        until = None if self.until is None else write_instant(self.until)
        found = {
            "id": self.id,
            "state": self.state,
            "place": self.place,
            "models": list(self.models),
            "limits": dict(self.limits or {}),
            "group": self.group,
            "expires": self.expires_text,
            "rotating_until": until,
        }
        return {name: value for name, value in found.items() if value is not None}


def survey(path: Path, env: Mapping[str, str], wall: float) -> Iterator[Row]:
    """Every key, in the order of the files. Raises ConfigErrors for a file that cannot be read at all."""
    document = Document(str(path), env)
    data = document.read(read(path))
    now = datetime.fromtimestamp(wall, UTC)
    entries = data.get("keys")
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        line = document.line(("keys", index))
        yield _written(entry, f"{path}:{line}", Reading(path.parent), now)
    files = KeyFiles(known_keys(data, path.parent), without_a_break)
    for _, name in key_files(data):
        file = path.parent / name
        try:
            for number, found in files.look(file):
                yield _filed(found, f"{file}:{number}", now)
        except Unreadable as error:
            raise ConfigErrors([Fault(str(file), 0, 0, str(error))]) from None


def _written(entry: Any, place: str, reading: Reading, now: datetime) -> Row:
    """An entry of `keys`."""
    try:
        key = KeyConfig.model_validate(entry, context=reading)
    except ValidationError as error:
        id = str(entry.get("id", "?")) if isinstance(entry, dict) else "?"
        loc, _, words = next(explain(error, entry, ("keys", 0)))
        return Row(id, place, f"faulty: {path_of(loc)} {words}")
    limits = without_defaults(key.limits.model_dump())
    return _row(key, key.digest is None, limits, place, now)


def _filed(found: FiledKey | str | Wrong, place: str, now: datetime) -> Row:
    """A line of a key file."""
    if isinstance(found, str):
        return Row(found, place, LEFT_OUT)
    if isinstance(found, Wrong):
        loc, words = found.found[0]
        return Row("?", place, f"faulty: {path_of(loc)} {words}")
    return _row(found, False, _written_limits(found.limits), place, now)


@lru_cache(maxsize=1024)
def _written_limits(limits: FiledLimits) -> dict[str, Any]:
    return without_defaults(msgspec.to_builtins(limits))


def _row(
    key: KeyConfig | FiledKey, out: bool, limits: dict[str, Any], place: str, now: datetime
) -> Row:
    until = max((one.until for one in key.previous if one.until > now), default=None)
    if out:
        state = LEFT_OUT
    elif key.expires is not None and key.expires <= now:
        state = "expired"
    elif until is not None:
        state = f"rotating until {write_instant(until)}"
    else:
        state = "active"
    return Row(
        key.id,
        place,
        state,
        tuple(key.models),
        limits,
        key.group,
        key.expires,
        until,
    )


def _limits_text(limits: Mapping[str, Any]) -> str:
    parts = [
        f"{name} {value:,.12g}"
        for name, value in limits.items()
        if name not in ("models", "shadow")
    ]
    parts += [f"{model}: {_limits_text(one)}" for model, one in limits.get("models", {}).items()]
    text = ", ".join(parts)
    return f"{text} (counted only)" if limits.get("shadow") else text
