"""The keys of a configuration as an admin's commands change them: under `keys`, or in a key file.

A `Keyring` is one look at the files, taken under their locks. It finds an entry by its id, and makes a `Change`: the
whole new content of one file, with what it changes as a diff. Nothing is written before `commit`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from relay.config import edit, linesedit
from relay.config.differences import unified
from relay.config.document import Document
from relay.config.faults import ConfigErrors, Fault
from relay.config.file import read
from relay.config.keylines import Unreadable, Wrong, parse
from relay.config.replacing import locked, replace
from relay.config.rules import key_files, nearest
from relay.keys.entries import KeyRefused


class Found(NamedTuple):
    """Where an entry stands."""

    path: Path
    place: int
    """Its number among the entries of `keys`, or the lines of a key file."""
    entry: dict[str, Any]
    filed: bool
    """In a key file."""


class Change(NamedTuple):
    """A file as it is to be."""

    path: Path
    content: bytes
    diff: list[str]


class Keyring:
    """The files as they are now. Raises ConfigErrors when the configuration is no readable YAML."""

    def __init__(self, path: Path, env: Mapping[str, str]) -> None:
        self.path = path
        self.source = read(path)
        self.data = edit.written(self.source, path)
        """What stands in the configuration, variables as they are written."""
        self.values = Document(str(path), env).read(self.source)
        """The same with variables put in, as far as they are known here."""
        self._read: dict[Path, list[bytes]] = {}
        self.files = [path.parent / name for _, name in key_files(self.values)]

    def find(self, id: str) -> Found | None:
        for index, entry in enumerate(edit.entries_of(self.data)):
            if isinstance(entry, dict) and str(entry.get("id")) == id:
                return Found(self.path, index, entry, False)
        for file in self.files:
            lines = self._lines(file)
            at = linesedit.place_of(lines, id)
            if at is not None:
                return Found(file, at, _entry(file, lines, at), True)
        return None

    def file_named(self, name: str) -> Path:
        """The key file that is meant; without a name the only one there is. Raises KeyRefused."""
        if not self.files:
            raise KeyRefused(f"{self.path} has no key_files: name one there first")
        if not name:
            if len(self.files) > 1:
                raise KeyRefused("there are several key_files: say which")
            return self.files[0]
        for file in self.files:
            if file.resolve() in (Path(name).resolve(), (self.path.parent / name).resolve()):
                return file
        raise KeyRefused(f"{name} is none of the key_files of {self.path}")

    def allow_group(self, name: str | None) -> None:
        """Raises KeyRefused for a group that does not exist."""
        groups = self.data.get("groups")
        known = list(map(str, groups)) if isinstance(groups, dict) else []
        if name is not None and name not in known:
            raise KeyRefused(f"there is no group '{name}'{nearest(name, known)}")

    # --- changes ----------------------------------------------------------------------------------

    def add(self, entries: Sequence[Mapping[str, Any]], file: Path | None) -> Change:
        """With these behind the others, in a key file or, without one, under `keys`."""
        if file is None:
            return self._edited(edit.with_keys(self.source, self.path, entries))
        lines = self._lines(file)
        return _relined(file, lines, linesedit.added(lines, entries))

    def change(self, found: Found, options: Mapping[str, Any]) -> Change:
        """With other options in an entry; None takes one out."""
        if not found.filed:
            return self._edited(edit.with_options(self.source, self.path, found.place, options))
        lines = self._lines(found.path)
        entry = {k: v for k, v in {**found.entry, **options}.items() if v is not None}
        changed = list(lines)
        changed[found.place] = linesedit.line_of(entry)
        return _relined(found.path, lines, changed)

    def remove(self, found: Found) -> Change:
        if not found.filed:
            return self._edited(edit.without_key(self.source, self.path, found.place))
        lines = self._lines(found.path)
        rest = [*lines[: found.place], *lines[found.place + 1 :]]
        return _relined(found.path, lines, rest)

    def _lines(self, file: Path) -> list[bytes]:
        """The lines of a key file; nobody changes it while this is looked at."""
        if file not in self._read:
            try:
                self._read[file] = linesedit.lines_of(file)
            except Unreadable as error:
                raise ConfigErrors([Fault(str(file), 0, 0, str(error))]) from None
        return self._read[file]

    def _edited(self, content: bytes) -> Change:
        # What follows the last end of a line is no line.
        before, after = (
            lines[:-1] if not lines[-1] else lines
            for lines in map(edit.veiled_lines, (self.source, content))
        )
        return Change(self.path, content, list(unified(str(self.path), before, after, str)))


def commit(change: Change) -> None:
    """Puts the new content in place, in one step."""
    replace(change.path, change.content)


@contextmanager
def opened(path: Path, env: Mapping[str, str]) -> Iterator[Keyring]:
    """The keys of a configuration while nobody else changes them."""
    folder = path.resolve().parent
    with ExitStack() as stack:
        stack.enter_context(locked(folder))
        ring = Keyring(path, env)
        others = {file.resolve().parent for file in ring.files} - {folder}
        for other in sorted(one for one in others if one.is_dir()):
            stack.enter_context(locked(other))
        yield ring


def _entry(file: Path, lines: Sequence[bytes], index: int) -> dict[str, Any]:
    try:
        return parse(lines[index].strip())
    except Wrong as problems:
        raise ConfigErrors([Fault(str(file), index + 1, 1, problems.found[0][1])]) from None


def _relined(file: Path, before: Sequence[bytes], after: Sequence[bytes]) -> Change:
    return Change(file, b"".join(after), list(unified(str(file), before, after, _shown)))


def _shown(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\n")
