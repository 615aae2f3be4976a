"""Which operation a path names. A new one is a row here.

The path is taken as it was sent: runs of slashes count as one, nothing is decoded, and what is looked up here is what
is authorised and routed. Unknown paths are None: nothing behind them can be reached by a clever spelling.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import NamedTuple


class Kind(enum.Enum):
    """How an operation is answered."""

    CHAT = "chat"
    """By an upstream, chosen by the model in the body."""
    MODELS = "models"
    """By the relay, with the models the caller may use."""
    HEALTH = "health"
    """By the relay, about itself; needs no key."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing a client can ask for, whatever the path it is asked on."""

    name: str
    """Label of metrics and log."""
    kind: Kind
    methods: tuple[str, ...]
    paths: tuple[str, ...]
    item: bool = False
    """Each path also stands for one thing of its list, whose name follows it (slashes and all)."""


class Found(NamedTuple):
    operation: Operation
    tail: str | None = None
    """The name of the one thing that is asked for."""


OPERATIONS = (
    Operation(
        "chat_completions",
        Kind.CHAT,
        ("POST",),
        # SDKs take a base URL as it is: DeepSeek's users have one without /v1, or its beta's.
        ("/v1/chat/completions", "/chat/completions", "/beta/chat/completions"),
    ),
    Operation("models", Kind.MODELS, ("GET", "HEAD"), ("/v1/models", "/models"), item=True),
    Operation("livez", Kind.HEALTH, ("GET", "HEAD"), ("/livez",)),
    Operation("readyz", Kind.HEALTH, ("GET", "HEAD"), ("/readyz",)),
)

_BY_PATH = {path: Found(row) for row in OPERATIONS for path in row.paths}
_BY_PREFIX = [(path + "/", row) for row in OPERATIONS if row.item for path in row.paths]
_SLASHES = re.compile("//+")


def find(path: str) -> Found | None:
    """The operation of a path without its query, or None."""
    found = _BY_PATH.get(path)
    if found is not None:
        return found
    path = _SLASHES.sub("/", path)
    for prefix, operation in _BY_PREFIX:
        if path.startswith(prefix) and len(path) > len(prefix):
            return Found(operation, path[len(prefix) :])
    return _BY_PATH.get(path)
