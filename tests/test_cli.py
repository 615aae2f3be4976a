"""The command line as a Unix user meets it: places, exit codes, pipes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from relay import __version__
from relay.cli import main
from relay.config.file import load
from relay.config.schema import render

ROOT = Path(__file__).resolve().parents[1]

GOOD = """\
# the comment on top
quota_store: redis://127.0.0.1:6379/0
observability: {log_content: [first]}
models:
  m: {static: hello}
keys:
  - id: first   # the first
    hash: sha256:0000000000000000000000000000000000000000000000000000000000000001
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RELAY_CONFIG", raising=False)
    (tmp_path / "config.yaml").write_text(GOOD)
    return tmp_path


def relay(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relay", *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | more,
        capture_output=True,
        text=True,
        check=False,
    )


# --- check ----------------------------------------------------------------------------------------


def test_check_sums_up_a_good_file_in_a_line_and_adds_its_notices(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = main(["check"])

    out, err = capsys.readouterr()
    assert code == 0
    assert err == ""
    first, *notes = out.splitlines()
    assert first == "config.yaml: ok: 0 upstreams, 1 model, 1 key"
    assert all(note.startswith("  note: ") for note in notes)


def test_check_prints_every_fault_and_fails_with_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "config.yaml").write_text("modles: {}\nserver: {listen: 80}\n")

    code = main(["check"])

    out, err = capsys.readouterr()
    assert code == 1
    assert [line.split(" ")[0] for line in out.splitlines()] == [
        "config.yaml:1:1:",
        "config.yaml:2:18:",
    ]
    assert err == "relay: config.yaml has 2 faults\n"


def test_check_speaks_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.yaml").write_text("modles: {}\n")

    good_code, good = main(["check", "--json"]), json.loads(capsys.readouterr().out)
    bad_code, bad = main(["check", "--json", "-c", "bad.yaml"]), json.loads(capsys.readouterr().out)

    assert (good_code, good["ok"], good["faults"], good["file"]) == (0, True, [], "config.yaml")
    assert good["notices"]
    assert (bad_code, bad["ok"]) == (1, False)
    assert bad["faults"] == [
        {
            "file": "bad.yaml",
            "line": 1,
            "column": 1,
            "path": "modles",
            "message": "unknown option 'modles', did you mean 'models'?",
        }
    ]


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_file_that_is_not_there_is_one_line_and_a_failure(command: str) -> None:
    done = relay(command, "-c", "nowhere.yaml")

    assert done.returncode == 1
    assert "nowhere.yaml" in done.stderr
    assert "No such file or directory" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "other.yaml", "check"),
        ("check", "-c", "other.yaml"),
        ("check", "--config=other.yaml"),
    ],
)
def test_the_file_may_be_named_before_the_command_or_after_it(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    (folder / "other.yaml").write_text(GOOD)

    code = main(arguments)

    assert code == 0
    assert capsys.readouterr().out.startswith("other.yaml: ok")


def test_the_environment_names_the_file_when_the_command_line_does_not(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "other.yaml").write_text(GOOD)
    monkeypatch.setenv("RELAY_CONFIG", "other.yaml")

    main(["check"])
    main(["check", "-c", "config.yaml"])

    lines = [line for line in capsys.readouterr().out.splitlines() if ": ok" in line]
    assert [line.split(":")[0] for line in lines] == ["other.yaml", "config.yaml"]


# --- schema, version, usage -----------------------------------------------------------------------


def test_schema_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["schema"])

    assert code == 0
    assert capsys.readouterr().out == render()


def test_the_version_and_the_help_are_results(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--version", "--help"):
        with pytest.raises(SystemExit) as left:
            main([option])
        assert left.value.code == 0

    out, err = capsys.readouterr()
    assert out.splitlines()[0] == f"relay {__version__}"
    assert "keys" in out
    assert err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("keys",),
        ("keys", "new"),
        ("keys", "new", "--id", "a"),
        ("keys", "new", "--id", "a", "--models", "*", "--rpm", "many"),
        ("check", "--jso"),
        ("no-such-command",),
    ],
)
def test_wrong_usage_is_one_line_and_2(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)

    out, err = capsys.readouterr()
    assert left.value.code == 2
    assert out == ""
    assert len(err.splitlines()) == 1


def test_a_reader_that_leaves_early_is_no_traceback() -> None:
    shell = f'"{sys.executable}" -m relay schema | head -n 1; echo ${{PIPESTATUS[0]}}'

    done = subprocess.run(
        ["bash", "-c", shell],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.splitlines() in (["{", "1"], ["{", "0"])
    assert done.stderr == ""


def test_a_terminal_without_umlauts_is_no_traceback(folder: Path) -> None:
    (folder / "config.yaml").write_text("模型: {}\n", encoding="utf-8")

    done = relay("check", PYTHONIOENCODING="ascii")

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert r"\u6a21" in done.stdout


def test_checking_does_not_load_what_serving_needs() -> None:
    code = (
        "import sys; from relay.cli import main; main(['check']);"
        "heavy = {'aiohttp', 'uvloop', 'prometheus_client', 'asyncio'} & set(sys.modules);"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def test_checking_reads_key_files_and_names_their_faults(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "config.yaml").write_text("models: {m: {static: x}}\nkey_files: [keys.jsonl]\n")
    good = '{"id": "a", "hash": "sha256:' + "ab" * 32 + '"}\n'
    (folder / "keys.jsonl").write_text(good)

    fine = main(["check"])
    counted = capsys.readouterr().out
    (folder / "keys.jsonl").write_text(good + '{"id": "b", "modles": []}\n')
    faulty = main(["check"])
    told = capsys.readouterr()

    assert (fine, faulty) == (0, 1)
    assert "ok: 0 upstreams, 1 model, 1 key\n" in counted
    assert told.out == (
        "keys.jsonl:2:13: modles: unknown option 'modles', did you mean 'models'?\n"
    )
    assert told.err == "relay: config.yaml with its key files has 1 fault\n"


# --- keys new -------------------------------------------------------------------------------------


def test_a_new_key_stands_on_stdout_alone_and_its_entry_on_stderr(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["keys", "new", "--id", "shop", "--models", "a-*", "b", "--rpm", "5"])

    out, err = capsys.readouterr()
    assert code == 0
    assert re.fullmatch(r"sk-[0-9A-Za-z]{43}\n", out)
    assert out.strip() not in err
    assert f"hash: sha256:{sha256(out.strip().encode()).hexdigest()}" in err
    assert "    models: [a-*, b]\n    limits: {rpm: 5}" in err
    assert (folder / "config.yaml").read_text() == GOOD


def test_the_entry_that_is_printed_can_be_pasted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["keys", "new", "--id", "shop", "--models", "*", "--expires", "2030-01-01"])

    snippet = capsys.readouterr().err.partition("\n")[2]
    (folder / "config.yaml").write_text(GOOD + snippet)
    assert [key.id for key in load(Path("config.yaml"), {}).keys] == ["first", "shop"]


def test_write_adds_the_entry_to_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["keys", "new", "--write", "--id", "shop", "--models", "*", "--tpm", "9"])

    out = capsys.readouterr().out
    assert code == 0
    assert (folder / "config.yaml").read_text().startswith(GOOD)
    made = load(Path("config.yaml"), {}).keys[-1]
    assert (made.id, made.limits.tpm) == ("shop", 9)
    assert made.digest == sha256(out.strip().encode()).digest()


@pytest.mark.parametrize("options", [(), ("--write",)])
def test_an_id_that_is_taken_is_refused_and_no_key_is_shown(
    folder: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    code = main(["keys", "new", "--id", "first", "--models", "*", *options])

    out, err = capsys.readouterr()
    assert code == 1
    assert out == ""
    assert err == "relay: config.yaml already has a key with the id 'first'\n"
    assert (folder / "config.yaml").read_text() == GOOD


def test_without_a_file_a_key_can_be_made_but_not_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "config.yaml").unlink()

    made = main(["keys", "new", "--id", "a", "--models", "*"])
    shown = capsys.readouterr().out
    refused = main(["keys", "new", "--id", "a", "--models", "*", "--write"])

    out, err = capsys.readouterr()
    assert (made, refused) == (0, 1)
    assert shown.startswith("sk-")
    assert out == ""
    assert err == "relay: config.yaml: cannot be read: No such file or directory\n"


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--rpm", "0", "limits.rpm must be at least 1"),
        ("--expires", "never", "expires must be a date"),
        ("--id", "a b", "id must be a name without spaces"),
    ],
)
def test_an_entry_the_configuration_would_refuse_is_refused(
    capsys: pytest.CaptureFixture[str], option: str, value: str, words: str
) -> None:
    code = main(["keys", "new", "--id", "x", "--models", "*", option, value])

    out, err = capsys.readouterr()
    assert code == 1
    assert out == ""
    assert words in err
    assert len(err.splitlines()) == 1
