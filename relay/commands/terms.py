"""What all commands share: how they speak, fail, and find their file.

Results go to stdout, everything said beside them to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from relay.config.file import ConfigErrors

OK: Final = 0
FAILED: Final = 1


class Failure(Exception):
    """The command failed; the message is the one line that says why."""


def _nothing(_: argparse.ArgumentParser) -> None:
    pass


class Command(NamedTuple):
    """A row of the table of commands."""

    words: tuple[str, ...]
    help: str
    run: Callable[[argparse.Namespace], int]
    options: Callable[[argparse.ArgumentParser], None] = _nothing


def say(text: str) -> None:
    """A result."""
    print(text)


def note(text: str) -> None:
    """Something beside the result."""
    print(text, file=sys.stderr)


def as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def config_path(arguments: argparse.Namespace) -> Path:
    given: Path | None = getattr(arguments, "config", None)
    return given or Path(os.environ.get("RELAY_CONFIG") or "config.yaml")


def failure(errors: ConfigErrors, path: Path, tell: Callable[[str], None]) -> Failure:
    """Tells every fault; a file that could not be read at all needs no more than its reason."""
    faults = errors.faults
    if not faults[0].line:
        return Failure(str(faults[0]))
    for fault in faults:
        tell(str(fault))
    files = "" if all(fault.file == str(path) for fault in faults) else " with its key files"
    return Failure(f"{path}{files} has {len(faults)} fault{'' if len(faults) == 1 else 's'}")
