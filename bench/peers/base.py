"""What a peer is: a program that passes chat calls on, how it is got, found, configured and started.

A new one is a file of this folder with a `Peer`, and its name in `__init__.py`.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench import CACHE


class Absent(Exception):
    """A peer that is not on this machine; says what would bring it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer is to run."""

    home: Path
    """A folder of its own, empty."""
    port: int
    """It listens on 127.0.0.1 here."""
    upstream: str
    """`127.0.0.1:PORT` of the stand-in."""
    streams: int
    """It has to hold so many at once."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How it is started, and how it is called."""

    command: list[str]
    env: Mapping[str, str] = field(default_factory=dict)
    path: str = "/v1/chat/completions"
    key: str = "sk-bench"
    model: str = "bench-model"
    headers: tuple[str, ...] = ()
    port: int | None = None
    """If it cannot be told which one to take: where it listens all the same."""
    announces: bool = False
    """It prints the port it took, as its first line."""


@dataclass(frozen=True, slots=True)
class Pip:
    """From PyPI, into an environment of its own. Pinned: figures name a version, and a new release may be anything."""

    requirement: str

    @property
    def name(self) -> str:
        return self.requirement.partition("==")[0].partition("[")[0]


@dataclass(frozen=True, slots=True)
class Npm:
    """From npm, into a folder of its own, without running the packages' install scripts."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Apt:
    """From Debian, for the whole machine."""

    name: str


@dataclass(frozen=True, slots=True)
class Peer:
    """One program. `launch` writes its configuration and raises `Absent` if it is not there."""

    name: str
    what: str
    """In a word or two, with its language."""
    source: Pip | Npm | Apt | None
    launch: Callable[[Place], Launch]
    version: Callable[[], str]
    patience_s: float = 60.0
    """From its start to its first good answer."""


def environment(name: str) -> Path:
    """The folder that `python -m bench install` makes for a package."""
    return CACHE / "peers" / name


def installed(name: str, *parts: str) -> Path:
    """A file of a peer's own environment.

    Raises:
        Absent: it is not there.
    """
    path = environment(name).joinpath(*parts)
    if not path.exists():
        raise Absent("not installed: `make bench-peers` does it")
    return path


def program(name: str, package: str) -> str:
    """A program of the machine.

    Raises:
        Absent: it is not there.
    """
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Absent(f"not installed: `apt-get install {package}`")
    return found


def pip_version(package: str) -> Callable[[], str]:
    """Asks a package's own environment."""

    def ask() -> str:
        python = installed(package, "bin", "python")
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        done = subprocess.run(
            [str(python), "-c", code], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() or "?"

    return ask
