"""Key files: a line means what the same entry means under `keys`, and counts in the digest and the notices."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.config.faults import ConfigErrors
from relay.config.keymodel import KeyConfig, ModelLimits
from relay.config.keytable import FiledKey, FiledModelLimits
from tests.keyfiles import HASH, KEY, OTHER, configured, line, read


def amounts(limits: ModelLimits | FiledModelLimits) -> tuple[object, ...]:
    return tuple(getattr(limits, name) for name in ModelLimits.model_fields)


def meaning(key: KeyConfig | FiledKey) -> tuple[object, ...]:
    limits = key.limits
    return (
        key.id,
        key.digest if isinstance(key, KeyConfig) else key.hash,
        tuple(key.models),
        *amounts(limits),
        {name: amounts(own) for name, own in limits.models.items()},
        key.expires,
        tuple(key.allow_ips),
        key.abort_billing,
        key.group,
        key.weight,
        key.on_revoke,
        [(one.hash, one.until) for one in key.previous],
    )


# --- what a line means ----------------------------------------------------------------------------


FULL = {
    "id": "shop",
    "hash": HASH,
    "models": ["deepseek-*", "gpt-4"],
    "limits": {"rpm": 60, "tpm": 9, "concurrent": 3, "requests_per_day": 5, "usd_per_month": 1.5},
    "expires": "2030-01-01T12:00:00+02:00",
    "allow_ips": ["10.0.0.7", "10.1.0.0/16", "2001:db8::1", "2001:db8::/32"],
    "abort_billing": "drain",
    "group": "team-a",
    "weight": 3,
    "on_revoke": "cut",
    "previous": [{"hash": OTHER, "until": "2030-01-01"}],
}


@pytest.mark.parametrize(
    "entry",
    [
        FULL,
        {"id": "shop", "key": KEY},
        {"id": "shop", "key": "short"},
        {"id": "shop", "hash": HASH.upper().replace("SHA256", "sha256"), "models": []},
        {"id": "kiosk-é世界", "hash": HASH, "limits": {}, "allow_ips": []},
        dict.fromkeys(FULL) | {"id": "shop", "key": None, "hash": HASH},
        {"id": "shop", "hash": HASH, "limits": dict.fromkeys(["rpm", "usd_per_day"])},
        {"id": 'quo"ted\\', "hash": HASH},
        {"id": "shop", "hash": HASH, "limits": {"rpm": 1, "shadow": True}},
        {"id": "shop", "hash": HASH, "limits": {"rpm": 1, "shadow": False, "models": {}}},
        {"id": "shop", "hash": HASH, "limits": {"models": {"m": {"rpm": 1, "shadow": True}}}},
    ],
)
def test_a_line_means_what_the_same_entry_means_under_keys(
    entry: dict[str, Any], tmp_path: Path
) -> None:
    (key,) = read(tmp_path, line(**entry)).filed.keys
    (same,) = configured(tmp_path, keys=[entry]).keys

    assert meaning(key) == meaning(same)


odd: st.SearchStrategy[Any] = st.sampled_from(
    [None, "", " ", 0, -1, 1.0, True, [], {}, "${X}", "x" * 129, "a b", 10**13]
)
name = st.sampled_from(["shop", "kiosk", "é", "a b", "", "x" * 128, "x" * 129, "a\tb", "你好"])
count = st.integers(-1, 3) | st.sampled_from([10**12, 10**12 + 1, 1.0, "1", True, None, 1.5])
ENTRY = st.fixed_dictionaries(
    {"id": name | odd},
    optional={
        "key": st.sampled_from(
            [KEY, "short", "", "your-key-here", "sk-xxxx", "a b", "é" * 20, "file:gone", "<key>"]
        )
        | odd,
        "hash": st.sampled_from([HASH, OTHER, HASH[:-1], HASH[:-2] + "  ", HASH + "0", "md5:0"])
        | odd,
        "models": st.lists(name | odd, max_size=2) | odd,
        "limits": st.dictionaries(
            st.sampled_from(["rpm", "tpm", "usd_per_day", "usd_per_month", "rps", "shadow"]), count
        )
        | st.fixed_dictionaries(
            {"models": st.dictionaries(st.sampled_from(["m", "n"]), st.just({"rpm": 1})) | odd}
        )
        | odd,
        "expires": st.sampled_from(
            ["2030-01-01", "2030-13-01", "2030-01-01T00:00:00Z", "20300101", "soon"]
        )
        | odd,
        "allow_ips": st.lists(
            st.sampled_from(
                ["10.0.0.7", "10.0.0.7/24", "10.0.0.0/24", "::1", "::1%eth0", "10.0.0.07", "x"]
            )
            | odd,
            max_size=2,
        )
        | odd,
        "abort_billing": st.sampled_from(["waive", "drain", "wave"]) | odd,
        "group": st.sampled_from(["team-a", "team-b"]) | odd,
        "weight": count | odd,
        "on_revoke": st.sampled_from(["cut", "finish", "Cut"]) | odd,
        "previous": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "hash": st.sampled_from([HASH, OTHER, "abc"]) | odd,
                    "until": st.sampled_from(["2030-01-01", "soon"]) | odd,
                    "key": odd,
                },
            )
            | odd,
            max_size=2,
        )
        | odd,
        "modles": odd,
    },
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(ENTRY)
def test_a_file_lets_in_what_yaml_lets_in_and_nothing_else(
    tmp_path: Path, entry: dict[str, Any]
) -> None:
    def keys_of(**more: object) -> list[tuple[object, ...]] | None:
        try:
            config = configured(tmp_path, **more)
        except ConfigErrors:
            return None
        keys = [meaning(key) for key in config.keys if key.digest is not None]
        return [*keys, *(meaning(key) for key in config.filed.keys)]

    # Variables are YAML's alone: in a file they are a fault, which another test shows.
    text = line(**entry).replace("${X}", "$X")
    (tmp_path / "keys.jsonl").write_text(text + "\n", "utf-8")

    assert keys_of(key_files=["keys.jsonl"]) == keys_of(keys=[json.loads(text)])


def test_blank_lines_comments_and_a_byte_order_mark_are_no_keys(tmp_path: Path) -> None:
    (tmp_path / "keys.jsonl").write_bytes(
        b"\xef\xbb\xbf# made by the shop\r\n\r\n  \n\t# {}\n"
        + line(id="shop", hash=HASH).encode()
        + b"\r\n \n"
        + line(id="kiosk", hash=OTHER).encode()  # no end of line
    )

    config = configured(tmp_path, key_files=["keys.jsonl"])

    assert [key.id for key in config.filed.keys] == ["shop", "kiosk"]


def test_keys_come_from_all_files_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b.jsonl").write_text(line(id="b", hash=OTHER))

    config = read(tmp_path, line(id="a", hash=HASH), key_files=["more/b.jsonl", "keys.jsonl"])

    assert [key.id for key in config.filed.keys] == ["b", "a"]


def test_a_key_may_be_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(KEY + "\n")

    (key,) = read(tmp_path, line(id="a", key="file:secret")).filed.keys

    assert key.hash == hashlib.sha256(KEY.encode()).digest()


def test_the_digest_changes_with_every_key_file(tmp_path: Path) -> None:
    first = read(tmp_path, line(id="a", hash=HASH)).digest
    same = read(tmp_path, line(id="a", hash=HASH)).digest
    other = read(tmp_path, line(id="a", hash=OTHER)).digest

    assert first == same != other


def test_without_key_files_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    config = configured(tmp_path)

    assert config.digest == hashlib.sha256(config.path.read_bytes()).hexdigest()


# --- notices --------------------------------------------------------------------------------------


def test_notices_count_the_keys_of_files_and_name_some(tmp_path: Path) -> None:
    lines = [
        line(id=f"k{n}", hash=f"sha256:{n:064x}", models=["gtp-*"], limits={"usd_per_day": 1 + n})
        for n in range(10)
    ]

    notices = read(
        tmp_path,
        *lines,
        line(id="none"),
        line(id="weak", key="short"),
        line(id="other", hash=OTHER),
        keys=[{"id": "yaml", "hash": HASH, "models": ["gtp-*"]}],
    ).notices

    assert notices == [
        "keys: 'none' is left out, without a key or a hash.",
        "keys: 'weak' is shorter than 16 characters, and can be guessed.",
        "keys: no model fits 'gtp-*' (of 'yaml', 'k0', 'k1' and 8 more).",
        "keys[other]: metrics use this name for something else, too.",
    ]
