"""Budgets go on where they were, and what happens to the disk is never a call's to wait for, nor a fresh budget."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, time

import pytest

from relay.admission.gate import Lease
from relay.admission.period import DAY, end_of_month
from relay.errors import RelayError
from relay.state import database, keeper, salvage
from relay.state.database import ASIDES, FILE
from relay.state.salvage import LOST
from tests.quota_rig import admitted, refused
from tests.rig import scenario
from tests.state_rig import (
    BUDGET,
    DAMAGES,
    Kept,
    a_garbage_page,
    a_garbage_root,
    asides,
    fill,
    kept,
    rows,
    scribbled,
    turn,
    until,
)

NO_ROW = ("", "", "", 0, 0, 0)
AWAY = "quota_store_unavailable"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "PATIENCE", 0.2)


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "LOOK", 0.02)


def code(answer: Lease | RelayError) -> str | None:
    return None if isinstance(answer, Lease) else answer.code


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "relay.state"]


# --- as it should be ------------------------------------------------------------------------------


@scenario
async def test_a_budget_goes_on_after_a_clean_end_with_what_was_spent(tmp_path: Path) -> None:
    async with kept(tmp_path / "state") as life:
        admitted(life.call(worst=300)).settle(monotonic(), 250, 0)
    async with kept(tmp_path / "state") as life:
        assert life.used() == 250
        assert refused(life.call(worst=BUDGET - 249)).code == "insufficient_quota"
        admitted(life.call(worst=BUDGET - 250)).cancel(monotonic())

    assert rows(tmp_path / "state")["day"][4:] == (250, 0)
    assert {one.name for one in (tmp_path / "state").iterdir()} <= {FILE, *sidecars()}


def sidecars() -> set[str]:
    return {f"{FILE}{ending}" for ending in ASIDES}


@scenario
async def test_a_change_is_on_the_disk_within_a_second(tmp_path: Path) -> None:
    async with kept(tmp_path) as life:
        for amount in (1, 2, 3):
            before = monotonic()
            admitted(life.call(worst=amount)).settle(monotonic(), amount, 0)
            await until(lambda: rows(tmp_path).get("day", NO_ROW)[4] == life.used())

            assert monotonic() - before < 1


@scenario
async def test_what_running_calls_held_at_a_crash_is_charged_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "relay.state")
    async with kept(tmp_path) as life:
        admitted(life.call(worst=300)).settle(monotonic(), 100, 0)
        admitted(life.call(worst=200))
        admitted(life.call("month", worst=50))
        await until(lambda: rows(tmp_path).get("month", NO_ROW)[5] == 50)
        await until(lambda: rows(tmp_path)["day"][4:] == (100, 200))
        shutil.copytree(tmp_path, tmp_path / "crashed")
    caplog.clear()

    for _ in range(2):
        async with kept(tmp_path / "crashed") as life:
            assert (life.used(), life.used("month")) == (300, 50)

    assert logged(caplog) == ["budgets_charged"]
    assert caplog.records[0].__dict__["fields"] == {"budgets": 2}
    assert rows(tmp_path / "crashed")["day"][4:] == (300, 0)


@scenario
async def test_very_many_changes_at_once_are_written_in_small_steps(tmp_path: Path) -> None:
    async with kept(tmp_path) as life:
        for number in range(1200):
            admitted(life.call(f"k{number}", worst=7)).settle(monotonic(), 7, 0)
        await until(lambda: len(rows(tmp_path)) == 1200)

        assert {row[4:] for row in rows(tmp_path).values()} == {(7, 0)}


@scenario
async def test_rows_of_long_ago_are_deleted_and_one_of_the_future_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, 5, count=3)
    with contextlib.closing(database.connect(tmp_path / FILE)) as connection:
        for owner, ends in (("k0", time() - 50 * DAY), ("k1", end_of_month(time()) + 40 * DAY)):
            connection.execute("UPDATE budgets SET ends = ? WHERE owner = ?", (int(ends), owner))

    async with kept(tmp_path) as life:
        await until(lambda: set(rows(tmp_path)) == {"k1", "k2"})

        assert [life.used(key) for key in ("k0", "k1", "k2")] == [0, 5, 5]
    assert "budgets_ahead" in logged(caplog)


# --- a store that is away -------------------------------------------------------------------------


@scenario
async def test_a_folder_that_cannot_be_made_keeps_nobody_from_serving_but_budgets(
    tmp_path: Path, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    async with kept(tmp_path / "file" / "state") as life:
        admitted(life.call())
        await until(lambda: code(life.call()) == AWAY)

        admitted(life.call("rate"))
        admitted(life.call("shadow"))
        assert life.keeper.store_up() == [("sqlite", False)]
        assert life.keeper.store_errors()[0][1] > 0
        assert life.keeper.degraded() == ["budgets: not written to disk: Not a directory"]
        (tmp_path / "file").unlink()
        await until(lambda: code(life.call(worst=0)) is None)
        await until(lambda: "day" in rows(tmp_path / "file" / "state"))
        await until(lambda: not life.keeper.degraded())
        await until(lambda: not (tmp_path / "file" / "state" / LOST).exists())

    said = {"budgets_away", "state_replaced", "state_unusable", "store_down"}
    # Of a return too short after the loss nothing is said; a slow machine takes longer.
    assert said <= {*logged(caplog)} <= said | {"budgets_back", "store_up"}


@scenario
async def test_open_serves_budgets_from_memory_and_a_reload_may_change_it(
    tmp_path: Path, impatient: None
) -> None:
    (tmp_path / "file").write_text("in the way")
    async with kept(tmp_path / "file" / "state", "open") as life:
        await until(lambda: life.keeper.store_up() == [("sqlite", False)])
        admitted(life.call(worst=BUDGET))
        assert code(life.call(worst=1)) == "insufficient_quota"

        life.keeper.policy = "closed"
        await until(lambda: code(life.call()) == AWAY)
        life.keeper.policy = "open"
        await until(lambda: code(life.call()) == "insufficient_quota")


@scenario
async def test_another_program_that_locks_the_file_is_outlived(
    tmp_path: Path, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY", 0.05)
    async with kept(tmp_path) as life:
        await until(lambda: life.keeper.store_up() == [("sqlite", True)])
        with contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            admitted(life.call(worst=10)).settle(monotonic(), 10, 0)
            await until(lambda: code(life.call(worst=0)) == AWAY)
            assert life.keeper.degraded() == [
                "budgets: not written to disk: database is locked (SQLITE_BUSY)"
            ]
            other.execute("ROLLBACK")
        await until(lambda: code(life.call(worst=0)) is None)
        await until(lambda: rows(tmp_path).get("day", NO_ROW)[4] == 10)


@scenario
async def test_a_file_that_cannot_be_read_at_start_makes_budgets_unknown_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 400)
    monkeypatch.setattr(database, "BUSY", 0.05)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        other.execute("COMMIT")
        life = Kept(tmp_path)
        life.keeper.start()
        assert code(life.call("k7")) == AWAY
        assert life.keeper.degraded()[0] == (
            "budgets: what was spent before the start cannot be read"
        )
        life.keeper.policy = "open"
        await until(lambda: code(life.call("k7", worst=30)) is None)
        assert life.used("k7") == 30
    await until(lambda: life.used("k7") == 430)
    life.keeper.policy = "closed"
    await until(lambda: rows(tmp_path)["k7"][4:] == (400, 30))

    assert code(life.call("k8")) is None
    assert life.used("k8") == 500
    life.keeper.close()


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@scenario
async def test_a_damaged_file_is_set_aside_and_no_budget_starts_anew(
    tmp_path: Path,
    watchful: None,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    fill(tmp_path, 900)
    damage(tmp_path / FILE)
    before = (tmp_path / FILE).read_bytes()

    async with kept(tmp_path) as life:
        saved = sum(life.used(f"k{number}") == 900 for number in range(1200))

        assert "state_damaged" in logged(caplog)
        assert before in [one.read_bytes() for one in asides(tmp_path)]
        assert saved < 1200
        assert (tmp_path / LOST).exists()
        assert code(life.call("k3")) == code(life.call("day")) == AWAY
        admitted(life.call("rate"))
        assert life.keeper.degraded() == [
            "budgets: some were lost, see budgets.lost in the state folder"
        ]
    async with kept(tmp_path) as life:
        assert code(life.call("k3")) == AWAY
        (tmp_path / LOST).unlink()
        await until(lambda: code(life.call("day")) is None)
        assert sum(life.used(f"k{number}") == 900 for number in range(1200)) == saved
    assert logged(caplog).count("state_damaged") == 1


@pytest.mark.parametrize("damage", [a_garbage_page, a_garbage_root])
@scenario
async def test_what_is_left_of_the_table_is_saved(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    fill(tmp_path, 900)
    damage(tmp_path / FILE)

    async with kept(tmp_path):
        saved = len(rows(tmp_path))

        assert str(saved) in (tmp_path / LOST).read_text("utf-8")
        assert saved > 1000 if damage is a_garbage_page else saved == 0


@scenario
async def test_damage_beside_the_budgets_costs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, 900)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.execute("CREATE TABLE other (a)")
        connection.executemany("INSERT INTO other VALUES (?)", [("x" * 500,)] * 100)
        connection.commit()
        root = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'other'"
        ).fetchone()[0]
    scribbled(tmp_path / FILE, (root - 1) * 4096, b"\xa5" * 4096)

    async with kept(tmp_path) as life:
        assert logged(caplog) == ["state_damaged"]
        assert not (tmp_path / LOST).exists()
        assert life.used("k3") == 900
        assert code(life.call("k3", worst=100)) is None
        assert code(life.call("k3", worst=1)) == "insufficient_quota"


def test_a_loss_is_over_with_the_periods_that_ran_then() -> None:
    lost = datetime(2026, 11, 28, 9, 30, tzinfo=UTC).timestamp()
    hour = 3600.0
    day_over = datetime(2026, 11, 29, tzinfo=UTC).timestamp()
    month_over = datetime(2026, 12, 1, tzinfo=UTC).timestamp()

    assert salvage.away(lost, lost) == salvage.away(lost, day_over - 1) == 3
    assert salvage.away(lost, day_over) == salvage.away(lost, month_over - hour) == 2
    assert salvage.away(lost, month_over) == 0
    assert salvage.away(None, lost) == 0


@scenario
async def test_a_loss_of_last_month_holds_nobody_up_and_its_file_goes(
    tmp_path: Path, watchful: None
) -> None:
    fill(tmp_path, 900)
    (tmp_path / LOST).write_text("2020-01-31T23:00:00Z\n\nwords\n")

    async with kept(tmp_path) as life:
        admitted(life.call("day"))
        await until(lambda: not (tmp_path / LOST).exists())


# --- while it runs --------------------------------------------------------------------------------


def gone(path: Path) -> None:
    for ending in ASIDES:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}{ending}")


def gone_but_for_its_log(path: Path) -> None:
    os.unlink(path)


@pytest.mark.parametrize("happens", [gone, gone_but_for_its_log])
@scenario
async def test_a_file_that_is_deleted_under_a_running_relay_is_written_anew(
    tmp_path: Path, happens: Callable[[Path], None]
) -> None:
    fill(tmp_path, 900)
    async with kept(tmp_path) as life:
        admitted(life.call("day", worst=10)).settle(monotonic(), 10, 0)
        await until(lambda: "day" in rows(tmp_path))
        happens(tmp_path / FILE)
        admitted(life.call("day", worst=10)).settle(monotonic(), 10, 0)
        await until(lambda: (tmp_path / FILE).exists() and len(rows(tmp_path)) == 1201)
        await until(lambda: not (tmp_path / LOST).exists())

        admitted(life.call("day", worst=0))
        assert rows(tmp_path)["day"][4] == 20
        assert {row[4] for owner, row in rows(tmp_path).items() if owner != "day"} == {900}


@scenario
async def test_damage_under_a_running_relay_is_repaired_from_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, 900)
    async with kept(tmp_path) as life:
        admitted(life.call("day", worst=10)).settle(monotonic(), 10, 0)
        await until(lambda: "day" in rows(tmp_path))
        with contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            a_garbage_root(tmp_path / FILE)
            # What a connection remembers of pages is worth nothing once somebody else has written.
            other.execute(f"PRAGMA user_version = {database.VERSION}")
        damaged = database.identity(tmp_path / FILE)
        while database.identity(tmp_path / FILE) == damaged:
            admitted(life.call("day", worst=1)).settle(monotonic(), 0, 0)
            await turn()
        await until(lambda: (tmp_path / FILE).exists() and len(rows(tmp_path)) == 1201)
        await until(lambda: not (tmp_path / LOST).exists())

        assert rows(tmp_path)["k3"][4] == 900
        assert asides(tmp_path)
