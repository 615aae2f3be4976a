"""`relay keys new`, `rotate` and `revoke`: files changed line by line, secrets on stdout alone."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from time import process_time

import pytest

from relay.cli import main
from tests.keyfolder import CLEAR, CONFIG, FILED, config, enter, keys
from tests.keytimes import write
from tests.rig import SCALE


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)


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
