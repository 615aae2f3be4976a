"""Reloads under load, the short version of `python -m tests.reloads`; and files cut off anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relay.config.file import ConfigErrors, load, loads
from relay.config.keyfiles import without_a_break
from relay.config.model import Config
from relay.following import half_written, paths_of, signature_of
from relay.keys.entries import hash_of
from relay.reload import Prepared, prepare
from tests.reloads import run
from tests.rig import scenario

RELOADS = 60


@pytest.mark.parametrize("workers", [1, 2])
@scenario
async def test_no_call_notices_reloads_be_the_files_good_or_not(
    tmp_path: Path, workers: int
) -> None:
    found = await run(workers, RELOADS, tmp_path)

    assert found.failed == []
    assert found.calls > RELOADS
    assert found.reloaded + found.refused == RELOADS
    assert found.refused >= RELOADS // 20


BEFORE = f"""\
models:
  m: {{static: hello}}
  n: {{static: hello}}
key_files: [keys.jsonl]
groups:
  team:
    limits: {{rpm: 1000}}
keys:
  - id: first   # 你好
    hash: {hash_of("first")}
    limits:
      rpm: 1200
      usd_per_month: 12.5
    group: team
    expires: 2030-01-01T12:00:00Z
  - {{id: second, hash: {hash_of("second")}, models: [m, "n*"], weight: 12}}
observability:
  slow_first_token: 800ms
""".encode()
LINES = "".join(
    json.dumps({"id": id, "hash": hash_of(id), "limits": {"rpm": 60}, "expires": "2030-01-01"})
    + "\n"
    for id in ("a", "b")
).encode()


def in_effect(folder: Path) -> Config:
    (folder / "config.yaml").write_bytes(BEFORE)
    (folder / "keys.jsonl").write_bytes(LINES)
    return load(folder / "config.yaml", {})


def test_a_file_that_is_cut_off_inside_a_line_never_takes_effect_and_never_breaks_the_reload(
    tmp_path: Path,
) -> None:
    old = in_effect(tmp_path)

    for cut in range(len(BEFORE)):
        (tmp_path / "config.yaml").write_bytes(BEFORE[:cut])
        made = prepare(old, {}, without_a_break)

        told = half_written(old) or made
        if cut == 0 or BEFORE[cut - 1 : cut] != b"\n":
            assert isinstance(told, list), BEFORE[:cut][-20:]
            assert told
        elif isinstance(made, Prepared):
            # Whole lines are a configuration like any other: all of it, and nothing else, is in effect.
            whole = loads(BEFORE[:cut], {}, old.path)
            assert made.config.model_dump() == whole.model_dump()


def test_a_key_file_that_is_cut_off_never_lets_in_half_a_key(tmp_path: Path) -> None:
    old = in_effect(tmp_path)
    ends = {0, len(LINES), *(at + 1 for at, sign in enumerate(LINES) if sign == 0x0A)}
    # The last sign of a line is its brace: what ends there is whole.
    ends |= {at - 1 for at in ends if at}

    for cut in range(len(LINES)):
        (tmp_path / "keys.jsonl").write_bytes(LINES[:cut])
        made = prepare(old, {}, without_a_break)

        assert isinstance(made, Prepared) == (cut in ends), LINES[:cut][-20:]
        if isinstance(made, Prepared):
            assert all(old.filed.of_id(key.id) == key for key in made.config.filed.keys)


def test_files_that_change_while_they_are_read_are_not_put_into_effect(tmp_path: Path) -> None:
    old = in_effect(tmp_path)
    seen = signature_of(paths_of(old))

    def still() -> bool:
        return signature_of(paths_of(old)) == seen

    (tmp_path / "keys.jsonl").write_bytes(LINES + b"\n")
    changed = prepare(old, {}, without_a_break, None, still)
    seen = signature_of(paths_of(old))
    left_alone = prepare(old, {}, without_a_break, None, still)

    assert isinstance(changed, list)
    assert "changed while it was read" in changed[0]
    assert isinstance(left_alone, Prepared)


def test_a_file_that_never_ended_with_a_line_may_go_on_so(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"models: {m: {static: hello}}")
    old = load(path, {})

    path.write_bytes(b"models: {m: {static: hallo}}")

    assert half_written(old) == []
    assert isinstance(prepare(old, {}, without_a_break), Prepared)


def test_nothing_that_a_file_holds_breaks_a_reload(tmp_path: Path) -> None:
    old = in_effect(tmp_path)

    for content in (
        b"",
        b"\xff",
        b"\0",
        b"- ",
        b"{",
        b"keys: *x",
        b"a: &a [*a]",
        b"%YAML 9.9\n---\n",
    ):
        (tmp_path / "config.yaml").write_bytes(content)
        assert isinstance(prepare(old, {}, without_a_break), list), content
    (tmp_path / "config.yaml").unlink()
    assert isinstance(prepare(old, {}, without_a_break), list)
    with pytest.raises(ConfigErrors):
        load(tmp_path / "config.yaml", {})
