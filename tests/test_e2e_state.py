"""What outlives a relay, seen from outside: restarts, kills, folders and disks that will not do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from relay.state import database
from relay.state.database import FILE, VERSION
from tests import killed
from tests.crew import about, shown
from tests.rig import KEY, RelayProcess, Upstream, config, get, scenario
from tests.rig.relay_process import PACKAGE, Fields, Line
from tests.state_rig import headless, rows, until

LIMITS: Fields = {"requests_per_day": 5}
AWAY = "quota_store_unavailable"


def fields(upstream: Upstream, workers: int = 1, **more: Any) -> Fields:
    free = {"id": "free", "key": f"{KEY}-free", "limits": {"rpm": 10**6}}
    keys = [{"id": "tester", "key": KEY, "limits": LIMITS}, free]
    return config({"a": upstream}, None, keys, **more) | {
        "server": {"listen": "127.0.0.1:0", "workers": workers}
    }


async def statuses(relay: RelayProcess, calls: int) -> list[int]:
    return [(await relay.chat()).status for _ in range(calls)]


async def readyz(relay: RelayProcess) -> Any:
    return (await get(relay.admin, "/readyz", key=None)).json()


@pytest.mark.parametrize("workers", [1, 2])
@scenario
async def test_a_budget_is_not_fresh_after_a_restart(tmp_path: Path, workers: int) -> None:
    async with Upstream() as upstream:
        async with RelayProcess(fields(upstream, workers), tmp_path) as relay:
            first = await statuses(relay, 3)
        written = rows(tmp_path / "state")["tester"][4:]
        async with RelayProcess(fields(upstream, workers), tmp_path) as relay:
            second = await statuses(relay, 3)
            numbers = await relay.metrics()

    assert (first, second) == ([200] * 3, [200, 200, 429])
    assert written == (3, 0)
    assert numbers['relay_store_up{store="sqlite"}'] == 1
    assert numbers['relay_store_errors_total{store="sqlite"}'] == 0


def test_kills_at_any_moment_cost_less_than_a_second_and_reset_no_budget(tmp_path: Path) -> None:
    """The long form is `python -m tests.killed`."""
    report = asyncio.run(killed.play(5, 7, [1, 2], tmp_path, lambda _: None))

    assert report.wrong == []
    assert report.calls > 100
    assert report.oldest < killed.ALLOWED


# --- the folder -----------------------------------------------------------------------------------


def serve(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        RelayProcess.command(path),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": PACKAGE},
        capture_output=True,
        text=True,
        timeout=30,
    )


@scenario
async def test_a_second_relay_on_the_same_folder_refuses_to_start(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(fields(upstream, 2), tmp_path) as relay,
    ):
        second = await asyncio.to_thread(serve, relay.path)

        assert second.returncode == 1
        assert second.stderr == (
            f"relay: another relay (process {relay.pid}) uses the state folder "
            f"{tmp_path / 'state'}\n"
        )
        assert await statuses(relay, 1) == [200]


@scenario
async def test_a_file_of_a_newer_relay_is_refused_in_one_line(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        async with RelayProcess(fields(upstream), tmp_path) as relay:
            path = relay.path
        with contextlib.closing(sqlite3.connect(tmp_path / "state" / FILE)) as connection:
            connection.execute(f"PRAGMA user_version = {VERSION + 1}")
        refused = await asyncio.to_thread(serve, path)

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"relay: {tmp_path / 'state' / FILE} is of a newer relay")
    assert refused.stderr.count("\n") == 1


@scenario
async def test_a_database_that_is_gone_is_told_at_start(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        async with RelayProcess(fields(upstream), tmp_path) as relay:
            assert not [one for one in relay.ready["notices"] if "is gone" in one]
        (tmp_path / "state" / FILE).unlink()
        async with RelayProcess(fields(upstream), tmp_path) as relay:
            assert [one for one in relay.ready["notices"] if "is gone" in one]


@scenario
async def test_a_folder_that_cannot_be_made_costs_budgets_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    state = {"path": str(tmp_path / "file" / "state")}
    async with (
        Upstream() as upstream,
        RelayProcess(fields(upstream, 2, state=state), tmp_path) as relay,
    ):
        await relay.log(about("budgets_away"))
        refused = await relay.chat()
        other = await relay.chat(key=f"{KEY}-free")
        told = await readyz(relay)
        await shown(relay, 'relay_store_up{store="sqlite"}', 0)
        await shown(relay, 'relay_refused_total{reason="store"}', 1)

        assert (refused.status, refused.error["code"]) == (503, AWAY)
        assert refused.headers["x-should-retry"] == "true"
        assert other.status == 200
        assert told == {
            "status": "ready",
            "degraded": ["budgets: not written to disk: Not a directory"],
        }
        relay.write(fields(upstream, 2, state=state, on_store_failure={"budgets": "open"}))
        relay.reload()
        await relay.log(about("budgets_back"))
        assert await statuses(relay, 1) == [200]


# --- the file -------------------------------------------------------------------------------------


@scenario
async def test_a_damaged_file_refuses_budgets_until_the_admin_accepts_the_loss(
    tmp_path: Path,
) -> None:
    async with Upstream() as upstream:
        async with RelayProcess(fields(upstream), tmp_path) as relay:
            await statuses(relay, 5)
        headless(tmp_path / "state" / FILE)
        async with RelayProcess(fields(upstream, 2), tmp_path) as relay:
            refused = await relay.chat()
            told = await readyz(relay)
            words = (tmp_path / "state" / "budgets.lost").read_text("utf-8")
            (tmp_path / "state" / "budgets.lost").unlink()
            await relay.log(about("budgets_back"))
            accepted = await relay.chat()

    assert (refused.status, refused.error["code"]) == (503, AWAY)
    assert "budgets: some were lost, see budgets.lost in the state folder" in told["degraded"]
    assert "Delete this file to go on" in words
    assert accepted.status == 200


# --- the disk -------------------------------------------------------------------------------------


class OnADisk(RelayProcess):
    """In a mount namespace of its own, where `mount` has been run in the folder of its state. Needs root."""

    MOUNT = ""

    @classmethod
    def command(cls, path: Path) -> tuple[str, ...]:
        script = f'cd {path.parent / "state"} && {cls.MOUNT} && exec "$@"'
        relay = (sys.executable, "-m", "relay", "serve", "-c", str(path))
        return ("unshare", "-m", "sh", "-c", script, "relay", *relay)

    def inside(self, command: str) -> subprocess.Popen[bytes]:
        """Runs a shell there, in the folder of the state."""
        where = self.path.parent / "state"
        enter = ("nsenter", "-m", "-t", str(self.pid), "sh", "-c", f"cd {where} && {command}")
        return subprocess.Popen(enter, stderr=subprocess.DEVNULL)


class OnASmallDisk(OnADisk):
    MOUNT = "mount -t tmpfs -o size=1m,mode=700 tmpfs ."


class OnAReadOnlyDisk(OnADisk):
    MOUNT = "mount --bind . . && mount -o remount,bind,ro ."


def can_mount() -> bool:
    with contextlib.suppress(OSError):
        command = ("unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt")
        return subprocess.run(command, capture_output=True).returncode == 0
    return False


disks = pytest.mark.skipif(
    not can_mount() and not os.environ.get("CI"), reason="may not mount: run it as root"
)


async def limp(relay: RelayProcess, reason: str) -> None:
    """Returns when the store is away for this reason."""
    line: Line = await relay.log(about("store_down", of="budgets"))
    assert reason in line["reason"]


@disks
@scenario
async def test_a_full_disk_is_outlived(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    async with Upstream() as upstream, OnASmallDisk(fields(upstream), tmp_path) as relay:
        await statuses(relay, 2)
        # Again and again: SQLite makes room once more when it is closed.
        fill = "while [ -d . ] && ! [ -e stop ]; do cat /dev/zero >> full; sleep 0.05; done"
        with relay.inside(f"{fill}; rm full stop") as filling:
            served = await statuses(relay, 1)
            await limp(relay, "disk is full")
            free = await relay.chat(key=f"{KEY}-free")
            await relay.log(about("budgets_away"))
            refused = await statuses(relay, 1)
            with relay.inside("touch stop") as stopping:
                pass
        await relay.log(about("budgets_back"))
        rest = await statuses(relay, 3)

        assert (filling.returncode, stopping.returncode) == (0, 0)
        assert (served, refused, rest) == ([200], [503], [200, 200, 429])
        assert free.status == 200
        assert (await readyz(relay))["degraded"] == []


@disks
@scenario
async def test_a_read_only_disk_is_outlived_and_what_it_says_is_known(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        async with RelayProcess(fields(upstream), tmp_path) as relay:
            await statuses(relay, 2)
        async with OnAReadOnlyDisk(fields(upstream), tmp_path) as relay:
            served = await statuses(relay, 1)
            await relay.log(about("budgets_away"))
            refused = await statuses(relay, 1)
            with relay.inside("mount -o remount,bind,rw .") as healing:
                pass
            await relay.log(about("budgets_back"))
            rest = await statuses(relay, 3)

    assert healing.returncode == 0
    assert (served, refused, rest) == ([200], [503], [200, 200, 429])
    assert rows(tmp_path / "state")["tester"][4:] == (5, 0)


@scenario
async def test_a_program_that_locks_the_file_costs_nothing_but_a_word(tmp_path: Path) -> None:
    async with Upstream() as upstream, RelayProcess(fields(upstream), tmp_path) as relay:
        await statuses(relay, 1)
        path = tmp_path / "state" / FILE
        await until(lambda: "tester" in rows(path.parent))
        with contextlib.closing(database.connect(path)) as other:
            other.execute("BEGIN EXCLUSIVE")
            served = await statuses(relay, 1)
            await limp(relay, "locked")
            other.execute("ROLLBACK")
        await relay.log(about("store_up", of="budgets"))
        await until(lambda: rows(path.parent)["tester"][4:] == (2, 0))

    assert served == [200]
