"""How it starts: the shipped configuration, the demo, the commands, and what a bad start says."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from tests.rig import KEY, End, RelayProcess, Upstream, config, get, output, scenario
from tests.rig import scripts as say
from tests.rig.deadlines import SCALE
from tests.rig.relay_process import ROOT

SHIPPED = ROOT / "config.yaml"
READY = 1.0 * SCALE
"""Seconds from the process start to the ready line."""


def shipped(directory: Path) -> Path:
    """The shipped config.yaml on ports of its own; nothing else is changed."""
    text = SHIPPED.read_text("utf-8")
    for line, ours in (
        (r"listen: 0\.0\.0\.0:8080", "listen: 127.0.0.1:0"),
        (r"listen: 127\.0\.0\.1:8081", "listen: 127.0.0.1:0"),
    ):
        text, count = re.subn(line, ours, text)
        assert count == 1, line
    path = directory / "config.yaml"
    path.write_text(text, "utf-8")
    return path


async def command(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Runs `relay ...` to its end: exit code, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay", *arguments),
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | dict(env or {}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await output(process)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def demo_key(relay: RelayProcess) -> str:
    """The key of this run, as the start tells it."""
    return str(relay.ready["demo_key"])


@scenario
async def test_the_shipped_configuration_streams_a_demo_answer_with_no_account(
    tmp_path: Path,
) -> None:
    async with RelayProcess(shipped(tmp_path), tmp_path) as relay:
        key = demo_key(relay)
        models = await get(relay.address, "/v1/models", key=key)
        model = models.json()["data"][0]["id"]
        answer = await relay.chat(key=key, model=model)
        plain = await relay.chat(key=key, model=model, stream=False)

        assert answer.end is End.CLEAN
        assert answer.events[-1] == say.DONE
        assert len(answer.events) > 5
        assert len(answer.text) > 20
        assert plain.json()["choices"][0]["message"]["content"]
        line = await relay.call_of(answer)
        assert (line["upstream"], line["outcome"]) == ("demo", "ok")
        assert relay.ready["demo_models"] == [model]
        assert key in relay.ready["curl"]
        assert relay.ready["metrics"] == "http://{}:{}/metrics".format(*relay.admin)


@scenario
async def test_the_demo_key_is_new_each_time_and_good_on_loopback_only(tmp_path: Path) -> None:
    async with RelayProcess(shipped(tmp_path), tmp_path) as first:
        one = demo_key(first)
        behind = await first.chat(key=one, headers={"X-Forwarded-For": "192.0.2.1"})
    async with RelayProcess(shipped(tmp_path), tmp_path) as second:
        two = demo_key(second)
        old = await second.chat(key=one)

    assert one != two
    assert behind.status == 401
    assert old.status == 401
    assert one not in first.stdout


@scenario
async def test_the_articles_variables_serve_the_real_provider(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        env = {
            "HOLYSHEEP_API_KEY": "sk-holy-0123456789abcdef",
            "HOLYSHEEP_BASE_URL": upstream.base_url,
            "RELAY_API_KEY": KEY,
            "RATE_LIMIT": "3",
            "MAX_CONCURRENT": "7",
        }
        async with RelayProcess(shipped(tmp_path), tmp_path, env) as relay:
            models = await get(relay.address, "/v1/models")
            model = models.json()["data"][0]["id"]
            answers = [await relay.chat(model=model) for _ in range(4)]
            upstream.script = say.error(500)

            assert [item.status for item in answers] == [200, 200, 200, 429]
            assert answers[0].text == say.TEXT
            assert answers[0].headers["x-ratelimit-limit-requests"] == "3"
            sent = upstream.exchanges[0].request.headers
            assert sent["authorization"] == "Bearer sk-holy-0123456789abcdef"


@scenario
async def test_an_outage_never_ends_in_a_canned_answer(tmp_path: Path) -> None:
    async with Upstream(say.error(500)) as upstream:
        models = {"m": {"pool": [{"upstream": "real"}, {"upstream": "demo", "tier": 9}]}}
        fields = config({"real": upstream, "demo": {"kind": "demo"}}, models)
        fields["upstreams"]["demo"].pop("api_keys")
        async with RelayProcess(fields, tmp_path) as relay:
            answer = await relay.chat()

            assert (answer.status, answer.error["code"]) == (502, "upstream_error")


@pytest.mark.alone
@scenario
async def test_it_is_ready_within_a_second(tmp_path: Path) -> None:
    async with RelayProcess(shipped(tmp_path), tmp_path):
        pass  # warm: byte code is compiled once

    loop = asyncio.get_running_loop()
    took: list[float] = []
    for _ in range(3):
        begin = loop.time()
        async with RelayProcess(shipped(tmp_path), tmp_path):
            took.append(loop.time() - begin)

    assert min(took) < READY, took


# --- commands ---------------------------------------------------------------------------------

FAULTY = """\
server:
  listen: 127.0.0.1:0
  max_bdy: 1MiB
upstreams:
  a:
    base_url: http://127.0.0.1:1/v1
    timeouts: {connect: soon}
models:
  m:
    pool:
      - {upstream: b}
    strategy: luckiest
keys:
  - id: x
    key: ${UNSET_VARIABLE}
"""


@pytest.mark.parametrize("verb", ["check", "serve"])
@scenario
async def test_every_fault_of_a_configuration_is_told_at_once_with_its_place(
    tmp_path: Path, verb: str
) -> None:
    (tmp_path / "config.yaml").write_text(FAULTY, "utf-8")

    code, out, err = await command(verb, "-c", "config.yaml", cwd=tmp_path)

    said = out + err
    assert code == 1
    assert "Traceback" not in said
    for place in ("config.yaml:3:3", "config.yaml:7:", "config.yaml:11:", "config.yaml:12:"):
        assert place in said, said
    assert "config.yaml:15:" in said
    assert "max_body" in said, "the nearest known name"


@scenario
async def test_check_is_silent_about_nothing_and_exits_0_for_the_shipped_file(
    tmp_path: Path,
) -> None:
    code, _, err = await command("check", "-c", str(SHIPPED), cwd=tmp_path)

    assert code == 0, err


@scenario
async def test_wrong_usage_is_2_and_a_missing_file_is_1(tmp_path: Path) -> None:
    wrong = await command("serve", "--no-such-option", cwd=tmp_path)
    missing = await command("serve", "-c", "nowhere.yaml", cwd=tmp_path)
    helped = await command("--help", cwd=tmp_path)

    assert wrong[0] == 2
    assert missing[0] == 1
    assert "nowhere.yaml" in missing[2]
    assert "Traceback" not in missing[2]
    assert helped[0] == 0
    assert "serve" in helped[1]


@scenario
async def test_a_port_that_is_taken_is_one_line_and_1(tmp_path: Path) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        fields = config({"a": {"base_url": "http://127.0.0.1:1/v1"}})
        fields["server"]["listen"] = f"127.0.0.1:{port}"
        (tmp_path / "config.yaml").write_text(json.dumps(fields), "utf-8")

        code, _, err = await command("serve", "-c", "config.yaml", cwd=tmp_path)

    assert code == 1
    assert str(port) in err
    assert "Traceback" not in err


@scenario
async def test_a_new_key_is_shown_once_and_its_hash_works(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        text = "\n".join(
            (
                "# keep this comment",
                "server: {listen: '127.0.0.1:0', workers: 1}",
                "admin: {listen: '127.0.0.1:0'}",
                "upstreams:",
                f"  a: {{base_url: '{upstream.base_url}', api_keys: [sk-up]}}",
                "models:",
                "  m: {pool: [{upstream: a}]}",
                "keys:",
                "  - id: first",
                "    key: sk-first-key-of-this-file",
                "",
            )
        )
        path = tmp_path / "config.yaml"
        path.write_text(text, "utf-8")
        new = ("keys", "new", "-c", "config.yaml", "--id", "second", "--models", "m*", "--write")

        code, out, err = await command(*new, cwd=tmp_path)

        assert code == 0, err
        key = out.strip().splitlines()[-1]
        assert re.fullmatch(r"sk-[0-9A-Za-z]{43}", key)
        written = path.read_text("utf-8")
        assert "# keep this comment" in written
        assert key not in written
        assert "sha256:" in written
        async with RelayProcess(path, tmp_path) as relay:
            assert (await relay.chat(key=key)).text == say.TEXT
            assert (await relay.chat(key="sk-first-key-of-this-file")).text == say.TEXT
