"""Reads the configuration file: YAML, variables, secrets, models, rules; and adds to it without touching its rest.

Every fault is found in one reading and told with its line and column. Scalars are read as YAML 1.2 does (`off` is a
word, `12:30` a text). Variables are put in after the file was parsed, in values only, so that what they hold cannot
become YAML. Nothing in the file can make an object or grow beyond its own size. This is the one module that knows YAML.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

import yaml  # noqa: TID251
from pydantic import ValidationError

from relay.config.faults import LONGEST_SHOWN, ConfigErrors, Fault, Loc, explain, path_of
from relay.config.keyfiles import Breathe, read_key_files, without_a_break
from relay.config.model import Config
from relay.config.notices import notices
from relay.config.rules import problems
from relay.config.types import Reading
from relay.config.values import UNKNOWN, Substituted, plain

__all__ = [
    "ConfigErrors",
    "EditRefused",
    "Fault",
    "append_key",
    "key_entry",
    "key_ids",
    "load",
    "loads",
]

DEEPEST: Final = 32
"""Levels; the deepest option of ours is eight deep."""
MOST_REPEATED: Final = 10_000
"""Values that aliases may repeat, so that a small file cannot mean a huge one."""
LARGEST_FILE: Final = 64 * 1024 * 1024
"""Bytes; about 300,000 keys, which is more than YAML is good for."""

# PyYAML can be built without libyaml: several times slower, and the same otherwise.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_TAG: Final = "tag:yaml.org,2002:"
_PLAIN_TAGS: Final = {
    _TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")
}
_VARIABLE: Final = re.compile(r"\$\$(?=\{)|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{")


def load(path: Path, env: Mapping[str, str], breathe: Breathe = without_a_break) -> Config:
    """The configuration in a file and its key files. Raises ConfigErrors with every fault.

    `breathe` is called between pieces of work of a fraction of a millisecond, as far as the work comes in pieces: key
    files do.
    """
    return loads(read(path), env, path, breathe)


def read(path: Path) -> bytes:
    """The file's content. Raises ConfigErrors when it cannot be read."""
    try:
        with path.open("rb") as file:
            source = file.read(LARGEST_FILE + 1)
    except OSError as error:
        reason = error.strerror or "it cannot be read"
        raise ConfigErrors([Fault(str(path), 0, 0, f"cannot be read: {reason}")]) from None
    if len(source) > LARGEST_FILE:
        raise ConfigErrors([Fault(str(path), 0, 0, "is larger than 64 MiB")])
    return source


def loads(
    source: bytes,
    env: Mapping[str, str],
    path: Path = Path("config.yaml"),
    breathe: Breathe = without_a_break,
) -> Config:
    """The configuration in `source`, as if it stood in a file at `path`."""
    document = _Document(str(path), env)
    data = document.read(source)
    for problem in problems(data, path.parent):
        document.fault(problem.loc, problem.message)
    config = None
    try:
        config = Config.model_validate(data, context=Reading(path.parent))
    except ValidationError as error:
        for loc, named, sentence in explain(error, data):
            document.fault(loc, sentence, named=named)
    # Also when something else is wrong: all faults belong into one list.
    digest = hashlib.sha256(source)
    filed = read_key_files(data, path.parent, digest, breathe)
    for index, message in filed.unreadable:
        document.fault(("key_files", index), message)
    document.faults += filed.faults
    if config is None or document.faults:
        filed.table.retire(breathe)
        raise ConfigErrors(document.faults)
    config.stamp(path, digest.hexdigest(), filed.table, notices(config, filed.table, breathe))
    return config


class _Document:
    """One file being read: its nodes, for the places of faults, and the faults so far."""

    def __init__(self, file: str, env: Mapping[str, str] | None) -> None:
        """Without `env` variables stay as they are written."""
        self.file = file
        self.faults: list[Fault] = []
        self._env = env
        self._root: yaml.Node | None = None
        self._unread: set[Loc] = set()
        self._seen: set[int] = set()
        self._repeated = 0

    def read(self, source: bytes) -> dict[str, Any]:
        """The values in the file. Faults that leave nothing to go on with are raised at once."""
        self._root = _compose(source, self.file)
        if self._root is None:
            return {}
        data = self._value(self._root, ())
        if not isinstance(data, dict):
            if data is not None:
                self._stop(self._root, (), "must be a mapping of options: server, models and so on")
            return {}
        return data

    def fault(self, loc: Loc, message: str, *, named: bool = False) -> None:
        """A fault at an option, or where it would stand. Silent where the value could not be read anyway."""
        if loc in self._unread:
            return
        node = self._root
        assert node is not None, "every option has a default, so an empty file has no faults"
        for depth, part in enumerate(loc):
            name, value = _child(node, part)
            if value is None:
                break
            node = name if named and name is not None and depth == len(loc) - 1 else value
        self._mark(node, loc, message)

    def _mark(self, node: yaml.Node, loc: Loc, message: str) -> None:
        mark = node.start_mark
        self.faults.append(Fault(self.file, mark.line + 1, mark.column + 1, message, path_of(loc)))

    def _give_up(self, node: yaml.Node, loc: Loc, message: str) -> Any:
        self._unread.add(loc)
        self._mark(node, loc, message)
        return UNKNOWN

    def _stop(self, node: yaml.Node, loc: Loc, message: str) -> NoReturn:
        self._mark(node, loc, message)
        raise ConfigErrors(self.faults)

    # --- nodes to values --------------------------------------------------------------------------

    def _value(self, node: yaml.Node, loc: Loc) -> Any:
        if id(node) in self._seen:
            self._repeated += 1
            if self._repeated > MOST_REPEATED:
                self._stop(node, loc[:1], "is repeated by aliases too often")
        self._seen.add(id(node))
        if len(loc) > DEEPEST:
            self._stop(node, loc[:1], "is nested too deep")
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, loc)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self._value(one, (*loc, index)) for index, one in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag in _PLAIN_TAGS:
            return self._scalar(node, loc)
        tag = node.tag.replace(_TAG, "!!")[:LONGEST_SHOWN]
        return self._give_up(node, loc, f"has the tag {tag}: tags are not used here")

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for name_node, value_node in node.value:
            if not isinstance(name_node, yaml.ScalarNode):
                self._mark(name_node, loc, "must be a name, not a list or a mapping")
                continue
            name = name_node.value
            if name in lines:
                message = f"'{name}' is given twice, first in line {lines[name]}"
                self._mark(name_node, (*loc, name), message)
                continue
            lines[name] = name_node.start_mark.line + 1
            found[name] = self._value(value_node, (*loc, name))
        return found

    def _scalar(self, node: yaml.ScalarNode, loc: Loc) -> Any:
        text: str = node.value
        if "${" in text and self._env is not None:
            return self._substituted(node, text, self._env, loc)
        # Plain scalars have no quotes (style None or ""); what YAML 1.1 took them for does not matter.
        return text if node.style else plain(text)

    def _substituted(
        self, node: yaml.ScalarNode, text: str, env: Mapping[str, str], loc: Loc
    ) -> Any:
        faults: list[str] = []
        names: list[str] = []

        def value_of(match: re.Match[str]) -> str:
            name, default = match[1], match[2]
            if match[0] == "$$":
                return "$"
            if name is None or (default is not None and "${" in default):
                faults.append("has a ${ that is no variable: write ${NAME} or ${NAME:-default}")
                return ""
            names.append(f"${{{name}}}")
            value = env.get(name)
            if default is not None:
                return value or default
            if value is None:
                faults.append(f"the variable {name} is not set (${{{name}:-…}} gives a default)")
                return ""
            return value

        result = _VARIABLE.sub(value_of, text)
        if faults:
            for message in faults[1:]:
                self._mark(node, loc, message)
            return self._give_up(node, loc, faults[0])
        return Substituted.of(result, " and ".join(names)) if names else result


def _compose(source: bytes, file: str) -> yaml.Node | None:
    try:
        text = source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        raise ConfigErrors([Fault(file, line, 1, "is not UTF-8 text")]) from None
    try:
        return yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = f"is not YAML: {error.problem}" + _hint(text, mark)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column, message = 1, f"is not YAML: {error.reason}"
    except RecursionError:
        line, column, message = 1, 1, "is nested too deep"
    raise ConfigErrors([Fault(file, line, column, message)]) from None


def _hint(text: str, mark: yaml.Mark | None) -> str:
    """What is behind the two mistakes that are made most."""
    lines = text.split("\n")
    line = lines[mark.line] if mark is not None and mark.line < len(lines) else ""
    if re.search(r"[{\[,].*(?<![\"'])\$\{", line):
        return ' (inside {} and [] a variable needs quotes: "${NAME}")'
    if "\t" in line:
        return " (indent with spaces, not tabs)"
    return ""


def _child(node: yaml.Node, part: str | int) -> tuple[yaml.Node | None, yaml.Node | None]:
    """The nodes of an option's name and value, or None twice."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == part:
                return name, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return None, node.value[part]
    return None, None


# --- adding a key ---------------------------------------------------------------------------------


class EditRefused(Exception):
    """The file cannot be changed without guessing; the message says why."""


def key_entry(entry: Mapping[str, Any]) -> str:
    """An entry of `keys` as text, to be put under `keys:`."""
    text: str = yaml.safe_dump(
        [dict(entry)],
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=math.inf,
    )
    return text


def key_ids(path: Path) -> list[str]:
    """The ids under `keys` in a file, whatever else may be wrong with it."""
    data = _Document(str(path), None).read(path.read_bytes())
    keys = data.get("keys")
    entries = [one for one in keys if isinstance(one, dict)] if isinstance(keys, list) else []
    return [str(one.get("id")) for one in entries]


def append_key(path: Path, entry: Mapping[str, Any]) -> None:
    """Adds an entry to `keys`: only its lines are new in the file, which is replaced in one step.

    The result is read back first. Its faults are none of our business, but all that was there must be there still.
    """
    path = path.resolve()
    with _locked(path.parent):
        source = path.read_bytes()
        before = _written(source, path)
        result = _with_key(source.decode("utf-8-sig"), entry).encode()
        if source.startswith(b"\xef\xbb\xbf"):
            result = b"\xef\xbb\xbf" + result
        expected = {**before, "keys": [*(before.get("keys") or ()), dict(entry)]}
        try:
            unchanged = _written(result, path) == expected
        except ConfigErrors:
            unchanged = False
        if not unchanged:
            raise EditRefused("the entry cannot be added to this file: paste it in yourself")
        _replace(path, result)


def _written(source: bytes, path: Path) -> dict[str, Any]:
    document = _Document(str(path), None)
    data = document.read(source)
    if document.faults:
        raise ConfigErrors(document.faults)
    return data


def _with_key(text: str, entry: Mapping[str, Any]) -> str:
    root = yaml.compose(text, Loader=_LOADER)
    lines = text.split("\n")
    if lines[-1]:
        lines.append("")
    end = "\r" if lines[0].endswith("\r") else ""
    name, keys = (None, None) if root is None else _child(root, "keys")
    if name is None or keys is None:
        indent, at = "  ", len(lines) - 1
        lines[at:at] = [end, f"keys:{end}"]
        at += 2
    elif isinstance(keys, yaml.SequenceNode) and keys.value and not keys.flow_style:
        indent, at = " " * keys.start_mark.column, _last_line(keys) + 1
        # Comments that stand deeper than the dashes are still the last entry's.
        while at < len(lines) and re.match(indent + r"[ \t]+#", lines[at]):
            at += 1
    elif not keys.value or (isinstance(keys, yaml.ScalarNode) and plain(keys.value) is None):
        indent, at = "  ", keys.end_mark.line + 1
        line = lines[at - 1]
        first = keys.start_mark.column if keys.start_mark.line == at - 1 else 0
        lines[at - 1] = (line[:first].rstrip() + line[keys.end_mark.column :]) or line
    else:
        raise EditRefused("keys is written in one line: paste the entry in yourself")
    lines[at:at] = [f"{indent}{line}{end}" for line in key_entry(entry).splitlines()]
    return "\n".join(lines)


def _last_line(node: yaml.Node) -> int:
    """The line of a node's last sign. The end of a block would be behind the comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and node.value and not node.flow_style:
        last = node.value[-1]
        return _last_line(last[1] if isinstance(last, tuple) else last)
    mark = node.end_mark
    return int(mark.line if mark.column else mark.line - 1)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time; the lock goes with the process."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _replace(path: Path, content: bytes) -> None:
    """Puts `content` in place of a file at once, with the file's mode and owner."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    known = path.stat()
    try:
        with open(new, "xb", opener=_private) as file:
            file.write(content)
            file.flush()
            if (known.st_uid, known.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), known.st_uid, known.st_gid)
            os.fchmod(file.fileno(), known.st_mode & 0o7777)
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)
