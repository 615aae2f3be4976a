"""Keys in the files where they stand: found by their id, changed in one step, by one writer at a time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from relay.config.edit import EditRefused
from relay.config.faults import ConfigErrors
from relay.config.file import load
from relay.keys.entries import hash_of
from relay.keys.ring import commit, opened

MODELS = "models: {m: {static: hello}}\n"


def entry(id: str) -> dict[str, Any]:
    return {"id": id, "hash": hash_of(id), "models": ["*"]}


def add(path: Path, id: str, file: Path | None = None) -> None:
    with opened(path, {}) as ring:
        commit(ring.add([entry(id)], file))


def ids(path: Path) -> list[str]:
    config = load(path, {})
    return [*(key.id for key in config.keys), *(key.id for key in config.filed.keys)]


@pytest.mark.parametrize("filed", [False, True])
def test_of_many_writers_none_loses_what_another_has_written(tmp_path: Path, filed: bool) -> None:
    path, file = tmp_path / "config.yaml", tmp_path / "more" / "keys.jsonl"
    file.parent.mkdir()
    file.write_text("")
    path.write_text(f"{MODELS}key_files: [more/keys.jsonl]\n")
    names = [f"k-{number}" for number in range(24)]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda id: add(path, id, file if filed else None), names))

    assert sorted(ids(path)) == sorted(names)
    assert sorted(os.listdir(tmp_path)) == ["config.yaml", "more"]
    assert os.listdir(file.parent) == ["keys.jsonl"]


def test_a_link_keeps_pointing_to_the_file_it_named_and_the_mode_stays(tmp_path: Path) -> None:
    real = tmp_path / "real" / "relay.yaml"
    real.parent.mkdir()
    real.write_text(MODELS)
    real.chmod(0o640)
    path = tmp_path / "config.yaml"
    path.symlink_to("real/relay.yaml")

    add(path, "new")

    assert path.is_symlink()
    assert ids(real) == ["new"]
    assert real.stat().st_mode & 0o777 == 0o640


def test_what_is_refused_leaves_everything_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    text = f"{MODELS}keys: [{{id: a, hash: '{hash_of('a')}'}}]\n"
    path.write_text(text)

    with pytest.raises(EditRefused), opened(path, {}) as ring:
        commit(ring.add([entry("new")], None))

    assert path.read_text() == text
    assert os.listdir(tmp_path) == ["config.yaml"]


def test_a_key_file_may_escape_its_ids_and_have_lines_that_are_none(tmp_path: Path) -> None:
    path, file = tmp_path / "config.yaml", tmp_path / "keys.jsonl"
    path.write_text(f"{MODELS}key_files: [keys.jsonl]\n")
    before = (
        b'\xef\xbb\xbf# "gl\xc3\xbcck"\n\n'
        b'{"id": "gl\\u00fcck", "hash": "%b", "weight": 2}\r\n'
        b'{"id": "other", "models": ["gl\xc3\xbcck"], "hash": "%b"}'
    ) % (hash_of("a").encode(), hash_of("b").encode())
    file.write_bytes(before)

    with opened(path, {}) as ring:
        found = ring.find("glück")
        assert found is not None
        commit(ring.change(found, {"weight": None, "hash": hash_of("c")}))
    with opened(path, {}) as ring:
        commit(ring.add([entry("new")], file))

    assert ids(path) == ["glück", "other", "new"]
    lines = file.read_bytes().split(b"\n")
    assert lines[3] == before.split(b"\n")[3]
    assert b"weight" not in file.read_bytes()


def test_an_id_under_keys_is_found_first_and_one_that_nobody_has_is_not(tmp_path: Path) -> None:
    path, file = tmp_path / "config.yaml", tmp_path / "keys.jsonl"
    path.write_text(f"{MODELS}key_files: [keys.jsonl]\nkeys:\n  - id: a\n")
    file.write_text('{"id": "a"}\n{"id": "b"}\n')

    with opened(path, {}) as ring:
        places = [ring.find(id) for id in ("a", "b", "c")]

    assert [place and (place.filed, place.place) for place in places] == [
        (False, 0),
        (True, 1),
        None,
    ]


def test_a_key_file_that_is_not_there_is_told_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"{MODELS}key_files: [keys.jsonl]\n")

    with (
        pytest.raises(ConfigErrors, match=r"keys\.jsonl: cannot be read"),
        opened(path, {}) as ring,
    ):
        ring.find("a")
