"""The official SDKs, each in an environment of its own, as subprocesses that print what they met.

`make sdks` makes the environments under `.sdk/`. Where one is missing its tests are skipped with
the command that makes it; with `CI=true` they fail instead, since CI lets nothing be skipped. The
newest python SDK is in the development lock.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.rig.deadlines import SCALE, output
from tests.rig.raw_client import KEY

HOME = Path(os.environ.get("RELAY_SDKS", Path(__file__).resolve().parents[2] / ".sdk"))
TESTS = Path(__file__).resolve().parents[1]
NODE = HOME / "node" / "bin" / "node"
PACKAGES = HOME / "npm" / "node_modules"


@dataclass(frozen=True, slots=True)
class Sdk:
    name: str
    command: Sequence[str]
    needs: Sequence[Path]
    python: bool


def _python(name: str, interpreter: Path) -> Sdk:
    driver = str(TESTS / "sdk" / "openai_python.py")
    return Sdk(name, (str(interpreter), driver), (interpreter,), python=True)


def _node(name: str) -> Sdk:
    folder = PACKAGES / name
    command = (str(NODE), str(TESTS / "node" / "drive.mjs"), str(folder))
    return Sdk(name, command, (NODE, folder), python=False)


SDKS = (
    _python("openai python 1", HOME / "openai-1" / "bin" / "python"),
    _python("openai python 2", HOME / "openai-2" / "bin" / "python"),
    _python("openai python 3", Path(sys.executable)),
    _node("openai-6"),
    _node("openai-7"),
)


def require(*paths: Path) -> None:
    """Skips the test where something is missing; fails it in CI."""
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        absent(f"{', '.join(missing)} is missing: `make sdks` makes it")


def absent(message: str) -> None:
    """What a test needs is not on this machine."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI lets nothing be skipped: {message}")
    pytest.skip(message)


async def drive(
    sdk: Sdk,
    scenario: str,
    base_url: str,
    *,
    key: str = KEY,
    env: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Runs one scenario in the SDK's own process: what it printed."""
    require(*sdk.needs)
    told = {"BASE_URL": base_url, "API_KEY": key, "PATH": os.environ["PATH"]} | dict(env or {})
    process = await asyncio.create_subprocess_exec(
        *sdk.command,
        scenario,
        env=told,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await output(process, 30 * SCALE)
    assert process.returncode == 0, err.decode()
    printed = json.loads(out)
    found: dict[str, Any] = printed["result"] or {}
    return found
