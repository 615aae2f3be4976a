"""A tiny round of the benchmarks: nginx and the relay of this checkout, between the real tools."""

from __future__ import annotations

import json
import os
import select
from pathlib import Path

import pytest

from bench import ROOT, machine, run
from bench.figures import Results
from bench.peers import NGINX, PEERS, RELAY, envoy, haproxy, litellm, nginx, relay
from bench.peers.base import Absent, Launch, Pip, Place
from bench.programs import Program, ProgramError
from bench.rig import Rig
from bench.tools import Load, Standin, Tools
from relay.config.file import load
from tests.rig.bench import built
from tests.rig.deadlines import WAIT
from tests.rig.nginx import binary

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    return built(tmp_path_factory.mktemp("tools"))


def place(home: Path) -> Place:
    return Place(home, 21000, "127.0.0.1:9", 100)


FIGURES = {
    "plain": "us_per_request",
    "events": "us_per_event",
    "first_token": "added_p99_ms",
    "held": "kb_per_stream",
}


def played(home: Path, pace: float) -> Results:
    options = run.Options(rounds=1, pace=pace, peers=("relay",), stages=("main",), streams=40)
    return run.Run(options, home).play()


def whole(found: Results) -> bool:
    """Whether every case has its figure: on a machine that gave them no CPU, a short load may have none."""
    seen = {
        (sample.peer, sample.case)
        for sample in found.samples
        if FIGURES.get(sample.case) in sample.figures
    }
    return seen == {(peer, case) for peer in ("nginx", "relay") for case in FIGURES}


def test_a_round_measures_nginx_and_the_relay(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary()
    monkeypatch.setattr("bench.tools.build", lambda: tools)

    for pace in (0.1, 0.5, 2.0):
        found = played(tmp_path / str(pace), pace)
        if whole(found):
            break

    assert whole(found), found.samples
    assert found.skipped == []
    assert [sample for sample in found.samples if sample.failed] == []
    own = {sample.case: sample.figures for sample in found.samples if sample.peer == "tools"}
    assert own["self_calls"]["per_s"] > 1000
    assert own["self_events"]["per_s"] == pytest.approx(10_000, rel=0.5)
    assert found.versions["relay"]
    assert list(tmp_path.glob("*/peer-*")) == []  # logs and all


def test_the_relay_is_measured_with_everything_on(tmp_path: Path, tools: Tools) -> None:
    with Standin(tools, 0, tmp_path / "standin") as standin:
        rig = Rig(tools, standin, machine.cpus(), tmp_path)
        with rig.running("relay", relay.launch) as running:
            report = rig.load(running.target, Load(2, 20, calls=10))
            running.program.stop()
            lines = (running.home / relay.LOG).read_text("utf-8").splitlines()
            config = load(running.home / "config.yaml", {})

    assert report.calls == 10
    assert len(lines) >= 10
    assert json.loads(lines[-1])["cost_usd"] > 0
    limits = config.keys[0].limits
    assert limits.rpm and limits.tpm and limits.concurrent
    assert len(config.models["bench-model"].pool) == 2


def test_a_peer_that_is_not_there_is_left_out_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.peers.base.CACHE", tmp_path)

    for peer in (envoy.PEER, litellm.PEER):
        with pytest.raises(Absent, match="make bench-peers"):
            peer.launch(place(tmp_path))


def test_a_program_that_ends_at_once_is_told_with_its_last_words(
    tools: Tools, tmp_path: Path
) -> None:
    def launch(place: Place) -> Launch:
        return Launch(["sh", "-c", "echo no such option >&2; exit 1"])

    with Standin(tools, 0, tmp_path / "standin") as standin:
        rig = Rig(tools, standin, machine.cpus(), tmp_path)
        with pytest.raises(ProgramError, match="no such option"), rig.running("x", launch):
            pass


def test_what_a_program_started_ends_with_it(tmp_path: Path) -> None:
    with Program(["sh", "-c", "sleep 1000 & echo $!; wait"], {0}, tmp_path) as program:
        child = os.pidfd_open(int(program.first_line()))

    ended, _, _ = select.select([child], [], [], WAIT)
    os.close(child)
    assert ended == [child]


@pytest.mark.parametrize("peer", [nginx, haproxy])
def test_a_plain_proxy_runs_on_one_cpu_and_knows_the_stand_in(
    peer: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (nginx, haproxy):
        monkeypatch.setattr(module, "program", lambda name, package: name)

    launch = (NGINX if peer is nginx else haproxy.PEER).launch(place(tmp_path))

    text = Path(
        launch.command[launch.command.index("-c" if peer is nginx else "-f") + 1]
    ).read_text("utf-8")
    assert "127.0.0.1:9" in text and "127.0.0.1:21000" in text
    assert "worker_processes 1;" in text or "nbthread 1" in text


def test_a_compiled_relay_is_measured_only_while_it_is_as_new_as_its_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BENCH_RELAY", raising=False)
    monkeypatch.setattr(relay, "COMPILED", tmp_path / "compiled")
    stamp = tmp_path / "compiled" / ".done"
    stamp.parent.mkdir()
    folders = {}

    for state, newer in (("none", None), ("old", 0.0), ("new", 4e9)):
        if newer is not None:
            stamp.touch()
            os.utime(stamp, (newer, newer))
        folders[state] = relay.launch(place(tmp_path)).env["PYTHONPATH"]

    assert folders == {
        "none": str(ROOT),
        "old": str(ROOT),
        "new": str(tmp_path / "compiled"),
    }
    assert relay.launch_sources(place(tmp_path)).env["PYTHONPATH"] == str(ROOT)


def test_every_package_is_pinned_to_a_version() -> None:
    for peer in PEERS:
        if isinstance(peer.source, Pip):
            assert "==" in peer.source.requirement
    assert PEERS[:2] == (NGINX, RELAY)
