"""Reads `key_files`: very many keys, as JSON lines with the fields of `keys`.

Two readers of one meaning. A line that is as it should be, which is nearly every one, passes a strict decoder in some
microseconds. Whatever that one does not take is read again by the model of `keys`, whose word counts: so a fault has
the words that it has in YAML, and the quick reader may be stricter, but must never let anything in that the model
would refuse (a test compares the two). Of the keys only the hashes are kept.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from socket import AF_INET, inet_pton
from typing import Annotated, Any, Final, Literal, NamedTuple, Protocol

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import astuple
from pydantic import ValidationError

from relay.config.faults import Fault, explain
from relay.config.keylines import Problem, Report, Unreadable, Wrong, batches, parse, variables
from relay.config.keymodel import KeyConfig
from relay.config.keytable import (
    NO_LIMITS,
    FiledKey,
    FiledLimits,
    FormerHash,
    KeyTable,
    Plan,
)
from relay.config.rules import KnownKeys, key_files, known_keys, limited_models, nearest
from relay.config.types import SHORTEST_KEY, Reading, is_placeholder, is_sendable
from relay.config.values import read_instant, read_network

Breathe = Callable[[], None]
"""Called between pieces of work, so that others may run."""


class Hash(Protocol):
    """A hash of `hashlib`."""

    def update(self, data: bytes, /) -> None: ...


def without_a_break() -> None:
    """Goes on at once: nobody waits for this process yet."""


class _Line(Struct, gc=False, forbid_unknown_fields=True):
    """A line as most are written. A null counts as not written; what was rotated is read by the model."""

    id: Annotated[str, Meta(min_length=1, max_length=128)]
    key: str | None = None
    hash: str | None = None
    expires: str | None = None
    allow_ips: tuple[str, ...] | None = None
    models: tuple[Annotated[str, Meta(min_length=1)], ...] | None = None
    limits: FiledLimits | None = None
    group: str | None = None
    weight: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    abort_billing: Literal["delivered", "drain", "waive"] | None = None
    on_revoke: Literal["finish", "cut"] | None = None


_OWN: Final = 5
"""Fields of a line that are one key's own; the others make its plan."""


class _Plan(Struct, gc=False):
    """What many keys may, and how many quotes it is written with."""

    plan: Plan
    signs: int


# Keys that are made together end together, and come from the same places.
_instant: Final = lru_cache(maxsize=4096)(read_instant)
_network: Final = lru_cache(maxsize=4096)(read_network)

_decode: Final = msgspec.json.Decoder(_Line).decode


class Filed(NamedTuple):
    """What was found in all key files."""

    table: KeyTable
    faults: list[Fault]
    """Of their lines."""
    unreadable: list[tuple[int, str]]
    """Files that could not be read: their place under `key_files`, and why."""


def read_key_files(data: Any, base: Path, digest: Hash, breathe: Breathe) -> Filed:
    """Reads the files that a configuration names. `data` is what stands there, right or wrong; `digest` is told
    the hashes of what was read.
    """
    files = KeyFiles(known_keys(data, base), breathe)
    unreadable = []
    for index, name in key_files(data):
        try:
            digest.update(files.read(base / name))
        except Unreadable as error:
            unreadable.append((index, str(error)))
    return Filed(files.table, files.faults, unreadable)


class KeyFiles:
    """One reading of all key files, one after the other."""

    def __init__(self, known: KnownKeys, breathe: Breathe) -> None:
        self.table = KeyTable()
        self.faults: list[Fault] = []
        self._known = known
        self._groups = frozenset(known.groups)
        self._breathe = breathe
        self._plans: dict[tuple[Any, ...], _Plan] = {}
        self._wrong = Report("")
        self._files: list[str] = []
        self._starts: list[int] = []
        self._lines = array("L")
        """The line of each key of the table, file after file."""

    def read(self, path: Path) -> bytes:
        """Adds the keys of a file. Returns the SHA-256 of what was read. Raises Unreadable."""
        return self.take(str(path), batches(path))

    def take(self, name: str, lines_of: Iterable[list[bytes]]) -> bytes:
        """Adds the keys of these lines, as if they stood in a file of this name."""
        self._files.append(name)
        self._starts.append(len(self._lines))
        digest = hashlib.sha256()
        self._wrong = wrong = Report(name)
        number = 0
        quick, add = self._quick, self._add
        for lines in lines_of:
            digest.update(b"".join(lines))
            for line in lines:
                number += 1
                key = quick(line)
                try:
                    if key is None:
                        key = self._thorough(line, number)
                    if key is not None:
                        add(key, number)
                except Wrong as problems:
                    wrong.add(number, line, problems.found)
            self._breathe()
        self.faults += wrong.faults()
        return digest.digest()

    def look(self, path: Path) -> Iterator[tuple[int, FiledKey | str | Wrong]]:
        """Every key of a file with its line, by itself: none is remembered. A text is the id of one that is left out.
        Raises Unreadable.
        """
        self._files.append(str(path))
        number = 0
        for lines in batches(path):
            for line in lines:
                number += 1
                out = len(self.table.left_out)
                try:
                    key = self._quick(line) or self._thorough(line, number)
                except Wrong as problems:
                    yield number, problems
                    continue
                if key is not None:
                    yield number, key
                elif len(self.table.left_out) > out:
                    yield number, self.table.left_out[-1]

    def place(self, id: str) -> str:
        """File and line of an entry that was left out."""
        return self._known.ids[id]

    def _add(self, key: FiledKey, number: int) -> None:
        """Raises Wrong when its id or the key itself is taken."""
        id, digest, known = key.id, key.hash, self._known
        place = taken = None
        for former in key.previous:
            if former.hash in known.digests:
                digest = former.hash
        if id in known.ids or digest in known.digests:
            place = known.ids.get(id)
        else:
            taken = self.table.add(key)
            if taken is None:
                self._lines.append(number)
                return
            if taken is key:
                raise Wrong([(("previous",), "holds the same key twice")])
            place = self._place(taken) if taken.id == id else None
        if place is not None:
            raise Wrong([(("id",), f"'{id}' is already the id of {place}")])
        place = known.digests[digest] if taken is None else self._place(taken)
        raise Wrong([((), f"is the same key as that of {place}")])

    def _place(self, key: FiledKey) -> str:
        """Where a key stands."""
        if self._wrong.full:
            return "another key"  # Nobody will read it, and a file that is there twice would ask 100,000 times.
        at = next(index for index, one in enumerate(self.table.keys) if one is key)
        file = bisect(self._starts, at) - 1
        return f"{self._files[file]}:{self._lines[at]}"

    # --- the two readers --------------------------------------------------------------------------

    def _quick(self, line: bytes) -> FiledKey | None:
        """The key of a line in which nothing is unusual; None for all others."""
        try:
            written = astuple(_decode(line))
            id, text, given, expires, addresses = written[:_OWN]
            if given is not None and text is None and len(given) == 71 and given[:7] == "sha256:":
                digest = bytes.fromhex(given[7:])
            else:
                digest = _digest_of(text, given)
            end = None if expires is None else _instant(expires)
        except (msgspec.MsgspecError, ValueError):
            return None
        limits: FiledLimits | None = written[_OWN + 1]
        if limits is not None and limits.models:
            return None
        plan = self._plans.get(written[_OWN:]) or self._plan_of(written[_OWN:])
        if plan is None or not id.isprintable() or " " in id or len(digest) != 32:
            return None
        signs = 8 + plan.signs
        if expires is not None:
            signs += 4
        if addresses is not None:
            signs += 2 + 2 * len(addresses)
            if not all(map(_is_address, addresses)):
                return None
        # Where nothing is escaped every quote ends a name or a text. If there are more, a name is there twice.
        if line.count(b'"') != signs or b"\\" in line or b"${" in line:
            return None
        return FiledKey(id, digest, plan.plan, end, addresses or ())

    def _plan_of(self, written: tuple[Any, ...]) -> _Plan | None:
        """The plan that these options mean; None if their group does not exist."""
        known = self._plans.get(written)
        if known is None:
            models, limits, group, weight, abort_billing, on_revoke = written
            if group is not None and group not in self._groups:
                return None
            plan = Plan(
                ("*",) if models is None else models,
                limits or NO_LIMITS,
                group,
                weight or 1,
                abort_billing or "delivered",
                on_revoke or "finish",
            )
            words = (*written, *astuple(plan.limits)[:-1])
            names = [one for one in words if one is not None and one is not False]
            texts = [one for one in written if isinstance(one, str)]
            known = _Plan(plan, 2 * (len(names) + len(texts) + len(models or ())))
            self._plans[written] = known
        return known

    def _thorough(self, line: bytes, number: int) -> FiledKey | None:
        """The key of a line as the model of `keys` reads it; None when there is none. Raises Wrong."""
        text = line.strip()
        if not text or text.startswith(b"#"):
            return None
        data = parse(text)
        problems = [*self._rules(data), *variables(data)]
        key: KeyConfig | None = None
        try:
            key = KeyConfig.model_validate(data, context=Reading(self._known.base))
        except ValidationError as error:
            problems += [(loc, words) for loc, _, words in explain(error, data, ("keys", 0))]
        if key is None or problems:
            raise Wrong(problems)
        if key.digest is None:
            self._leave_out(key, number)
            return None
        if key.key is not None and len(key.key.get_secret_value()) < SHORTEST_KEY:
            self.table.weak.append(key.id)
        limits = msgspec.convert(key.limits.model_dump(), FiledLimits)
        models = tuple(key.models)
        plan = self._plan_of(
            (models, limits, key.group, key.weight, key.abort_billing, key.on_revoke)
        )
        assert plan is not None, "a rule has looked for the group"
        former = tuple([FormerHash(one.hash, one.until) for one in key.previous])
        addresses = tuple(map(str, key.allow_ips))
        return FiledKey(key.id, key.digest, plan.plan, key.expires, addresses, former)

    def _leave_out(self, key: KeyConfig, number: int) -> None:
        """An entry without a key or a hash. Its id is taken all the same."""
        id = key.id
        if id not in self._known.ids and self.table.of_id(id) is None:
            self.table.left_out.append(id)
            if key.on_revoke == "cut":
                self.table.cut.append(id)
            self._known.ids[id] = f"{self._files[-1]}:{number}"

    def _rules(self, data: Mapping[str, Any]) -> Iterator[Problem]:
        if data.get("key") not in (None, "") and data.get("hash") not in (None, ""):
            yield ("hash",), "is one too many: write either key or hash"
        group = data.get("group")
        if isinstance(group, str) and group and group not in self._groups:
            ending = nearest(group, self._known.groups)
            yield ("group",), f"there is no group '{group}'{ending}"
        for name, loc in limited_models((), data):
            if name not in self._known.models:
                yield loc, f"there is no model '{name}'{nearest(name, self._known.models)}"


def _digest_of(text: str | None, given: str | None) -> bytes:
    """The hash of a key that is written as text. ValueError for what needs a closer look."""
    if given is not None or text is None or not is_sendable(text):
        raise ValueError
    # `file:` names a secret, and what is short is pointed out.
    if len(text) < SHORTEST_KEY or text.startswith("file:") or is_placeholder(text):
        raise ValueError
    return hashlib.sha256(text.encode()).digest()


def _is_address(text: str) -> bool:
    """Whether this is an address or a network as `allow_ips` has it."""
    try:
        inet_pton(AF_INET, text)
    except OSError:
        try:
            _network(text)
        except ValueError:
            return False
    return True
