"""Faults in key files: each is told with its file, line, column and option, and shows no secret."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from relay.config.faults import ConfigErrors
from tests.keyfiles import HASH, KEY, OTHER, configured, line, read

SECRET = "sk-live-9f8e7d6c5b4a39281706f5e4d3c2b1a0"


def faults(folder: Path, *lines: str, **more: object) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        read(folder, *lines, **more)
    return [str(fault).replace(f"{folder}/", "") for fault in caught.value.faults]


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
        ('{"id": ' + "[" * 30_000 + "]" * 30_000 + "}", ":1:1: is nested too deep"),
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
