"""Keys from elsewhere: JSON lines with the fields of `keys`, or CSV with a column for each. All of them or none.

CSV becomes JSON lines in memory, each row at its own line, so that both are judged by the reader of key files, whose
faults have line numbers. Keys as text become hashes on the way; no message shows one.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from relay.config.faults import ConfigErrors, Fault
from relay.config.keyfiles import KeyFiles, without_a_break
from relay.config.keylines import BYTE_ORDER_MARK
from relay.config.keymodel import KeyConfig
from relay.config.keytable import FiledKey, FiledLimits, Plan
from relay.config.rules import known_keys, nearest
from relay.config.values import plain, write_instant
from relay.keys.ring import Keyring

_LISTS: Final = ("models", "allow_ips")
_NUMBERS: Final = ("weight", *(name for name in FiledLimits.__struct_fields__ if name != "models"))
_COLUMNS: Final = [
    *(name for name in KeyConfig.model_fields if name not in ("limits", "previous")),
    *_NUMBERS[1:],
]


def entries_in(content: bytes, name: str, ring: Keyring) -> tuple[list[dict[str, Any]], list[str]]:
    """The entries of a file, and the ids of those whose key is short enough to be guessed.

    Raises ConfigErrors with every fault: of the lines, of ids and keys that are there twice, or among those of `ring`.
    """
    files = KeyFiles(known_keys(ring.values, ring.path.parent), without_a_break)
    for file in ring.files:
        files.read(file)
    if files.faults:
        raise ConfigErrors(files.faults)
    table = files.table
    had, out, weak = len(table), len(table.left_out), len(table.weak)
    content = content.removeprefix(BYTE_ORDER_MARK)
    is_csv = not content.lstrip().startswith((b"{", b"#"))
    lines = _rows(content, name) if is_csv else content.splitlines(keepends=True)
    files.take(name, [lines])
    faults = [replace(fault, column=1) if is_csv else fault for fault in files.faults]
    for id in table.left_out[out:]:
        line = int(files.place(id).rpartition(":")[2])
        faults.append(Fault(name, line, 1, "needs a key or a hash", "hash"))
    if not faults and len(table) == had:
        faults = [Fault(name, 0, 0, "has no keys")]
    if faults:
        raise ConfigErrors(faults)
    return [entry_of(key) for key in table.keys[had:]], table.weak[weak:]


def entry_of(key: FiledKey) -> dict[str, Any]:
    """An entry as it is written, without what is as by default."""
    plan, default = key.plan, Plan()
    limits = msgspec.to_builtins(plan.limits)
    found: dict[str, Any] = {"id": key.id, "hash": f"sha256:{key.hash.hex()}"}
    if key.previous:
        found["previous"] = [
            {"hash": f"sha256:{one.hash.hex()}", "until": write_instant(one.until)}
            for one in key.previous
        ]
    found["models"] = list(plan.models)
    if written := without_defaults(limits):
        found["limits"] = written
    if key.expires is not None:
        found["expires"] = write_instant(key.expires)
    if key.addresses:
        found["allow_ips"] = list(key.addresses)
    for name in ("group", "weight", "abort_billing", "on_revoke"):
        if getattr(plan, name) != getattr(default, name):
            found[name] = getattr(plan, name)
    return found


def without_defaults(limits: dict[str, Any]) -> dict[str, Any]:
    """The limits that are set, also those of single models."""
    found = {}
    for name, value in limits.items():
        if isinstance(value, dict):
            value = {model: without_defaults(one) for model, one in value.items()}
        if value is not None and value is not False and value != {}:
            found[name] = value
    return found


# --- CSV ------------------------------------------------------------------------------------------


def _rows(content: bytes, name: str) -> list[bytes]:
    """JSON lines, each in the line where its row begins."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigErrors([Fault(name, line, 1, "is not UTF-8 text")]) from None
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    found: list[bytes] = []
    try:
        header = [column.strip() for column in next(reader, [])]
        _check(header, name)
        start = reader.line_num
        for row in reader:
            found += [b"\n"] * (start - len(found))
            if any(cell.strip() for cell in row):
                if len(row) > len(header):
                    raise ConfigErrors([Fault(name, start + 1, 1, "has more cells than columns")])
                found.append(json.dumps(_entry(header, row), ensure_ascii=False).encode() + b"\n")
            start = reader.line_num
    except csv.Error as error:
        raise ConfigErrors([Fault(name, reader.line_num, 1, f"is not CSV: {error}")]) from None
    return found


def _check(header: Sequence[str], name: str) -> None:
    for column in header:
        option = column.removeprefix("limits.")
        if option not in _COLUMNS:
            words = f"unknown column '{column}'{nearest(option, _COLUMNS)}"
            raise ConfigErrors([Fault(name, 1, 1, words)])
    if len(set(header)) < len(header):
        raise ConfigErrors([Fault(name, 1, 1, "has a column twice")])


def _entry(header: Sequence[str], row: Sequence[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    for option, value in _cells(header, row):
        if option == "weight" or option not in _NUMBERS:
            entry[option] = value
        else:
            limits[option] = value
    return entry | {"limits": limits} if limits else entry


def _cells(header: Sequence[str], row: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """What a row says: an empty cell says nothing."""
    for column, cell in zip(header, row, strict=False):
        option, text = column.removeprefix("limits."), cell.strip()
        if not text:
            continue
        if option in _LISTS:
            yield option, text.replace(",", " ").replace(";", " ").split()
        else:
            yield option, plain(text) if option in _NUMBERS else text
