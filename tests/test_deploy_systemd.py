"""deploy/systemd/relay.service: what systemd's own tools say of it, and what belongs together."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from relay.config.file import loads
from relay.config.values import read_duration, read_size
from tests.deployed import DEPLOY, SERVICES, defaults
from tests.rig.relay_process import ROOT
from tests.rig.sdks import absent

UNIT = DEPLOY / "systemd" / "relay.service"
TEXT = UNIT.read_text("utf-8")
INSTALLED = "/opt/relay/bin/relay"

MOST_EXPOSED = 20
"""Tenths of a point on systemd's scale of ten: a service without any hardening has 9.6."""


def setting(name: str) -> str:
    """The value of a setting that stands there once."""
    (found,) = re.findall(rf"(?m)^{name}=(.*)$", TEXT)
    assert isinstance(found, str)
    return found


def analysed(unit: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        absent("systemd-analyze is missing: `apt-get install systemd`")
    assert program is not None
    return subprocess.run(
        [program, *arguments, str(unit)], capture_output=True, text=True, timeout=60, check=False
    )


def here(folder: Path, text: str) -> Path:
    """The unit with a program that this host has."""
    unit = folder / UNIT.name
    unit.write_text(text.replace(INSTALLED, shutil.which("true") or ""), "utf-8")
    return unit


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    misspelt = tmp_path / "wrong"
    misspelt.mkdir()

    good = analysed(here(tmp_path, TEXT), "verify", "--man=no")
    wrong = analysed(here(misspelt, TEXT.replace("UMask=", "UMasks=")), "verify", "--man=no")

    # It complains and ends with 0; of this host's other units it may say what it likes.
    assert UNIT.name not in good.stdout + good.stderr
    assert good.returncode == 0
    assert "UMasks" in wrong.stderr
    assert UNIT.name in wrong.stderr


def test_systemd_finds_little_that_the_service_could_break(tmp_path: Path) -> None:
    unit = here(tmp_path, TEXT)

    judged = analysed(
        unit, "security", "--offline=true", "--no-pager", f"--threshold={MOST_EXPOSED}"
    )

    assert judged.returncode == 0, judged.stdout


def test_it_may_take_longer_to_stop_than_a_drain() -> None:
    drain = defaults().server.drain

    patience = read_duration(setting("TimeoutStopSec").replace("min", "m"))

    assert patience > drain.delay + drain.timeout


def test_any_process_may_say_that_the_relay_serves() -> None:
    assert setting("Type") == "notify"
    assert setting("NotifyAccess") == "all"
    assert setting("ExecReload") == "/bin/kill -HUP $MAINPID"
    assert setting("KillMode") == "mixed", "the first process tells the others"


def test_it_may_use_as_much_as_in_compose() -> None:
    relay = SERVICES["relay"]

    assert int(setting("LimitNOFILE")) == relay["ulimits"]["nofile"]["hard"]
    assert read_size(setting("MemoryMax").replace("G", "GiB")) == read_size(
        relay["mem_limit"].replace("g", "GiB")
    )


@pytest.mark.parametrize("page", ["README.md"])
def test_the_three_lines_to_change_for_it_are_those_of_the_configuration(page: str) -> None:
    text = (DEPLOY / page).read_text("utf-8")
    commands = re.findall(r"-e 's#(.+?)#(.+?)#'", text)
    config = (ROOT / "config.yaml").read_text("utf-8")

    for old, new in commands:
        assert config.count(old) == 1, old
        config = config.replace(old, new)

    credential = setting("LoadCredential").partition(":")[0]
    state = Path("/var/lib") / setting("StateDirectory")
    secret = f"file:/run/credentials/relay.service/{credential}"
    assert len(commands) == 3
    assert f'["{secret}"]' in config
    read = loads(config.replace(secret, "sk-0123456789abcdef").encode(), {}, Path("config.yaml"))
    assert read.state.path == state
    assert str(read.server.listen) == "127.0.0.1:8080"
