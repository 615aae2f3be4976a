"""Changes entries of `keys` in the configuration's text: only the lines that must change do.

Comments, order and quotes are the admin's. The text is cut at the places that the parser tells, and the result is read
back: it must say what was there and what was asked for, and nothing else. Where it would not, the edit is refused, and
the file stays as it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml  # noqa: TID251

from relay.config.document import LOADER, Document, child
from relay.config.faults import ConfigErrors
from relay.config.values import plain

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_SECRETS: Final = ("key", "api_keys", "token", "quota_store")
"""Options that may hold a secret as text."""


class EditRefused(Exception):
    """The file cannot be changed without guessing; the message says why."""


def written(source: bytes, path: Path) -> dict[str, Any]:
    """What stands in a file, variables as they are written. Raises ConfigErrors when it is no readable YAML."""
    document = Document(str(path), None)
    data = document.read(source)
    if document.faults:
        raise ConfigErrors(document.faults)
    return data


def entries_of(data: Mapping[str, Any]) -> list[Any]:
    """The entries of `keys`, whatever they are."""
    keys = data.get("keys")
    return keys if isinstance(keys, list) else []


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


def with_keys(source: bytes, path: Path, entries: Sequence[Mapping[str, Any]]) -> bytes:
    """The file with these entries behind the others. Raises EditRefused, or ConfigErrors."""
    expected = [*entries_of(written(source, path)), *map(dict, entries)]
    return _proven(source, path, _added(_text(source), entries), expected)


def without_key(source: bytes, path: Path, index: int) -> bytes:
    """The file without an entry. Raises EditRefused, or ConfigErrors."""
    expected = entries_of(written(source, path))
    del expected[index]
    return _proven(source, path, _removed(_text(source), index), expected)


def with_options(source: bytes, path: Path, index: int, options: Mapping[str, Any]) -> bytes:
    """The file with other options in an entry; None takes one out. Raises EditRefused, or ConfigErrors.

    New ones stand where the first that is taken out stood, or behind the first of `options` that is there.
    """
    text = _text(source)
    expected = entries_of(written(source, path))
    entry = dict(expected[index])
    gone = [name for name, value in options.items() if value is None and name in entry]
    for name, value in options.items():
        if value is None:
            continue
        if name not in entry and gone:
            text = _Entry(text, index).put(name, value, gone.pop(0))
        elif name in entry:
            text = _Entry(text, index).put(name, value, name)
        else:
            text = _Entry(text, index).insert(name, value, _there(entry, options))
        entry[name] = value
    for name in gone:
        text = _Entry(text, index).drop(name)
    expected[index] = {k: v for k, v in {**entry, **options}.items() if v is not None}
    return _proven(source, path, text, expected)


def veiled_lines(source: bytes) -> list[str]:
    """The lines of a file, secrets left out, as many as there are."""
    text = _text(source)
    lines = text.split("\n")
    for node in _secrets(yaml.compose(text, Loader=LOADER), ""):
        start, end = node.start_mark, node.end_mark
        for at in range(start.line, min(end.line, len(lines) - 1) + 1):
            line = lines[at]
            left = line[: start.column] if at == start.line else ""
            right = line[end.column :] if at == end.line else ""
            lines[at] = f"{left}…{right}" if at < end.line or end.column else line
    return lines


def _secrets(node: yaml.Node | None, name: str) -> list[yaml.ScalarNode]:
    """Texts that may be secrets; what names a variable or a file is none."""
    if isinstance(node, yaml.MappingNode):
        return [s for inner, value in node.value for s in _secrets(value, str(inner.value))]
    if isinstance(node, yaml.SequenceNode):
        return [s for value in node.value for s in _secrets(value, name)]
    if not isinstance(node, yaml.ScalarNode) or name not in _SECRETS or not node.value:
        return []
    return [] if re.match(r"\$\{|file:", node.value) else [node]


def _there(entry: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    return next((name for name in options if name in entry), next(iter(entry)))


def _text(source: bytes) -> str:
    return source.decode("utf-8-sig")


def _proven(source: bytes, path: Path, text: str, keys: Sequence[Any]) -> bytes:
    """The new content, if it says the same as before but for `keys`."""
    result = text.encode()
    if source.startswith(BYTE_ORDER_MARK):
        result = BYTE_ORDER_MARK + result
    before, wanted = written(source, path), list(keys)
    try:
        after = written(result, path)
    except ConfigErrors:
        after = {}
    same = {name: value for name, value in after.items() if name != "keys"} == {
        name: value for name, value in before.items() if name != "keys"
    }
    if not same or "keys" not in after or (after["keys"] or []) != wanted:
        raise EditRefused(f"{path} cannot be edited without guessing: paste the change in yourself")
    return result


# --- whole entries --------------------------------------------------------------------------------


def _added(text: str, entries: Sequence[Mapping[str, Any]]) -> str:
    root = yaml.compose(text, Loader=LOADER)
    lines = text.split("\n")
    if lines[-1]:
        lines.append("")
    end = "\r" if lines[0].endswith("\r") else ""
    name, keys = (None, None) if root is None else child(root, "keys")
    if name is None or keys is None:
        indent, at = "  ", len(lines) - 1
        lines[at:at] = [end, f"keys:{end}"]
        at += 2
    elif isinstance(keys, yaml.SequenceNode) and keys.value and not keys.flow_style:
        indent = " " * keys.start_mark.column
        at = _end(lines, keys, keys.start_mark.column)
    elif not keys.value or (isinstance(keys, yaml.ScalarNode) and plain(keys.value) is None):
        indent, at = "  ", keys.end_mark.line + 1
        line = lines[at - 1]
        first = keys.start_mark.column if keys.start_mark.line == at - 1 else 0
        lines[at - 1] = (line[:first].rstrip() + line[keys.end_mark.column :]) or line
    else:
        raise EditRefused("keys is written in one line: paste the entry in yourself")
    text_of = "".join(key_entry(entry) for entry in entries)
    lines[at:at] = [f"{indent}{line}{end}" for line in text_of.splitlines()]
    return "\n".join(lines)


def _removed(text: str, index: int) -> str:
    keys = _keys(text)
    if keys.flow_style:
        raise EditRefused("keys is written in one line: take the entry out yourself")
    lines = text.split("\n")
    column = keys.start_mark.column
    first = _dash(lines, keys.value[index], column)
    after = _end(lines, keys.value[index], column)
    blank_before = first == 0 or not lines[first - 1].strip()
    if blank_before and after < len(lines) - 1 and not lines[after].strip():
        # One of the blank lines around it is enough.
        after += 1
    del lines[first:after]
    return "\n".join(lines)


def _keys(text: str) -> yaml.SequenceNode:
    root = yaml.compose(text, Loader=LOADER)
    keys = None if root is None else child(root, "keys")[1]
    assert isinstance(keys, yaml.SequenceNode), "an entry was found there"
    return keys


def _dash(lines: Sequence[str], node: yaml.Node, column: int) -> int:
    """The line of an entry's dash."""
    at: int = node.start_mark.line
    while at and lines[at][column : column + 1] != "-":
        at -= 1
    return at


def _end(lines: Sequence[str], node: yaml.Node, column: int) -> int:
    """The line behind a node of this sequence. Comments that stand deeper than the dashes are still its own."""
    at = _last_line(node) + 1
    while at < len(lines) and re.match(" " * column + r"[ \t]+#", lines[at]):
        at += 1
    return at


def _last_line(node: yaml.Node) -> int:
    """The line of a node's last sign. The end of a block would be behind the comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and node.value and not node.flow_style:
        last = node.value[-1]
        return _last_line(last[1] if isinstance(last, tuple) else last)
    mark = node.end_mark
    return int(mark.line if mark.column else mark.line - 1)


# --- options of one entry -------------------------------------------------------------------------


class _Entry:
    """One entry of a text. Each change gives a new text, for which another is made."""

    def __init__(self, text: str, index: int) -> None:
        node = _keys(text).value[index]
        if not isinstance(node, yaml.MappingNode):
            raise EditRefused("the entry is no mapping")
        self._node = node
        self._lines = text.split("\n")
        self._text = text
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line) + 1)

    def put(self, name: str, value: Any, instead_of: str) -> str:
        """With an option in place of another, or of itself."""
        name_node, value_node = self._find(instead_of)
        start = self._at(name_node.start_mark)
        new = f"{name}: {_flow(value, _quote(value_node))}"
        return self._text[:start] + new + self._text[self._end_of(value_node) :]

    def insert(self, name: str, value: Any, behind: str) -> str:
        """With an option behind another."""
        name_node, value_node = self._find(behind)
        end = self._end_of(value_node)
        new = f"{name}: {_flow(value)}"
        if self._node.flow_style:
            return f"{self._text[:end]}, {new}{self._text[end:]}"
        line = _last_line(value_node)
        end = self._starts[line] + len(self._lines[line])
        tail = "\r" if self._lines[line].endswith("\r") else ""
        indent = " " * name_node.start_mark.column
        return f"{self._text[:end]}\n{indent}{new}{tail}{self._text[end:]}"

    def drop(self, name: str) -> str:
        """Without an option."""
        name_node, value_node = self._find(name)
        if not self._node.flow_style:
            first, last = name_node.start_mark.line, _last_line(value_node)
            return "\n".join([*self._lines[:first], *self._lines[last + 1 :]])
        start, end = self._at(name_node.start_mark), self._end_of(value_node)
        before = self._text[:start].rstrip()
        return before.removesuffix(",") + self._text[end:]

    def _find(self, name: str) -> tuple[yaml.Node, yaml.Node]:
        name_node, value_node = child(self._node, name)
        if name_node is None or value_node is None:
            raise EditRefused(f"the entry has no {name}")
        return name_node, value_node

    def _at(self, mark: yaml.Mark) -> int:
        if mark.line >= len(self._lines):
            raise EditRefused("the file has line ends of a kind that is not known here")
        return self._starts[mark.line] + int(mark.column)

    def _end_of(self, node: yaml.Node) -> int:
        block = isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value
        if block or not node.end_mark.column:
            line = _last_line(node)
            return self._starts[line] + len(self._lines[line].rstrip("\r"))
        return self._at(node.end_mark)


def _quote(node: yaml.Node) -> str:
    style = node.style if isinstance(node, yaml.ScalarNode) else None
    return style if style in ("'", '"') else ""


def _flow(value: Any, quote: str = "") -> str:
    """A value as it can stand behind an option's name, in one line."""
    if isinstance(value, str) and quote:
        return f"{quote}{value}{quote}"
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf)
    return text.strip().removesuffix("...").strip()
