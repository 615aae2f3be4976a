"""100,000 keys: they are there at once, and a reload of all of them disturbs nothing that is under way."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest

from tests.rig import (
    SCALE,
    End,
    Gate,
    RawClient,
    RelayProcess,
    Upstream,
    config,
    scenario,
)
from tests.rig import scripts as say
from tests.rig.raw_client import chat_body, request
from tests.rig.relay_process import Fields, Line

pytestmark = pytest.mark.alone

MANY = 100_000
STALL = 0.05
"""Seconds the loop may be late."""
HELD = say.sse(say.EVENTS[:3], Gate("end"), *say.sse(say.EVENTS[3:])[1:])
CHAT = request("POST", "/v1/chat/completions", chat_body())
LAG = "relay_event_loop_lag_seconds_bucket"


def about_reload(line: Line) -> bool:
    return "reload" in str(line.get("event"))


def key(number: int, round: int) -> str:
    return f"sk-{round}-{number:06d}-0123456789abcdef"


def write(folder: Path, round: int, count: int = MANY, rpm: int = 600) -> None:
    """Puts a key file in place, in one step: other keys with the same ids."""
    new = folder / "keys.new"
    with new.open("w") as file:
        for number in range(count):
            digest = sha256(key(number, round).encode()).hexdigest()
            file.write(
                f'{{"id": "c-{number:06d}", "hash": "sha256:{digest}", "models": ["m"], '
                f'"limits": {{"rpm": {rpm + round}, "usd_per_month": 50}}, "expires": "2031-01-01"}}\n'
            )
    os.replace(new, folder / "keys.jsonl")


def configured(upstream: Upstream, folder: Path) -> Fields:
    files = {"key_files": ["keys.jsonl"], "state": {"path": str(folder / "state")}}
    model = {"pool": [{"upstream": "a"}], "price": {"input": 1, "output": 1}}
    return config({"a": upstream}, {"m": model}) | files


async def late(relay: RelayProcess) -> tuple[float, float, float]:
    """How often the loop was looked at, how often it was later than it may be, how often by far."""
    metrics = await relay.metrics()
    bounds = [edge for edge in (0.05, 0.1, 0.25, 0.5, 1.0, 2.5) if edge >= STALL * SCALE]
    seen = metrics[f'{LAG}{{le="+Inf"}}']
    too_late, far_too_late = (seen - metrics[f'{LAG}{{le="{bound}"}}'] for bound in bounds[:3:2])
    return seen, too_late, far_too_late


@scenario
async def test_a_hundred_thousand_keys_reload_without_a_stall_of_the_loop(tmp_path: Path) -> None:
    write(tmp_path, 0)
    rounds = 5
    async with (
        Upstream() as upstream,
        RelayProcess(configured(upstream, tmp_path), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        upstream.then(HELD)
        # A call under way keeps the wheel turning, which reads how late the loop is.
        await client.send(CHAT)
        await client.head()
        await (await upstream.exchange()).reached("end")
        looks, *before = await late(relay)

        for round in range(1, rounds + 1):
            write(tmp_path, round)
            relay.reload()
            line = await relay.nth_log(round - 1, about_reload)
            fresh = await relay.chat(key=key(MANY - 1, round))
            stale = await relay.chat(key=key(MANY - 1, round - 1))

            assert line["event"] == "reloaded"
            assert len(line["key_files"]) == 21
            assert line["key_files"][-1] == f"~ {MANY - 20} more"
            assert (fresh.status, stale.status) == (200, 401)
        upstream.exchanges[0].open("end")
        answer = await client.rest()
        while (await late(relay))[0] < looks + 50 * rounds:
            pass  # a page of metrics may be half a second old
        stalls, long_stalls = (
            now - then for now, then in zip((await late(relay))[1:], before, strict=True)
        )

        # A stall that reloads make is seen at each of them; a busy machine makes one now and then.
        assert stalls <= rounds // 2
        assert long_stalls == 0
        assert answer.end is End.CLEAN


@scenario
async def test_keys_of_a_file_come_and_go_with_a_reload_and_keep_what_they_used(
    tmp_path: Path,
) -> None:
    write(tmp_path, 1, 3, rpm=1)
    async with (
        Upstream() as upstream,
        RelayProcess(configured(upstream, tmp_path), tmp_path) as relay,
    ):
        first = [(await relay.chat(key=key(0, 1))).status for _ in range(2)]
        write(tmp_path, 1, 2, rpm=1)
        with (tmp_path / "keys.jsonl").open("a") as file:
            file.write('{"id": "new", "key": "sk-new-0123456789abcdef"}\n')
        relay.reload()
        line = await relay.log(about_reload)
        third = (await relay.chat(key=key(0, 1))).status
        gone = (await relay.chat(key=key(2, 1))).status
        new = (await relay.chat(key="sk-new-0123456789abcdef")).status

        assert first == [200, 200]
        assert line["key_files"] == ["-c-000002", "+new"]
        assert (third, gone, new) == (429, 401, 200)


@scenario
async def test_a_key_file_with_a_fault_changes_nothing_and_is_told_with_its_line(
    tmp_path: Path,
) -> None:
    write(tmp_path, 0, 3)
    async with (
        Upstream() as upstream,
        RelayProcess(configured(upstream, tmp_path), tmp_path) as relay,
    ):
        with (tmp_path / "keys.jsonl").open("a") as file:
            file.write('{"id": "c-000001"\n')
        relay.reload()
        line = await relay.log(about_reload)
        still = (await relay.chat(key=key(0, 0))).status

        assert line["event"] == "reload_failed"
        assert "keys.jsonl:4:1: is not JSON" in line["faults"][0]
        assert still == 200
