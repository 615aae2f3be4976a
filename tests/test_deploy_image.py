"""deploy/Dockerfile without a Docker engine: what a linter says, and what of it can be tried on a real relay.

`.ci/read-only-root` starts what it makes as another user, on a read-only file system.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.deployed import DEPLOY, SERVICES, dockerfile, shipped
from tests.rig import RelayProcess, Upstream, config, scenario, within
from tests.rig.relay_process import ROOT
from tests.rig.sdks import absent

INSTRUCTIONS = dockerfile()


def said(word: str) -> str:
    """What follows an instruction that stands there once."""
    (found,) = [rest for name, rest in INSTRUCTIONS if name == word]
    return found


def test_the_linter_has_nothing_to_say() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        absent("hadolint is missing: it is in the development lock (`make .venv/.dev`)")
    assert program is not None

    judged = subprocess.run(
        [program, str(DEPLOY / "Dockerfile")], capture_output=True, timeout=60, check=False
    )

    assert judged.returncode == 0, judged.stdout.decode()


def test_both_stages_start_from_the_same_pinned_python() -> None:
    bases = [rest.split(" ")[0] for name, rest in INSTRUCTIONS if name == "FROM"]

    assert bases == ["python:3.11-slim-bookworm"] * 2


def test_it_runs_as_a_user_by_number_that_owns_the_state() -> None:
    user, _, group = said("USER").partition(":")
    made = " ".join(rest for name, rest in INSTRUCTIONS if name == "RUN")
    state = str(shipped().state.path)

    assert int(user) > 0 and int(group) > 0
    assert f"--uid {user} --gid {group}" in made
    assert f"-m 0700 -o relay -g relay {state}" in made
    assert said("VOLUME") == state
    assert f"relay:{state}" in SERVICES["relay"]["volumes"]


def test_it_shows_the_ports_that_the_relay_opens() -> None:
    shown = {int(port) for port in said("EXPOSE").split(" ")}

    assert shown == {shipped().server.listen.port, shipped().admin.listen.port}


def test_signals_reach_the_relay_and_no_shell() -> None:
    assert json.loads(said("ENTRYPOINT")) == ["relay"]
    assert json.loads(said("CMD")) == ["serve"]
    assert "RELAY_CONFIG=/etc/relay/config.yaml" in said_env()
    assert "./relay:/etc/relay:ro" in SERVICES["relay"]["volumes"]


def said_env() -> list[str]:
    *_, last = [rest for name, rest in INSTRUCTIONS if name == "ENV"]
    return last.split(" ")


def test_everything_that_is_copied_is_let_in_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source
        for name, rest in INSTRUCTIONS
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split(" ")[:-1]
    }

    assert next(line for line in lines if line and line[0] != "#") == "*"
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
    assert not any(fnmatchcase(".env", name) for name in let_in)


def test_the_wheel_is_made_with_what_the_tests_run_on() -> None:
    versions = [
        dict(re.findall(r"(?m)^([\w.-]+)==(\S+)", (ROOT / name).read_text("utf-8")))
        for name in (
            "requirements.lock",
            "requirements-otel.lock",
            "requirements-build.lock",
            "requirements-dev.lock",
        )
    ]
    run, traces, build, dev = versions

    assert run.items() <= build.items() <= dev.items()
    assert run.items() <= traces.items() <= dev.items()
    assert {"mypy", "setuptools"} <= build.keys()


def test_what_sends_traces_is_in_the_image_of_those_who_ask_for_it() -> None:
    locks = {
        name: set(re.findall(r"(?m)^opentelemetry[\w-]*", (ROOT / name).read_text("utf-8")))
        for name in ("requirements.lock", "requirements-otel.lock")
    }

    assert [rest for name, rest in INSTRUCTIONS if name == "ARG"] == [
        "RELAY_COMPILE=1",
        "RELAY_OTEL=0",
    ]
    assert locks["requirements.lock"] == set()
    assert {"opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"} <= locks[
        "requirements-otel.lock"
    ]


@pytest.mark.parametrize("workers", [1, 2])
@scenario
async def test_the_health_check_tells_a_relay_that_answers_from_none(
    tmp_path: Path, workers: int
) -> None:
    _, _, command = said("HEALTHCHECK").partition("CMD ")
    _, *arguments = json.loads(command)
    port = shipped().server.listen.port
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, server={"workers": workers}), tmp_path) as relay,
    ):
        here = [item.replace(f":{port}/", f":{relay.address[1]}/") for item in arguments]
        healthy = await ended(here)
        await relay.stop()
        away = await ended(here)

        assert here != arguments
        assert healthy == 0
        assert away == 1


async def ended(arguments: list[str]) -> int:
    """The exit code of Python with these arguments."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stderr=asyncio.subprocess.DEVNULL
    )
    async with within():
        return await process.wait()
