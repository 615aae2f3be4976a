"""The ledger of a running relay: what it agrees with, what a kill costs, and that a lost disk costs no call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from relay.state import database
from tests.crew import about, pid_of, several, shown, started
from tests.rig import KEY, RawClient, RelayProcess, Upstream, config, output, scenario
from tests.rig import scripts as say
from tests.rig.raw_client import chat_body, request
from tests.rig.relay_process import Fields, Models
from tests.rig.scripts import Reset, Script
from tests.rig.upstream import Request, model_like

PRICE = {"input": 1, "cached_input": 0.1, "output": 2}
FULL = 9 * 1000 + 12 * 2000
"""Nano-dollars of an answer with the usage that the scripted upstream reports."""


def rows(folder: Path) -> list[dict[str, Any]]:
    """The recorded calls, with their names."""
    path = folder / "state" / database.FILE
    with contextlib.closing(database.read_only(path)) as connection:
        connection.row_factory = sqlite3.Row
        names = dict(tuple(row) for row in connection.execute("SELECT id, name FROM names"))
        found = [dict(row) for row in connection.execute("SELECT * FROM calls ORDER BY at")]
    for row in found:
        row |= {
            name: names[row[name]] for name in ("key", "model", "upstream", "outcome", "source")
        }
    return found


def fields_of(workers: int, upstream: Upstream) -> Fields:
    """Two upstreams in one process, of which the first breaks what is asked of it as `breaks`."""
    models: Models = {
        "m": {
            "pool": [{"upstream": "bad"}, {"upstream": "good", "tier": 1}],
            "retry": {"attempts": 3, "budget": "100%"},
            "price": PRICE,
        },
        "dear": {"pool": [{"upstream": "good"}]},
    }
    upstreams: Fields = {
        "bad": {"base_url": upstream.base_url.replace("/v1", "/bad/v1")},
        "good": {"base_url": upstream.base_url},
    }
    keys: list[Fields] = [
        {"id": "tester", "key": KEY},
        {"id": "poor", "key": "sk-poor-0123456789abcdef", "limits": {"usd_per_day": 5}},
    ]
    return several(workers, config(upstreams, models, keys))


def behaves(request: Request) -> Script:
    """As the call's `user` says; what the bad upstream is asked fails before the first token."""
    user = request.json().get("user")
    if request.target.startswith("/bad/"):
        return [Reset()]
    if user == "cut":
        return say.sse(say.EVENTS[:3], Reset())
    if user == "left":
        return say.sse(say.EVENTS[:3], say.Stall())
    return model_like(request)


@pytest.mark.parametrize("workers", [1, 3])
@scenario
async def test_rows_log_metrics_and_the_upstreams_own_count_agree(
    tmp_path: Path, workers: int
) -> None:
    async with (
        Upstream(behaves) as upstream,
        RelayProcess(fields_of(workers, upstream), tmp_path) as relay,
    ):
        whole = [await relay.chat() for _ in range(20)]
        plain = [await relay.chat(stream=False) for _ in range(5)]
        cut = [await relay.chat(user="cut") for _ in range(4)]
        unpriced = await relay.chat(key="sk-poor-0123456789abcdef", model="dear")
        unknown = await relay.chat(model="nothing")
        for _ in range(3):
            async with await RawClient.connect(relay.address) as client:
                body = chat_body(user="left")
                await client.send(request("POST", "/v1/chat/completions", body))
                await client.head()
                await client.event()
                await client.reset()
        await relay.call(lambda _: len(relay.calls) == 34)
        await shown(relay, "relay_ledger_calls_total", 32)
        metrics = await relay.metrics()
        assert await relay.stop() == 0

        assert {answer.status for answer in (*whole, *plain, *cut)} == {200}
        assert (unpriced.status, unpriced.error["code"]) == (403, "model_not_priced")
        assert unknown.status == 404
        found = rows(tmp_path)
        logged = {line["request_id"]: line for line in relay.calls}
        refused = {answer.headers["x-request-id"] for answer in (unpriced, unknown)}
        assert {row["id"] for row in found} == set(logged) - refused
        for row in found:
            line = logged[row["id"]]
            assert (row["outcome"], row["upstream"]) == (line["outcome"], line["upstream"])
            assert (row["input"], row["output"]) == (line["input_tokens"], line["output_tokens"])
            assert row["attempts"] == len(line["attempts"])
            assert row["cost"] == round(line.get("cost_usd", 0) * 10**9)
        outcomes = Counter(row["outcome"] for row in found)
        assert outcomes == {"ok": 25, "stream_truncated": 4, "client_cancelled": 3}
        reported = [row for row in found if row["source"] == "reported"]
        complete = [one for one in upstream.exchanges if is_complete(one.request)]
        assert len(reported) == len(complete) == 25
        assert {row["cost"] for row in reported} == {FULL}
        assert_metrics(metrics, found)


def is_complete(request: Request) -> bool:
    return not request.target.startswith("/bad/") and request.json().get("user") is None


def assert_metrics(metrics: dict[str, float], found: Sequence[dict[str, Any]]) -> None:
    """Those of the page and the rows say the same."""
    assert metrics["relay_ledger_calls_total"] == len(found)
    assert metrics["relay_ledger_dropped_total"] == 0
    money = sum_of(metrics, "relay_cost_usd_total")
    assert money * 10**9 == pytest.approx(sum(row["cost"] for row in found), abs=0.5)
    for direction in ("input", "output"):
        tokens = sum_of(metrics, "relay_tokens_total", f'direction="{direction}"')
        assert tokens == sum(row[direction] for row in found)


def sum_of(metrics: dict[str, float], name: str, label: str = "") -> float:
    return sum(
        value
        for series, value in metrics.items()
        if series.startswith(name + "{") and label in series
    )


# --- a kill ---------------------------------------------------------------------------------------


class Load:
    """Calls, one after the other on several connections, and when the answer of each was whole."""

    def __init__(self, relay: RelayProcess) -> None:
        self._relay = relay
        self.ends: dict[str, float] = {}
        """By request id, time of the loop."""

    async def run(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            answer = await self._relay.chat(stream=False)
            self.ends[answer.headers["x-request-id"]] = loop.time()

    def lost(self, folder: Path, killed: float) -> list[float]:
        """How long before the kill the calls ended that are not in the ledger, seconds."""
        kept = {row["id"] for row in rows(folder)}
        return [killed - end for name, end in self.ends.items() if name not in kept]


@pytest.mark.parametrize("workers", [1, 2])
@scenario
async def test_a_kill_costs_less_than_the_last_second(tmp_path: Path, workers: int) -> None:
    loop = asyncio.get_running_loop()
    async with (
        Upstream() as upstream,
        RelayProcess(fields_of(workers, upstream), tmp_path) as relay,
    ):
        victim = relay.pid if workers == 1 else await pid_of(relay, "worker 0")
        load = Load(relay)
        await asyncio.gather(*(load.run(2.5) for _ in range(3)))
        os.kill(victim, signal.SIGKILL)
        killed = loop.time()
        if workers == 1:
            await relay.kill()
        else:
            await relay.log(started("worker 0", victim))
            assert await relay.stop() == 0

        lost = load.lost(tmp_path, killed)
        assert len(rows(tmp_path)) > 50
        assert all(0 <= ago < 1.0 for ago in lost), lost
        with contextlib.closing(database.read_only(tmp_path / "state" / database.FILE)) as stored:
            assert database.faults(stored) == []


@scenario
async def test_without_a_disk_calls_are_served_and_counted_as_lost(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        fields = fields_of(1, upstream)
        (tmp_path / "file").write_text("no folder")
        fields["state"] = {"path": str(tmp_path / "file")}
        async with RelayProcess(fields, tmp_path) as relay:
            answers = [await relay.chat() for _ in range(5)]
            assert await relay.stop() == 0

            assert [answer.status for answer in answers] == [200] * 5
            lines = [line for line in relay.lines if line["event"] == "ledger_drops"]
            assert len(lines) == 1


@scenario
async def test_a_reload_says_that_another_folder_needs_a_restart(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        fields = fields_of(1, upstream)
        async with RelayProcess(fields, tmp_path) as relay:
            relay.write(fields | {"state": {"path": "elsewhere", "retention": "1d"}})
            relay.reload()
            line = await relay.log(about("reloaded"))

            assert line["state"] == ["~retention", "another path needs a restart"]


@scenario
async def test_relay_usage_reads_while_the_relay_writes(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(fields_of(1, upstream), tmp_path) as relay,
    ):
        for _ in range(3):
            await relay.chat(stream=False)
        await shown(relay, "relay_ledger_calls_total", 3)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relay", "usage", "-c", str(relay.path), "--json"),
            env=relay.env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, _ = await output(process)

        assert process.returncode == 0
        assert json.loads(out)["total"]["cost_nano_usd"] == 3 * FULL
