"""A gate whose budgets are kept in a folder, and what may happen to a database: nothing here asserts a behaviour."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import monotonic, time

from relay.admission.budgets import Budgets, Row
from relay.admission.gate import Gate, Lease
from relay.admission.period import end_of_month
from relay.errors import RelayError
from relay.state import budgets, database
from relay.state.database import FILE
from relay.state.keeper import Keeper, Policy
from tests.quota_rig import Limits, ask, configure
from tests.rig.deadlines import within

BUDGET = 1000
KEYS = {
    "day": Limits(tokens_per_day=BUDGET),
    "month": Limits(tokens_per_month=BUDGET),
    "rate": Limits(rpm=1000),
    "shadow": Limits(tokens_per_day=BUDGET, shadow=True),
    **{f"k{number}": Limits(tokens_per_month=BUDGET) for number in range(1200)},
}


class Kept:
    """One life of an authority."""

    def __init__(self, folder: Path, policy: Policy = "closed") -> None:
        self.principals, groups = configure(KEYS)
        self.gate = Gate(self.principals, groups, Budgets(kept=True))
        self.keeper = Keeper(asyncio.get_running_loop(), folder, self.gate, policy)

    def call(self, key: str = "day", worst: int = 100) -> Lease | RelayError:
        return ask(self.gate, self.principals.by_id[key], monotonic(), worst=worst, wall=time())

    def used(self, key: str = "day") -> int:
        machine = self.gate.purse(self.principals.by_id[key]).machines[0][2]
        return machine.used(0, time())


@contextlib.asynccontextmanager
async def kept(folder: Path, policy: Policy = "closed") -> AsyncIterator[Kept]:
    """Ends cleanly."""
    life = Kept(folder, policy)
    life.keeper.start()
    try:
        yield life
    finally:
        life.keeper.close()


async def turn() -> None:
    """Some turns of the loop: the disk tells nobody when it is done."""
    loop = asyncio.get_running_loop()
    later = loop.create_future()
    loop.call_later(0.005, later.set_result, None)
    await later


async def until(fits: Callable[[], bool]) -> None:
    async with within():
        while not fits():
            await turn()


def rows(folder: Path) -> dict[str, Row]:
    return {row[1]: row for row in budgets.read(folder)}


def fill(folder: Path, spent: int, count: int = 1200) -> None:
    """Rows of so many keys in a clean database."""
    database.make_folder(folder)
    database.create(folder / FILE)
    ends = end_of_month(time())
    with contextlib.closing(database.connect(folder / FILE)) as connection:
        found: list[Row] = [
            ("key", f"k{number}", "tokens_per_month", ends, spent, 0) for number in range(count)
        ]
        budgets.write(connection, found)


# -- what may happen to the file --


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def headless(path: Path) -> None:
    scribbled(path, 0, b"\xa5" * 100)


def a_garbage_page(path: Path) -> None:
    scribbled(path, path.stat().st_size // 2 // 4096 * 4096, os.urandom(4096))


def a_page_of_zeros(path: Path) -> None:
    scribbled(path, path.stat().st_size // 2 // 4096 * 4096, bytes(4096))


def a_garbage_root(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        root = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'budgets'"
        ).fetchone()[0]
    scribbled(path, (root - 1) * 4096, os.urandom(4096))


def a_strangers(path: Path) -> None:
    os.unlink(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE songs (title)")


def no_numbers(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE budgets SET spent = 'much' WHERE owner = 'k5'")


def text(path: Path) -> None:
    path.write_text("not a database at all\n" * 500)


DAMAGES: tuple[Callable[[Path], None], ...] = (
    *(truncated, emptied, headless, a_garbage_page, a_page_of_zeros, a_garbage_root),
    *(a_strangers, no_numbers, text),
)


def asides(folder: Path) -> list[Path]:
    """What was set aside."""
    return list(folder.glob("relay.db.corrupt-*"))


def scribbled(path: Path, place: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)
