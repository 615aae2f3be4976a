"""`relay keys list` and `import`: all keys shown without a secret, many taken in, or none of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relay.cli import main
from tests.keyfolder import CLEAR, CONFIG, FILED, HASHES, config, enter, keys


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)


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
