"""`relay top`: a real relay, looked at once and in a real terminal."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from pathlib import Path

import pytest

from relay.cli import main
from relay.commands import screen, table
from tests.crew import several, started
from tests.rig import RelayProcess, Stall, Upstream, config, scenario, within
from tests.rig import scripts as say
from tests.rig.ports import free_port
from tests.rig.scripts import Send
from tests.rig.terminal import Terminal

OFTEN = ("--interval", "0.1")


def url(relay: RelayProcess) -> str:
    host, port = relay.admin
    return f"http://{host}:{port}"


# --- one picture ----------------------------------------------------------------------------------


@scenario
async def test_once_says_what_is_the_matter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [{"id": "shop", "key": "sk-tester-0123456789abcdef", "limits": {"rpm": 10}}]
    async with (
        Upstream(say.error(500)) as upstream,
        RelayProcess(config({"only": upstream}, keys=keys), tmp_path) as relay,
    ):
        for _ in range(9):
            await relay.chat(key="sk-tester-0123456789abcdef", model="m", stream=True)
        await relay.call()

        code = await asyncio.to_thread(main, ["top", "--url", url(relay), "--once"])

        out = capsys.readouterr().out
        assert code == 0
        assert out.startswith("relay ")
        assert "BAD   users notice: " in out
        assert re.search(r"^only +ejected ", out, re.MULTILINE)
        assert re.search(r"^shop +rpm +\[#{18}\.\.\] +90%$", out, re.MULTILINE)
        assert "no upstream answered" in out
        assert "\x1b" not in out


@scenario
async def test_the_address_and_the_token_are_those_of_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, token = free_port(), "an-admin-token-0123456789"
    fields = config({}, {}, admin={"listen": f"127.0.0.1:{port}", "token": token})
    monkeypatch.setenv("LOOK", token)
    monkeypatch.setenv("WRONG", "another-token-0123456789")
    async with RelayProcess(fields, tmp_path) as relay:
        words = {
            "config": ["-c", str(relay.path)],
            "option": ["--url", url(relay), "--token-env", "LOOK"],
            "wrong": ["--url", url(relay), "--token-env", "WRONG"],
        }

        codes = {
            name: await asyncio.to_thread(main, ["top", "--once", *given])
            for name, given in words.items()
        }

        assert codes == {"config": 0, "option": 0, "wrong": 1}
        printed = capsys.readouterr()
        assert "it asks for the admin token" in printed.err
        assert token not in printed.out + printed.err


@scenario
async def test_json_is_the_status_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with RelayProcess(config({}, {}), tmp_path) as relay:
        await asyncio.to_thread(main, ["top", "--url", url(relay), "--once", "--json"])

        assert json.loads(capsys.readouterr().out)["config_path"] == str(relay.path)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (None, "Connect call failed"),
        (say.plain(200, {"no": "relay"}), "not as a relay of this version does"),
        (say.plain(200, b"<html>"), "it answers 200, and not as a relay does"),
        (say.error(502), "it answers 502"),
        ([Stall()], "no answer within 3 s"),
    ],
)
@scenario
async def test_a_relay_that_is_none_is_told_in_a_line(
    script: list[Send] | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Upstream(script or []) as other:
        place = other.base_url if script else f"http://127.0.0.1:{free_port()}"

        code = await asyncio.to_thread(main, ["top", "--url", place, "--once"])

        assert code == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"relay: {place}: ")
        assert said in line


def test_without_a_terminal_it_says_what_to_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--url", "http://127.0.0.1:1"]) == 1
    assert "use --once or --json" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--interval", "0"], ["--interval", "10ms"]])
def test_wrong_usage_is_told(words: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["top", *words])

    assert end.value.code == 2


# --- in a terminal --------------------------------------------------------------------------------


@scenario
async def test_it_shows_what_happens_and_q_gives_the_terminal_back(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"first": upstream}), tmp_path) as relay,
        Terminal("top", "--url", url(relay), *OFTEN) as terminal,
    ):
        seen = await terminal.shows("no calls in the last 5 minutes")
        assert re.search(r"first +works", terminal.text())
        assert terminal.modes_now != terminal.modes
        await relay.chat(model="m", stream=True)
        await terminal.shows("users notice nothing: 1 calls", seen)

        terminal.type("q")

        assert await terminal.exit() == 0
        assert terminal.modes_now == terminal.modes
        assert terminal.raw.startswith(screen.ENTER)
        assert terminal.raw.endswith(screen.LEAVE)


@scenario
async def test_of_several_workers_it_shows_the_whole_and_outlives_the_hub(tmp_path: Path) -> None:
    key = "sk-shop-0123456789abcdef"
    keys: list[dict[str, object]] = [
        {"id": "shop", "key": key, "limits": {"rpm": 10}},
        {"id": "gone", "key": "sk-gone-0123456789abcdef", "expires": "2020-01-01"},
    ]
    async with Upstream() as upstream:
        fields = several(2, config({"only": upstream}, keys=keys))
        fields["state"] = {"path": str(tmp_path / "state")}
        async with (
            RelayProcess(fields, tmp_path) as relay,
            Terminal("top", "--url", url(relay), *OFTEN) as terminal,
        ):
            for _ in range(9):
                await relay.chat(key=key, model="m", stream=True)
            hub = (await relay.log(started("hub")))["pid"]
            whole = await terminal.paints(
                lambda seen: (
                    "users notice nothing: 9 calls" in seen
                    and re.search(r"shop +rpm +\[#+\.*\] +90%", seen) is not None
                )
            )
            relay.write(fields | {"keys": keys[:1]})
            relay.reload()
            changed = await terminal.paints(lambda seen: "reloaded at " in seen)
            relay.path.write_text("models: 5", "utf-8")
            relay.reload()
            failed = await terminal.paints(lambda seen: "the last reload failed" in seen)
            os.kill(hub, signal.SIGKILL)
            await relay.log(started("hub", hub))
            again = await terminal.paints(lambda seen: "up 0 s" in seen or "up 1 s" in seen)

            assert re.search(r"only +works", whole)
            assert re.search(r"reloaded at [\d:]+ UTC: keys -gone", changed)
            assert "reload failed: config.yaml:1:9: models: must be" in failed
            assert re.search(r"only +works", again)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@scenario
async def test_signals_end_it_and_give_the_terminal_back(
    number: signal.Signals, tmp_path: Path
) -> None:
    async with (
        RelayProcess(config({}, {}), tmp_path) as relay,
        Terminal("top", "--url", url(relay), *OFTEN) as terminal,
    ):
        await terminal.shows("relay 0")

        terminal.signal(number)

        assert await terminal.exit() == 128 + number
        assert terminal.modes_now == terminal.modes
        assert terminal.raw.endswith(screen.LEAVE)


@scenario
async def test_a_suspended_one_gives_the_terminal_back_and_takes_it_again(tmp_path: Path) -> None:
    async with (
        RelayProcess(config({}, {}), tmp_path) as relay,
        Terminal("top", "--url", url(relay), *OFTEN) as terminal,
    ):
        await terminal.shows("relay 0")

        terminal.signal(signal.SIGTSTP)
        async with within():
            while not terminal.raw.endswith(screen.LEAVE):
                await terminal.changed()
        await terminal.stopped()
        stopped = len(terminal.raw)
        assert terminal.modes_now == terminal.modes
        terminal.signal(signal.SIGCONT)

        await terminal.shows("relay 0", stopped)
        assert terminal.raw[stopped:].startswith(screen.ENTER)
        terminal.type("q")
        assert await terminal.exit() == 0


@scenario
async def test_a_window_that_is_dragged_is_painted_anew_within_its_size(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a-rather-long-name": upstream}), tmp_path) as relay,
        Terminal("top", "--url", url(relay), "--interval", "600") as terminal,
    ):
        wide = await terminal.paints(lambda picture: "a-rather-long-name" in picture)
        assert len(wide.split("\r\n")) > 6

        terminal.resize(6, 40)

        picture = await terminal.paints(lambda picture: "…" in picture and picture != wide)
        lines = picture.split("\r\n")
        assert len(lines) == 6
        assert max(table.width(line) for line in lines) == 40


@scenario
async def test_a_relay_that_goes_away_is_told_and_one_that_comes_back_is_seen(
    tmp_path: Path,
) -> None:
    port = free_port()
    fields = config({}, {}, admin={"listen": f"127.0.0.1:{port}"})
    async with Terminal("top", "--url", f"http://127.0.0.1:{port}", *OFTEN) as terminal:
        await terminal.paints(lambda picture: "trying again" in picture)
        for _ in range(2):
            async with RelayProcess(fields, tmp_path):
                await terminal.paints(lambda picture: picture.startswith("relay 0"))
            gone = await terminal.paints(lambda picture: "trying again" in picture)
            assert "; below is what it was before" in gone
            assert "all upstreams work" in gone
        terminal.type("q")
        assert await terminal.exit() == 0


@scenario
async def test_no_color_means_none_and_a_dumb_terminal_gets_no_commands(tmp_path: Path) -> None:
    async with RelayProcess(config({}, {}), tmp_path) as relay:
        words = ("top", "--url", url(relay), *OFTEN)
        async with Terminal(*words) as coloured:
            await coloured.shows("all upstreams work")
            assert "\x1b[32m" in coloured.raw
        async with Terminal(*words, env={"NO_COLOR": "1"}) as plain:
            await plain.shows("all upstreams work")
            assert not re.search(r"\x1b\[[0-9;]*m", plain.raw)
        async with Terminal(*words, env={"TERM": "dumb"}) as dumb:
            seen = await dumb.shows("all upstreams work")
            await dumb.shows("all upstreams work", seen)
            assert "\x1b" not in dumb.raw
