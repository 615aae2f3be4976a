"""What options must be to each other.

Rules look at the file as it was written, not at validated models: a mistake in one place must not hide another
elsewhere. A value of the wrong type is passed over here, its type reports it. A rule is a function and an entry in
`RULES`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, NamedTuple

from relay.config.types import secret_text
from relay.config.values import read_listen

Loc = tuple[str | int, ...]


class Problem(NamedTuple):
    """A fault that a rule found, at a place of the file."""

    loc: Loc
    message: str


# --- reading what was written ---------------------------------------------------------------------


def _sections(data: Any, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The named sections under an option, in order; what is no section is passed over."""
    found = data.get(name)
    if isinstance(found, dict):
        yield from ((key, one) for key, one in found.items() if isinstance(one, dict))


def _entries(data: Any, name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    yield from ((index, one) for index, one in _items(data, name) if isinstance(one, dict))


def _items(data: Any, name: str) -> Iterator[tuple[int, Any]]:
    found = data.get(name)
    if isinstance(found, list):
        yield from enumerate(found)


def _names(data: Any, name: str) -> list[str]:
    found = data.get(name)
    return list(found) if isinstance(found, dict) else []


def _text(section: Mapping[str, Any], name: str) -> str | None:
    value = section.get(name)
    return value if isinstance(value, str) and value else None


def _given(section: Mapping[str, Any], name: str) -> bool:
    return section.get(name) not in (None, "")


def nearest(name: str, known: list[str]) -> str:
    """The end of a sentence that names what may have been meant."""
    close = get_close_matches(name, known, n=1)
    if close:
        return f", did you mean '{close[0]}'?"
    some = ", ".join(f"'{one}'" for one in known[:5])
    return f" (there are: {some}{', …' if len(known) > 5 else ''})" if known else ""


# --- rules ----------------------------------------------------------------------------------------


def _upstreams_have_addresses(data: Any, _: Path) -> Iterator[Problem]:
    for name, upstream in _sections(data, "upstreams"):
        if upstream.get("kind", "openai") == "openai" and not _given(upstream, "base_url"):
            yield Problem(("upstreams", name, "base_url"), "is required")


def _models_have_one_answer(data: Any, _: Path) -> Iterator[Problem]:
    for name, model in _sections(data, "models"):
        loc = ("models", name)
        pool, static = _given(model, "pool"), _given(model, "static")
        if pool and static:
            yield Problem((*loc, "static"), "is one too many: write either pool or static")
        elif not pool and not static:
            yield Problem(loc, "needs a pool of upstreams, or a static text")
        elif pool and model["pool"] == []:
            yield Problem((*loc, "pool"), "has no upstream")


def _pools_serve(data: Any, _: Path) -> Iterator[Problem]:
    known = _names(data, "upstreams")
    for name, model in _sections(data, "models"):
        entries = list(_entries(model, "pool"))
        seen: dict[tuple[str, str], int] = {}
        for index, entry in entries:
            upstream = _text(entry, "upstream")
            if upstream is None:
                continue
            loc = ("models", name, "pool", index)
            if upstream not in known:
                ending = nearest(upstream, known)
                yield Problem((*loc, "upstream"), f"there is no upstream '{upstream}'{ending}")
            first = seen.setdefault((upstream, _text(entry, "model") or name), index)
            if first != index:
                yield Problem(loc, f"is the same upstream and model as pool[{first}]")
        weights = [entry.get("weight", 1) for _, entry in entries]
        if weights and all(weight == 0 and weight is not False for weight in weights):
            yield Problem(
                ("models", name, "pool"), "has only weights of 0: nothing would be served"
            )


def _fallbacks_exist(data: Any, _: Path) -> Iterator[Problem]:
    known = _names(data, "models")
    for name, model in _sections(data, "models"):
        for index, other in _items(model, "fallback"):
            if isinstance(other, str) and other and other not in known:
                loc = ("models", name, "fallback", index)
                yield Problem(loc, f"there is no model '{other}'{nearest(other, known)}")


def _fallbacks_end(data: Any, _: Path) -> Iterator[Problem]:
    edges = {name: list(_items(model, "fallback")) for name, model in _sections(data, "models")}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> Iterator[Problem]:
        for index, other in edges.get(name, ()):
            if other in trail:
                circle = " -> ".join((*trail[trail.index(other) :], other))
                yield Problem(("models", name, "fallback", index), f"leads in a circle: {circle}")
            elif isinstance(other, str) and other not in done:
                yield from visit(other, (*trail, other))
        done.add(name)

    for name in edges:
        if name not in done:
            yield from visit(name, (name,))


def _keys_differ(data: Any, base: Path) -> Iterator[Problem]:
    ids: dict[str, int] = {}
    digests: dict[str, int] = {}
    for index, key in _entries(data, "keys"):
        loc = ("keys", index)
        name = _text(key, "id")
        if name is not None:
            first = ids.setdefault(name, index)
            if first != index:
                yield Problem((*loc, "id"), f"'{name}' is already the id of keys[{first}]")
        if _given(key, "key") and _given(key, "hash"):
            yield Problem((*loc, "hash"), "is one too many: write either key or hash")
        for place, digest in _digests(key, base):
            if digest in digests:
                yield Problem((*loc, *place), f"is the same key as that of keys[{digests[digest]}]")
            digests.setdefault(digest, index)


def _digest(key: Mapping[str, Any], base: Path) -> tuple[str, str | None]:
    """The option that holds the key, and the key's SHA-256 in hex."""
    digest = _text(key, "hash")
    if digest is not None:
        return "hash", digest.removeprefix("sha256:").lower()
    text = _text(key, "key")
    try:
        secret = secret_text(text, base) if text is not None else ""
    except ValueError:
        return "key", None
    return "key", hashlib.sha256(secret.encode()).hexdigest() if secret else None


def _digests(key: Mapping[str, Any], base: Path) -> Iterator[tuple[Loc, str]]:
    """What the key is and was: the options that say so, and SHA-256 in hex."""
    field, digest = _digest(key, base)
    if digest is not None:
        yield (field,), digest
    for index, former in _entries(key, "previous"):
        text = _text(former, "hash")
        if text is not None:
            yield ("previous", index, "hash"), text.removeprefix("sha256:").lower()


class KnownKeys(NamedTuple):
    """What the rest of the file holds that keys in `key_files` must fit to."""

    base: Path
    """`file:` secrets are relative to it."""
    groups: list[str]
    models: list[str]
    ids: dict[str, str]
    """Ids under `keys`, and where they stand."""
    digests: dict[bytes, str]
    """SHA-256 of the keys there, likewise."""


def known_keys(data: Any, base: Path) -> KnownKeys:
    known = KnownKeys(base, _names(data, "groups"), _names(data, "models"), {}, {})
    for index, key in _entries(data, "keys"):
        place = f"keys[{index}]"
        name = _text(key, "id")
        if name is not None:
            known.ids.setdefault(name, place)
        for _, digest in _digests(key, base):
            if re.fullmatch("[0-9a-f]{64}", digest):
                known.digests.setdefault(bytes.fromhex(digest), place)
    return known


def key_files(data: Any) -> Iterator[tuple[int, str]]:
    """Where each is named, and its name."""
    for index, name in _items(data, "key_files"):
        if isinstance(name, str) and name.strip():
            yield index, name


def _key_files_differ(data: Any, base: Path) -> Iterator[Problem]:
    seen: dict[Path, int] = {}
    for index, name in key_files(data):
        first = seen.setdefault((base / name).resolve(), index)
        if first != index:
            yield Problem(("key_files", index), f"is the same file as key_files[{first}]")


def _groups_exist(data: Any, _: Path) -> Iterator[Problem]:
    known = _names(data, "groups")
    for index, key in _entries(data, "keys"):
        group = _text(key, "group")
        if group is not None and group not in known:
            ending = nearest(group, known)
            yield Problem(("keys", index, "group"), f"there is no group '{group}'{ending}")


def limited_models(loc: Loc, owner: Mapping[str, Any]) -> Iterator[tuple[str, Loc]]:
    """The models that a key or group has further limits for: the name, and where it stands."""
    limits = owner.get("limits")
    models = limits.get("models") if isinstance(limits, dict) else None
    if isinstance(models, dict):
        yield from ((str(name), (*loc, "limits", "models", name)) for name in models)


def _limited_models_exist(data: Any, _: Path) -> Iterator[Problem]:
    known = _names(data, "models")
    owners: list[tuple[Loc, Mapping[str, Any]]]
    owners = [(("keys", index), key) for index, key in _entries(data, "keys")]
    owners += [(("groups", name), group) for name, group in _sections(data, "groups")]
    for loc, owner in owners:
        for name, place in limited_models(loc, owner):
            if name not in known:
                yield Problem(place, f"there is no model '{name}'{nearest(name, known)}")


def _listeners_are_safe(data: Any, _: Path) -> Iterator[Problem]:
    sections = {name: data.get(name) for name in ("server", "admin")}
    texts = {
        name: _text(section, "listen") if isinstance(section, dict) else None
        for name, section in sections.items()
    }
    try:
        listen = read_listen(texts["admin"] or "127.0.0.1:8081")
        other = read_listen(texts["server"] or "0.0.0.0:8080")
    except ValueError:
        return
    admin = sections["admin"] if isinstance(sections["admin"], dict) else {}
    if not listen.loopback and not _given(admin, "token"):
        yield Problem(
            ("admin", "listen"),
            "is open to other hosts: set admin.token, or listen on 127.0.0.1 only",
        )
    if listen == other and listen.port:
        yield Problem(("admin", "listen"), "is also server.listen: they need two ports")


RULES: Final[tuple[Callable[[Any, Path], Iterator[Problem]], ...]] = (
    _upstreams_have_addresses,
    _models_have_one_answer,
    _pools_serve,
    _fallbacks_exist,
    _fallbacks_end,
    _keys_differ,
    _groups_exist,
    _limited_models_exist,
    _key_files_differ,
    _listeners_are_safe,
)


def problems(data: dict[str, Any], base: Path) -> Iterator[Problem]:
    """Every fault between options; `base` is the folder that `file:` secrets are relative to."""
    for rule in RULES:
        yield from rule(data, base)
