"""A folder with keys in its configuration and in a key file, for the commands that read and change them."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.config.file import load
from relay.config.keymodel import KeyConfig
from relay.config.keytable import FiledKey
from relay.config.model import Config

CLEAR = "sk-clear-0123456789abcdef"
HASHES = [f"sha256:{number:064x}" for number in range(9)]
CONFIG = f"""\
models:
  m: {{static: hello}}
groups:
  team: {{limits: {{rpm: 5}}}}
key_files: [keys.jsonl]
keys:
  - id: shop   # the first
    hash: {HASHES[1]}
    limits: {{rpm: 60, models: {{m: {{tpm: 9}}}}}}
    group: team

  - id: clear
    key: {CLEAR}
  - id: variable
    key: ${{A_KEY:-}}
"""
FILED = (
    f'{{"id": "f-1", "hash": "{HASHES[5]}", "weight": 2}}\n{{"id": "f-2", "hash": "{HASHES[6]}"}}\n'
)
"""The key file."""


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes both files and makes their folder the one that commands run in."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("RELAY_CONFIG", raising=False)
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "config.yaml").chmod(0o640)
    (folder / "keys.jsonl").write_text(FILED)


def config() -> Config:
    return load(Path("config.yaml"), {})


def keys() -> dict[str, KeyConfig | FiledKey]:
    now = config()
    found: list[KeyConfig | FiledKey] = [*now.keys, *now.filed.keys]
    return {key.id: key for key in found}
