"""Key files: a line means what the same entry means under `keys`, and every fault is told with its place."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.config.faults import ConfigErrors
from relay.config.file import load
from relay.config.keymodel import KeyConfig, ModelLimits
from relay.config.keytable import FiledKey, FiledModelLimits
from relay.config.model import Config

KEY = "sk-0123456789-abcdef"
SECRET = "sk-live-9f8e7d6c5b4a39281706f5e4d3c2b1a0"
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


def faults(folder: Path, *lines: str, **more: object) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        read(folder, *lines, **more)
    return [str(fault).replace(f"{folder}/", "") for fault in caught.value.faults]


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


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            line(id="a", hash=HASH, modles=["m"]),
            ":1:96: modles: unknown option 'modles', did you mean 'models'?",
        ),
        (
            line(id="a", hash=HASH, limits={"rpm": 0, "rmp": 1}),
            ":1:107: limits.rpm: must be at least 1, not 0",
        ),
        (
            line(id="a", hash=HASH, rpm=5),
            ":1:96: rpm: unknown option 'rpm', it belongs under 'limits'",
        ),
        (
            line(id="a", hash=HASH, group="team-b"),
            ":1:96: group: there is no group 'team-b', did you mean 'team-a'?",
        ),
        (
            line(id="a", hash=HASH, limits={"models": {"n": {"rpm": 1}}}),
            ":1:118: limits.models.n: there is no model 'n' (there are: 'm')",
        ),
        (line(hash=HASH), ":1:1: id: is required"),
        (
            line(id="a", hash=HASH, previous=[{"hash": HASH, "until": "2030-01-01"}]),
            ":1:96: previous: holds the same key twice",
        ),
        (
            line(id="a", hash=HASH, previous=[{"hash": OTHER}]),
            ":1:96: previous[0].until: is required",
        ),
        (line(id="a b", hash=HASH), ":1:2: id: must be a name without spaces, of at most 128"),
        (line(id="a", hash="abc"), ":1:13: hash: is not a hash: write sha256: and 64 hex digits"),
        (line(id="a", hash=HASH, key=KEY), ":1:13: hash: is one too many: write either"),
        (line(id="a", key="your-key-here"), ":1:13: key: is a placeholder that others know"),
        (line(id="a", key="${A_KEY}"), ":1:13: key: has a ${: variables are not put into key"),
        (line(id="é", hash=HASH, weight="3"), ":1:96: weight: must be a whole number, not '3'"),
        ('{"id": "a", "id": "b"}', ":1:2: id: 'id' is given twice"),
        ('{"id": "a", "hash": "x", "hash" : "x"}', ":1:13: hash: 'hash' is given twice"),
        ('{"id": "a",', ":1:1: is not JSON"),
        ("id: a", ":1:1: must be a JSON object, such as"),
        ('["a"]', ":1:1: must be a JSON object, such as"),
        ('{"id": ' + "[" * 3000, ":1:1: is "),
        ('{"id": ' + "[" * 950 + "]" * 950 + "}", ":1:"),
        ('{"id": ' + "[" * 3000 + "]" * 3000 + "}", ":1:1: is nested too deep"),
        ('{"id": "a", "models": ["' + "m" * 70_000 + '"]}', ":1:1: is longer than 64 KiB"),
    ],
)
def test_a_fault_is_told_with_its_file_line_column_and_option(
    text: str, told: str, tmp_path: Path
) -> None:
    found = faults(tmp_path, "# one", text)

    assert found[0].startswith("keys.jsonl" + told.replace(":1:", ":2:", 1))


def test_all_faults_of_all_files_are_told_at_once_with_those_of_the_config(tmp_path: Path) -> None:
    (tmp_path / "more.jsonl").write_text(line(id="c", hash=OTHER, weight=0))

    found = faults(
        tmp_path,
        line(id="a", hash=HASH, weight=0, on_revoke="Cut"),
        line(id="b", hash="x"),
        key_files=["keys.jsonl", "gone.jsonl", "more.jsonl"],
        modles={},
    )

    assert [fault.split(": ")[1] for fault in found] == [
        *("key_files[1]", "modles"),
        *("weight", "on_revoke", "hash", "weight"),
    ]


def test_a_line_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    (tmp_path / "keys.jsonl").write_bytes(b'\n{"id": "\xff", "hash": "x"}\n')

    with pytest.raises(ConfigErrors) as caught:
        configured(tmp_path, key_files=["keys.jsonl"])

    (fault,) = caught.value.faults
    assert (fault.line, fault.message) == (2, "is not UTF-8 text")


def test_an_id_or_a_key_that_is_there_twice_is_told_with_both_places(tmp_path: Path) -> None:
    (tmp_path / "more.jsonl").write_text(
        "\n" + line(id="a", hash="sha256:" + "cd" * 32) + "\n" + line(id="d", hash=HASH)
    )

    found = faults(
        tmp_path,
        line(id="a", hash=HASH),
        line(id="yaml", hash="sha256:" + "ef" * 32),
        line(id="b", key=SECRET),
        line(id="left-out"),
        line(id="left-out", hash="sha256:" + "12" * 32),
        keys=[{"id": "yaml", "key": SECRET}],
        key_files=["keys.jsonl", "more.jsonl"],
    )

    assert found == [
        "keys.jsonl:2:2: id: 'yaml' is already the id of keys[0]",
        "keys.jsonl:3:1: is the same key as that of keys[0]",
        f"keys.jsonl:5:2: id: 'left-out' is already the id of {tmp_path}/keys.jsonl:4".replace(
            f"{tmp_path}/", ""
        ),
        "more.jsonl:2:2: id: 'a' is already the id of keys.jsonl:1",
        "more.jsonl:3:1: is the same key as that of keys.jsonl:1",
    ]


def test_of_very_many_faulty_lines_some_are_told_and_the_others_counted(tmp_path: Path) -> None:
    good = [line(id=f"k{n}", hash=f"sha256:{n:064x}") for n in range(3000)]

    found = faults(tmp_path, *good, *good)

    assert len(found) == 51
    assert found[0] == "keys.jsonl:3001:2: id: 'k0' is already the id of keys.jsonl:1"
    assert found[-1] == "keys.jsonl:3051:1: has faults, and so have 2,949 more"


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        json.dumps(SECRET),
        f'{{"id": "a", "key": "{SECRET}"',
        f'{{"id": "a", "key": {SECRET}}}',
        f'{{"id": "a", "key": ["{SECRET}"]}}',
        f'{{"id": "a", "key": "{SECRET} "}}',
        f'{{"id": "a", "hash": "{SECRET}"}}',
        f'{{"id": "a", "key": "{SECRET}", "key": "{SECRET}"}}',
        f'{{"id": "a", "limits": "{SECRET}"}}',
    ],
)
def test_no_fault_shows_a_secret(text: str, tmp_path: Path) -> None:
    (found,) = faults(tmp_path, text)

    assert SECRET not in found


def test_a_file_that_cannot_be_read_is_a_fault_of_the_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    names = ["gone.jsonl", "folder", "pipe", "keys.jsonl", "./keys.jsonl"]

    found = faults(tmp_path, line(id="a", hash=HASH), key_files=names)

    told = [fault.partition(": ")[2] for fault in found if "key_files" in fault]
    assert told == [
        "key_files[0]: cannot be read: No such file or directory",
        "key_files[1]: cannot be read: Is a directory",
        "key_files[2]: cannot be read: it is not a file",
        "key_files[4]: is the same file as key_files[3]",
    ]


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
