"""New keys: strong, hashed, refused in the admin's words, and added to a file without touching its rest."""

from __future__ import annotations

import os
import re
from hashlib import sha256
from pathlib import Path

import pytest

from relay.config.file import EditRefused, append_key, key_ids
from relay.config.model import KeyConfig
from relay.keys import ALPHABET, SIGNS, KeyRefused, entry_of, new_key

ENTRY = {"id": "new", "hash": f"sha256:{'ab' * 32}", "models": ["a-*", "b"], "limits": {"rpm": 5}}


def test_a_key_is_sk_and_43_base62_signs_and_never_the_same() -> None:
    made = {new_key() for _ in range(200)}

    assert len(made) == 200
    assert all(re.fullmatch(r"sk-[0-9A-Za-z]{43}", key) for key in made)


def test_a_key_holds_256_bits() -> None:
    assert len(set(ALPHABET)) == 62
    assert len(ALPHABET) ** SIGNS > 2**256 > len(ALPHABET) ** (SIGNS - 1)


def test_every_sign_of_the_alphabet_is_used() -> None:
    made = "".join(new_key().removeprefix("sk-") for _ in range(200))

    assert set(made) == set(ALPHABET)


def test_an_entry_holds_the_hash_and_only_what_was_asked_for() -> None:
    entry = entry_of("sk-secret", id="shop", models=["deepseek-*"], limits={})

    assert entry == {
        "id": "shop",
        "hash": f"sha256:{sha256(b'sk-secret').hexdigest()}",
        "models": ["deepseek-*"],
    }
    assert KeyConfig.model_validate(entry).digest == sha256(b"sk-secret").digest()


def test_limits_and_expiry_are_part_of_the_entry() -> None:
    entry = entry_of("sk-x", id="a", models=["*"], limits={"rpm": 5}, expires="2030-01-01")

    assert entry["limits"] == {"rpm": 5}
    assert entry["expires"] == "2030-01-01"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"id": "two words"}, "id must be a name without spaces"),
        ({"id": ""}, "id must be a name"),
        ({"limits": {"rpm": 0}}, "limits.rpm must be at least 1, not 0"),
        ({"expires": "soon"}, "expires must be a date or a time in UTC"),
        ({"models": [""]}, "models[0] must not be empty"),
    ],
)
def test_what_the_configuration_would_refuse_is_refused_here(
    fields: dict[str, object], words: str
) -> None:
    asked: dict[str, object] = {"id": "a", "models": ["*"], "limits": {}} | fields

    with pytest.raises(KeyRefused, match=re.escape(words)):
        entry_of("sk-x", **asked)  # type: ignore[arg-type]


# --- adding a key ---------------------------------------------------------------------------------

BEFORE = {
    "two spaces, a comment behind, more after": (
        "keys:\n  - id: a   # the first\n    limits:\n      rpm: 5   # slow\n"
        "\n  # - id: off\n\n# Other things.\nserver: {workers: 1}\n"
    ),
    "no indentation, flow style inside": "keys:\n- {id: a}\n- {id: b,\n   limits: {rpm: 1}}\n",
    "four spaces": "server:\n    workers: 1\nkeys:\n    - id: a\n      hash: x\n",
    "no end of line at the end": "keys:\n  - id: a",
    "line ends of windows": "# on top\r\nkeys:\r\n  - id: a\r\nserver: {}\r\n",
    "no keys yet": "server: {}   # the server\n",
    "an empty list": "keys: []   # nobody\nserver: {}\n",
    "nothing under keys": "keys:   # nobody\nserver: {}\n",
    "a null under keys": "keys: ~\n",
    "keys last and empty": "server: {}\nkeys:",
    "an empty file": "",
    "only comments": "# nothing\n",
    "variables, unset": "keys:\n  - id: a\n    key: ${NOWHERE}\nmodels: {m: {static: '${X:-y}'}}\n",
    "a block text at the end": "keys:\n  - id: a\n    key: |\n      text\n\n# end\nserver: {}\n",
    "a byte order mark": "\ufeffkeys:\n  - id: a\n",
}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
def test_adding_a_key_adds_lines_and_changes_no_other(tmp_path: Path, before: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(before.encode())
    path.chmod(0o640)
    ids = key_ids(path)

    append_key(path, ENTRY)

    after = path.read_bytes().decode()
    assert key_ids(path) == [*ids, "new"]
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["config.yaml"]
    lines = after.splitlines()
    for line in before.splitlines():
        kept = line if line in lines else line.replace(" []", "").replace(" ~", "")
        lines.remove(kept)
    assert not {line.strip().split(" ")[0] for line in lines} - {
        *("-", "hash:", "models:", "limits:", "keys:", "")
    }


@pytest.mark.parametrize(
    "before",
    [
        "keys: [{id: a}]\n",
        "{keys: [], server: {}}\n",
        "other: &a\n  - id: a\nkeys: *a\n",
        "keys: {id: a}\n",
        "server: {}\n...\n",
    ],
)
def test_a_file_that_cannot_be_added_to_safely_stays_as_it_is(tmp_path: Path, before: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(before)

    with pytest.raises(EditRefused, match="paste"):
        append_key(path, ENTRY)

    assert path.read_text() == before
    assert os.listdir(tmp_path) == ["config.yaml"]


def test_a_link_keeps_pointing_to_the_file_it_named(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "relay.yaml").write_text("keys: []\n")
    (tmp_path / "config.yaml").symlink_to("real/relay.yaml")

    append_key(tmp_path / "config.yaml", ENTRY)

    assert (tmp_path / "config.yaml").is_symlink()
    assert key_ids(tmp_path / "real" / "relay.yaml") == ["new"]
