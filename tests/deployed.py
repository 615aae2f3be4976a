"""What deploy/ says, read once for its tests."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from relay.config.file import load, loads
from relay.config.model import Config
from tests.rig.relay_process import ROOT

DEPLOY: Final = ROOT / "deploy"

COMPOSE: Final[dict[str, Any]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
"""compose.yaml, its anchors resolved and its variables as written."""

SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]


@cache
def defaults() -> Config:
    """The configuration that the repository ships, with no variable set."""
    return load(ROOT / "config.yaml", {})


@cache
def shipped() -> Config:
    """The configuration of compose.yaml, with no variable set; its secret is in the container only."""
    path = DEPLOY / "relay" / "config.yaml"
    text = path.read_text("utf-8").replace("file:/run/secrets/relay_admin_token", "t" * 32)
    return loads(text.encode(), {}, path)


def example_env() -> dict[str, str]:
    """The variables of .env.example."""
    lines = (DEPLOY / ".env.example").read_text("utf-8").splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, each a word and what follows it; comments and continuations resolved."""
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    text = re.sub(r"(?m)^#.*\n", "", text)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line)]


def mounts(service: str) -> dict[str, Path]:
    """Where each folder or file of deploy/ that a service mounts appears in its container."""
    found = {}
    for volume in SERVICES[service].get("volumes", ()):
        source, target, *_ = volume.split(":")
        if source.startswith("."):
            found[target] = (DEPLOY / source).resolve()
    return found
