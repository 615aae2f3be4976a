"""The wall clock jumps, a month ends, a summer begins: no grant above the rate, no budget twice, nothing negative."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.crew import several
from tests.rig import Answer, RelayProcess, Upstream, config, scenario
from tests.rig.clock import WallClock
from tests.rig.raw_client import KEY
from tests.rig.relay_process import Fields


def limited(workers: int, upstream: Upstream, **limits: int) -> Fields:
    key = {"id": "tester", "key": KEY, "limits": limits}
    return several(workers, config({"a": upstream}, None, [key]))


async def calls(relay: RelayProcess, count: int) -> list[Answer]:
    return [await relay.chat(stream=False) for _ in range(count)]


def admitted(answers: list[Answer]) -> int:
    assert {answer.status for answer in answers} <= {200, 429}
    return sum(answer.status == 200 for answer in answers)


@scenario
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_jump_of_an_hour_gives_no_rate_anything(workers: int, tmp_path: Path) -> None:
    clock = WallClock(tmp_path)
    async with (
        Upstream() as upstream,
        RelayProcess(limited(workers, upstream, rpm=30), tmp_path, clock.env) as relay,
    ):
        loop = asyncio.get_running_loop()
        began = loop.time()
        first = await calls(relay, 30)
        more = []
        for shift in (3600.0, -3600.0, 7200.0, 0.0):
            clock.shift(shift)
            more += await calls(relay, 20)
        earned = (loop.time() - began) * 30 / 60

        assert admitted(first) == 30
        assert admitted(more) <= earned + 1
        for answer in more:
            assert 0 <= int(answer.headers["x-ratelimit-remaining-requests"]) <= 30
        for answer in (each for each in more if each.status == 429):
            assert 0 < int(answer.headers["retry-after-ms"]) <= 2000


@scenario
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_month_that_ends_gives_its_budget_once(workers: int, tmp_path: Path) -> None:
    clock = WallClock(tmp_path)
    clock.set("2026-12-31 23:58:00")
    limits = {"requests_per_day": 5, "tokens_per_month": 100_000}
    async with (
        Upstream() as upstream,
        RelayProcess(limited(workers, upstream, **limits), tmp_path, clock.env) as relay,
    ):
        told = []
        for moment in (
            "2026-12-31 23:58:10",
            "2027-01-01 00:00:01",
            "2026-12-31 23:59:00",
            "2027-01-01 00:30:00",
            "2027-01-01 23:59:00",
            "2027-01-02 00:00:01",
        ):
            clock.set(moment)
            told.append(admitted(await calls(relay, 7)))

        assert told == [5, 5, 0, 0, 0, 5]
        ratios = {k: v for k, v in (await relay.metrics()).items() if "limit_ratio" in k}
        assert all(0 <= ratio <= 1 for ratio in ratios.values()), ratios


@scenario
async def test_a_summer_that_begins_moves_no_midnight(tmp_path: Path) -> None:
    clock = WallClock(tmp_path)
    clock.set("2027-03-28 00:58:00")
    env = clock.env | {"TZ": "Europe/Berlin"}
    async with (
        Upstream() as upstream,
        RelayProcess(limited(1, upstream, requests_per_day=5), tmp_path, env) as relay,
    ):
        told = []
        for moment in (
            "2027-03-28 00:59:30",
            "2027-03-28 01:00:10",
            "2027-03-28 22:30:00",
            "2027-03-29 00:00:01",
        ):
            clock.set(moment)
            told.append(admitted(await calls(relay, 7)))

        assert told == [5, 0, 0, 5]
