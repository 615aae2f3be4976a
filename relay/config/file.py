"""Reads the configuration: the file and its key files, with every fault of both told with its line and column."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from time import time
from typing import Final

from pydantic import ValidationError

from relay.config.document import Document
from relay.config.faults import ConfigErrors, Fault, explain
from relay.config.keyfiles import Breathe, read_key_files, without_a_break
from relay.config.keylines import BYTE_ORDER_MARK
from relay.config.model import Config
from relay.config.notices import notices
from relay.config.rules import problems
from relay.config.types import Reading

__all__ = ["ConfigErrors", "Fault", "is_in_effect", "load", "loads", "read"]

LARGEST_FILE: Final = 64 * 1024 * 1024
"""Bytes; about 300,000 keys, which is more than YAML is good for."""
PIECE: Final = 256 * 1024
"""Bytes that are hashed at once, while other threads run."""


def load(path: Path, env: Mapping[str, str], breathe: Breathe = without_a_break) -> Config:
    """The configuration in a file and its key files. Raises ConfigErrors with every fault.

    `breathe` is called between pieces of work of a fraction of a millisecond, as far as the work comes in pieces: key
    files do.
    """
    return loads(read(path), env, path, breathe)


def is_in_effect(config: Config) -> bool:
    """Whether the files hold what this configuration was read from."""
    try:
        digest = hashlib.sha256(read(config.path))
        for path in config.key_files:
            digest.update(_digest_of(path))
    except (OSError, ConfigErrors):
        return False
    return digest.hexdigest() == config.digest


def _digest_of(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        piece = file.read(PIECE).removeprefix(BYTE_ORDER_MARK)
        while piece:
            digest.update(piece)
            piece = file.read(PIECE)
    return digest.digest()


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
    document = Document(str(path), env)
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
    told = notices(config, filed.table, time(), breathe)
    config.stamp(path, digest.hexdigest(), source.endswith(b"\n"), filed.table, told)
    return config
