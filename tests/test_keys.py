"""New keys: strong, hashed, and refused in the admin's words; what becomes of an entry that is rotated."""

from __future__ import annotations

import re
from hashlib import sha256

import pytest

from relay.config.keymodel import KeyConfig
from relay.keys.entries import ALPHABET, SIGNS, KeyRefused, entry_of, hash_of, new_key, rotated


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


# --- rotation -------------------------------------------------------------------------------------

NOON = 1893499200.0
"""2030-01-01T12:00:00Z."""
OLD = hash_of("sk-old-0123456789abcdef")


def test_a_rotation_keeps_the_old_hash_until_the_grace_is_over() -> None:
    options = rotated({"id": "a", "hash": OLD}, "sk-new", 3600, NOON)

    assert options == {
        "hash": hash_of("sk-new"),
        "previous": [{"hash": OLD, "until": "2030-01-01T13:00:00Z"}],
    }


def test_without_a_grace_no_former_key_stays_good() -> None:
    before = {"id": "a", "hash": OLD, "previous": [{"hash": "x", "until": "2031-01-01"}]}

    options = rotated(before, "sk-new", 0, NOON)

    assert options == {"hash": hash_of("sk-new"), "previous": None}


def test_a_rotation_cleans_up_what_an_earlier_one_has_left() -> None:
    over = {"hash": "x", "until": "2030-01-01T12:00:00Z"}
    good = {"hash": "y", "until": "2030-01-01T12:00:01Z"}

    options = rotated({"id": "a", "hash": OLD, "previous": [over, good]}, "sk-new", 60, NOON)

    assert options["previous"] == [good, {"hash": OLD, "until": "2030-01-01T12:01:00Z"}]


def test_a_key_as_text_becomes_a_hash() -> None:
    options = rotated({"id": "a", "key": "sk-old-0123456789abcdef"}, "sk-new", 60, NOON)

    assert options["key"] is None
    assert options["previous"][0]["hash"] == OLD


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"key": "${A_KEY}"}, "the key of 'a' comes from a variable"),
        ({"hash": "${A_HASH:-x}"}, "the hash of 'a' comes from a variable"),
        ({"key": "file:/run/secrets/a"}, "the key of 'a' stands in a file of its own"),
        ({}, "'a' has neither a key nor a hash"),
        ({"key": ""}, "'a' has neither a key nor a hash"),
    ],
)
def test_a_key_that_cannot_be_known_is_not_rotated(entry: dict[str, str], words: str) -> None:
    with pytest.raises(KeyRefused, match=re.escape(words)):
        rotated({"id": "a", **entry}, "sk-new", 60, NOON)
