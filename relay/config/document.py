"""A YAML document as this relay reads it: its values, and the places of its faults.

Scalars are read as YAML 1.2 does (`off` is a word, `12:30` a text). Variables are put in after the file was parsed, in
values only, so that what they hold cannot become YAML. Nothing in a file can make an object, or grow beyond its size.
This module and `edit` are the ones that know YAML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import yaml  # noqa: TID251

from relay.config.faults import LONGEST_SHOWN, ConfigErrors, Fault, Loc, path_of
from relay.config.values import UNKNOWN, Substituted, plain

DEEPEST: Final = 32
"""Levels; the deepest option of ours is eight deep."""
MOST_REPEATED: Final = 10_000
"""Values that aliases may repeat, so that a small file cannot mean a huge one."""

# PyYAML can be built without libyaml: several times slower, and the same otherwise.
LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_TAG: Final = "tag:yaml.org,2002:"
_PLAIN_TAGS: Final = {
    _TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")
}
_VARIABLE: Final = re.compile(r"\$\$(?=\{)|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{")


class Document:
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
        self._root = compose(source, self.file)
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
            name, value = child(node, part)
            if value is None:
                break
            node = name if named and name is not None and depth == len(loc) - 1 else value
        self._mark(node, loc, message)

    def line(self, loc: Loc) -> int:
        """The line where an option or entry stands, or what is around it; from 1."""
        node = self._root
        for part in loc:
            inner = None if node is None else child(node, part)[1]
            node = inner or node
        return 1 if node is None else int(node.start_mark.line) + 1

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


def compose(source: bytes, file: str) -> yaml.Node | None:
    """The nodes of a text; None for one without any. Raises ConfigErrors when it is no YAML."""
    try:
        text = source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        raise ConfigErrors([Fault(file, line, 1, "is not UTF-8 text")]) from None
    try:
        return yaml.compose(text, Loader=LOADER)
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


def child(node: yaml.Node, part: str | int) -> tuple[yaml.Node | None, yaml.Node | None]:
    """The nodes of an option's name and value, or None twice."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == part:
                return name, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return None, node.value[part]
    return None, None
