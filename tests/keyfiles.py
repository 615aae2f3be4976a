"""Configurations with a key file of some lines, and hashes to write there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from relay.config.file import load
from relay.config.model import Config

KEY = "sk-0123456789-abcdef"
HASH = "sha256:" + hashlib.sha256(KEY.encode()).hexdigest()
OTHER = "sha256:" + "ab" * 32

BASE: dict[str, Any] = {
    "upstreams": {"u": {"base_url": "http://127.0.0.1:9/v1"}},
    "models": {"m": {"pool": [{"upstream": "u"}], "price": {"input": 1, "output": 1}}},
    "groups": {"team-a": {"limits": {"rpm": 5}}},
    "server": {"workers": 1},
}


def line(**fields: object) -> str:
    return json.dumps(fields, ensure_ascii=False)


def read(folder: Path, *lines: str, **more: object) -> Config:
    """The configuration with a key file of these lines."""
    (folder / "keys.jsonl").write_text("".join(f"{one}\n" for one in lines), "utf-8")
    return configured(folder, **{"key_files": ["keys.jsonl"]} | more)


def configured(folder: Path, **more: object) -> Config:
    path = folder / "config.yaml"
    path.write_text(json.dumps(BASE | more, ensure_ascii=False), "utf-8")
    return load(path, {})
