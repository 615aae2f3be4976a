"""`relay keys` as an admin meets it: files changed line by line, secrets on stdout alone, lists to parse."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path
from time import process_time

import pytest

from relay.cli import main
from relay.config.file import load
from relay.config.keymodel import KeyConfig
from relay.config.keytable import FiledKey
from relay.config.model import Config
from tests.keytimes import write
from tests.rig import SCALE

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


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RELAY_CONFIG", raising=False)
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "config.yaml").chmod(0o640)
    (tmp_path / "keys.jsonl").write_text(FILED)
    return tmp_path


def config() -> Config:
    return load(Path("config.yaml"), {})


def keys() -> dict[str, KeyConfig | FiledKey]:
    now = config()
    found: list[KeyConfig | FiledKey] = [*now.keys, *now.filed.keys]
    return {key.id: key for key in found}


def changes(err: str) -> list[str]:
    """The lines of the diff that went and came."""
    return [
        line for line in err.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]


# --- new ------------------------------------------------------------------------------------------


def test_a_new_key_can_have_every_limit_and_go_into_a_key_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = main(
        [
            *("keys", "new", "--file", "--id", "new", "--models", "m", "--rpm", "1", "--tpm", "2"),
            *("--concurrent", "3", "--requests-per-day", "4", "--tokens-per-day", "5"),
            *("--tokens-per-month", "6", "--usd-per-day", "0.5", "--usd-per-month", "7"),
            *("--group", "team", "--expires", "2030-01-01", "--allow-ip", "10.0.0.0/8"),
            *("--weight", "8", "--abort-billing", "waive", "--on-revoke", "cut"),
        ]
    )

    key = config().filed.of_id("new")
    out, err = capsys.readouterr()
    assert code == 0
    assert key is not None
    assert key.hash == sha256(out.strip().encode()).digest()
    assert (key.limits.rpm, key.limits.usd_per_month, key.group, key.weight) == (1, 7, "team", 8)
    assert (key.abort_billing, key.on_revoke, key.addresses) == ("waive", "cut", ("10.0.0.0/8",))
    assert len(changes(err)) == 1
    assert out.strip() not in err
    assert Path("config.yaml").read_text() == CONFIG


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--id", "f-1", "--write"), "already has a key with the id 'f-1'"),
        (("--id", "shop", "--file"), "already has a key with the id 'shop'"),
        (("--id", "x", "--file", "other.jsonl"), "other.jsonl is none of the key_files of"),
        (("--id", "x", "--write", "--group", "taem"), "no group 'taem', did you mean 'team'?"),
    ],
)
def test_what_does_not_fit_to_the_files_is_refused(
    options: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["keys", "new", "--models", "*", *options])

    out, err = capsys.readouterr()
    assert (code, out) == (1, "")
    assert words in err
    assert (Path("config.yaml").read_text(), Path("keys.jsonl").read_text()) == (CONFIG, FILED)


@pytest.mark.parametrize(
    "command",
    [
        ("new", "--id", "x", "--models", "*"),
        ("new", "--id", "x", "--models", "*", "--file", "keys.jsonl"),
        ("rotate", "shop"),
        ("rotate", "f-1"),
        ("revoke", "shop"),
        ("revoke", "f-1", "--cut"),
    ],
)
def test_a_dry_run_shows_the_diff_and_writes_nothing(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["keys", *command, "--dry-run"])

    out, err = capsys.readouterr()
    assert (code, out) == (0, "")
    assert changes(err)
    assert (Path("config.yaml").read_text(), Path("keys.jsonl").read_text()) == (CONFIG, FILED)


# --- rotate ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["shop", "clear", "f-1"])
def test_a_rotated_key_is_known_by_both_its_hashes(
    id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = keys()[id]

    code = main(["keys", "rotate", id, "--grace", "2h"])

    out, err = capsys.readouterr()
    after = keys()[id]
    digests = [getattr(key, "digest", None) or key.hash for key in (before, after)]
    assert code == 0
    assert digests[1] == sha256(out.strip().encode()).digest()
    assert [former.hash for former in after.previous] == [digests[0]]
    assert (after.limits, after.group) == (before.limits, before.group)
    assert out.strip() not in err
    assert CLEAR not in err
    assert Path("config.yaml").stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir()) == ["config.yaml", "keys.jsonl"]


def test_a_second_rotation_keeps_both_former_hashes_and_no_grace_keeps_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["keys", "rotate", "f-1"])
    main(["keys", "rotate", "f-1"])
    twice = config().filed.of_id("f-1")
    main(["keys", "rotate", "f-1", "--grace", "0s"])
    none = config().filed.of_id("f-1")

    assert twice is not None
    assert none is not None
    assert (len(twice.previous), len(none.previous)) == (2, 0)
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nobody",), "has no key with the id 'nobody'"),
        (("variable",), "the key of 'variable' comes from a variable"),
        (("shop", "--grace", "soon"), "--grace must be a duration"),
    ],
)
def test_a_rotation_that_cannot_be_is_refused_without_a_key(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["keys", "rotate", *arguments])

    out, err = capsys.readouterr()
    assert (code, out) == (1, "")
    assert words in err
    assert len(err.splitlines()) == 1
    assert Path("config.yaml").read_text() == CONFIG


# --- revoke ---------------------------------------------------------------------------------------


def test_a_revoked_key_goes_with_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["keys", "revoke", "shop"])
    filed = main(["keys", "revoke", "f-2"])

    assert (code, filed) == (0, 0)
    assert [key.id for key in config().keys] == ["clear", "variable"]
    assert [key.id for key in config().filed.keys] == ["f-1"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("id", ["shop", "f-1"])
def test_a_key_that_is_revoked_and_cut_leaves_its_name_to_say_so(id: str) -> None:
    code = main(["keys", "revoke", id, "--cut"])

    now = config()
    left = {key.id: key.on_revoke for key in now.keys if key.digest is None}
    assert code == 0
    assert left.get(id) == "cut" or now.filed.cut == [id]
    assert now.filed.of_id(id) is None


def test_one_key_among_very_many_is_changed_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    count = 100_000
    write(Path(), count)
    begin = process_time()

    done = [
        main(["keys", "new", "--file", "--id", "new", "--models", "m"]),
        main(["keys", "rotate", f"c-{count // 2:06d}"]),
        main(["keys", "revoke", f"c-{count - 1:06d}"]),
    ]

    # Of the processor, which a busy machine does not stretch; each of the three may take a second.
    assert process_time() - begin < 3 * SCALE
    assert done == [0, 0, 0]
    assert len(config().filed) == count
    assert len(capsys.readouterr().out.splitlines()) == 2


# --- list -----------------------------------------------------------------------------------------


def test_a_list_shows_every_key_its_place_and_its_state(capsys: pytest.CaptureFixture[str]) -> None:
    main(["keys", "rotate", "clear"])
    main(["keys", "new", "--file", "--id", "gone", "--models", "m", "--expires", "2020-01-01"])
    capsys.readouterr()

    code = main(["keys", "list"])

    head, *rows = capsys.readouterr().out.splitlines()
    assert code == 0
    assert head.split() == ["ID", "STATE", "EXPIRES", "GROUP", "MODELS", "LIMITS", "PLACE"]
    assert [row.split()[0] for row in rows] == ["shop", "clear", "variable", "f-1", "f-2", "gone"]
    assert "active" in rows[0]
    assert rows[0].split()[3] == "team"
    assert "rpm 60, m: tpm 9" in rows[0]
    assert rows[0].endswith("config.yaml:7")
    assert "rotating until 20" in rows[1]
    assert "left out" in rows[2]
    assert rows[4].endswith("keys.jsonl:2")
    assert "expired" in rows[5]
    assert "d ago)" in rows[5]


def test_a_list_can_be_parsed_and_narrowed_and_holds_no_secret(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["keys", "new", "--file", "--id", "gone", "--models", "m", "--expires", "2020-01-01"])
    capsys.readouterr()

    main(["keys", "list", "--json"])
    everything = capsys.readouterr().out
    main(["keys", "list", "--json", "--group", "team"])
    team = json.loads(capsys.readouterr().out)
    main(["keys", "list", "--json", "--expiring", "30d"])
    expiring = json.loads(capsys.readouterr().out)
    main(["keys", "list", "--json", "--group", "nobody"])
    nobody = json.loads(capsys.readouterr().out)

    assert [row["id"] for row in team] == ["shop"]
    assert team[0] == {
        "id": "shop",
        "state": "active",
        "place": "config.yaml:7",
        "models": ["*"],
        "limits": {"rpm": 60, "models": {"m": {"tpm": 9}}},
        "group": "team",
    }
    assert [row["id"] for row in expiring] == ["gone"]
    assert nobody == []
    assert len(json.loads(everything)) == 6
    assert "sha256" not in everything
    assert CLEAR not in everything


def test_a_fault_of_one_entry_hides_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    with Path("keys.jsonl").open("a") as file:
        file.write('{"id": "bad", "weight": 0}\n')
    Path("config.yaml").write_text(
        CONFIG + "  - {id: worse, key: '${NOWHERE}', limits: {rpm: 0}}\n"
    )

    code = main(["keys", "list"])

    rows = capsys.readouterr().out.splitlines()[1:]
    assert code == 0
    assert len(rows) == 7
    assert "faulty: limits.rpm must be at least 1" in rows[3]
    assert "faulty: weight must be at least 1" in rows[6]


# --- import ---------------------------------------------------------------------------------------

CSV = """\
id,key,hash,models,rpm,usd_per_month,group,expires,allow_ips
a,sk-imported-0123456789,,"m n*",5,2.5,team,2030-01-01,10.0.0.0/8;10.1.0.1
b,,{0},,,,,,

"c,d",,{1},m,,,,,
"""


@pytest.mark.parametrize("target", [(), ("--file",)])
def test_keys_come_from_csv_with_their_text_hashed(
    target: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("more.csv").write_text(CSV.format(HASHES[7], HASHES[8]))

    code = main(["keys", "import", "more.csv", *target])

    made = keys()
    written = Path("config.yaml").read_text() + Path("keys.jsonl").read_text()
    out, err = capsys.readouterr()
    assert (code, out) == (0, "")
    assert [id for id in ("a", "b", "c,d") if id in made] == ["a", "b", "c,d"]
    assert tuple(made["a"].models) == ("m", "n*")
    assert (made["a"].limits.rpm, made["a"].limits.usd_per_month, made["a"].group) == (
        5,
        2.5,
        "team",
    )
    assert len(made["a"].allow_ips) == 2
    assert "sk-imported" not in written + err
    assert written.startswith(CONFIG) or FILED in written


def test_keys_come_from_json_lines_with_all_they_may(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        {"id": "a", "key": "sk-imported-0123456789", "limits": {"models": {"m": {"rpm": 1}}}},
        {"id": "b", "hash": HASHES[7], "previous": [{"hash": HASHES[8], "until": "2030-01-01"}]},
    ]
    Path("more.jsonl").write_text("\n".join(map(json.dumps, lines)))

    code = main(["keys", "import", "more.jsonl", "--file", "keys.jsonl"])

    a, b = (config().filed.of_id(id) for id in "ab")
    assert code == 0
    assert a is not None
    assert b is not None
    assert a.limits.models["m"].rpm == 1
    assert len(b.previous) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            "id,key\na,sk-0123456789abcdef\nshop,sk-1123456789abcdef\n",
            "more:3:1: id: 'shop' is already",
        ),
        (
            "id,key\na,sk-0123456789abcdef\na,sk-1123456789abcdef\n",
            "more:3:1: id: 'a' is already the",
        ),
        ("id,key\na,sk-0123456789abcdef\nb,sk-0123456789abcdef\n", "more:3:1: is the same key as"),
        (f"id,key\na,{CLEAR}\n", "more:2:1: is the same key as that of keys[1]"),
        (
            "id,key,rpm\na,sk-0123456789abcdef,many\n",
            "more:2:1: limits.rpm: must be a whole number",
        ),
        ("id,key,group\na,sk-0123456789abcdef,taem\n", "more:2:1: group: there is no group 'taem'"),
        ("id,key\na,\n", "more:2:1: hash: needs a key or a hash"),
        ("id,kye\na,b\n", "more:1:1: unknown column 'kye', did you mean 'key'?"),
        ("id,key\na,b,c\n", "more:2:1: has more cells than columns"),
        ('{"id": "a"}\n', "more:1:1: hash: needs a key or a hash"),
        ('{"id": "a", "hash": 3}\n', "more:1:13: hash: is not a hash"),
        ("", "more: has no keys"),
        ("id,key\n", "more: has no keys"),
    ],
)
def test_one_fault_and_nothing_is_imported(
    content: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("more").write_text(content)

    code = main(["keys", "import", "more"])

    out, err = capsys.readouterr()
    assert (code, out) == (1, "")
    assert err.startswith(told)
    assert err.endswith("relay: nothing is imported from more\n")
    assert "sk-" not in err
    assert (Path("config.yaml").read_text(), Path("keys.jsonl").read_text()) == (CONFIG, FILED)
