"""The events of the page over real sockets: what is told, to whom, and for how long."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from relay.page import events
from relay.page.events import Live, frame, frames
from relay.page.facts import Answer, Call, Failure, UpstreamStatus
from tests.crew import several
from tests.page import cost
from tests.rig import RelayProcess, Upstream, chat, config, get, scenario, within
from tests.rig.deadlines import SCALE
from tests.rig.raw_client import RawClient, request
from tests.rig.relay_process import ROOT

MARKUP = "</script>\n\ndata: evil\r\nevent: x 模型"


class Port:
    """An admin port with nothing but events. `changes` is called before each look."""

    def __init__(self, answer: Answer, changes: Callable[[Answer], None] = lambda _: None) -> None:
        self.answer = answer
        self.changes = changes
        self.looks = 0
        self.looked = asyncio.Event()
        self.left = asyncio.Event()
        self.failures: list[Exception] = []
        self.live = Live(self.look, self.failures.append)
        self.address = ("", 0)

    async def look(self) -> Answer:
        self.looks += 1
        self.looked.set()
        self.changes(self.answer)
        return self.answer

    async def looks_again(self, times: int) -> None:
        until = self.looks + times
        async with within():
            while self.looks < until:
                self.looked.clear()
                await self.looked.wait()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self.live.serve(request)
        finally:
            self.left.set()


@asynccontextmanager
async def opened(port: Port) -> AsyncIterator[Port]:
    app = web.Application()
    app.router.add_get("/events", port.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port.address = runner.addresses[0][:2]
    try:
        yield port
    finally:
        await port.live.close()
        await runner.cleanup()


def answer(**facts: object) -> Answer:
    made = Answer("1", 1.0, "config.yaml", "d", 0, [UpstreamStatus("up", {"closed": 1}, 0, None)])
    for name, fact in facts.items():
        setattr(made, name, fact)
    return made


async def begun(port: Port) -> RawClient:
    client = await RawClient.connect(port.address)
    await client.send(request("GET", "/events", key=None))
    await client.head(to="GET")
    return client


def parsed(event: bytes) -> tuple[str, dict[str, Any]]:
    name, data = event.decode().strip("\n").split("\n")
    assert name.startswith("event: ")
    assert data.startswith("data: ")
    found: dict[str, Any] = json.loads(data[6:])
    return name[7:], found


def test_an_event_is_three_lines_whatever_is_in_it() -> None:
    told = answer(failures=[Failure(1.0, MARKUP, "timeout", 504, MARKUP)], config_path=MARKUP)

    for event, each in frames(told).items():
        assert each.endswith(b"\n\n")
        assert each.count(b"\n") == 3
        assert b"\r" not in each
        assert parsed(each)[0] == event
    assert frame("now", b"{}") == b"event: now\ndata: {}\n\n"


@scenario
async def test_a_page_is_told_everything_and_then_what_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "PERIOD", 0.02)

    def changes(told: Answer) -> None:
        told.uptime_seconds += 1

    async with opened(Port(answer(), changes)) as port, await begun(port) as client:
        retry = await client.event()
        first = dict([parsed(await client.event()) for _ in range(5)])
        later = [parsed(await client.event()) for _ in range(3)]

        assert retry.strip() == b"retry: 2000"
        fields = {name for part in first.values() for name in part}
        assert fields == set(Answer.__struct_fields__) - {"latest"}
        assert [name for name, _ in later] == ["now"] * 3
        assert later[2][1]["uptime_seconds"] == 5.0


@scenario
async def test_the_latest_calls_are_told_to_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PERIOD", 0.02)
    told = answer(latest=[Call(1.0, "req_1", "ok", 200, "up")])
    async with opened(Port(told)) as port, await RawClient.connect(port.address) as client:
        await client.send(request("GET", "/events?latest", key=None))
        await client.head(to="GET")
        await client.event()
        first = dict([parsed(await client.event()) for _ in range(6)])

        assert [one["request_id"] for one in first["latest"]["latest"]] == ["req_1"]


@scenario
async def test_a_look_that_fails_is_said_and_the_next_one_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "PERIOD", 0.02)

    def changes(told: Answer) -> None:
        told.uptime_seconds += 1
        if told.uptime_seconds == 2:
            raise ValueError("of ours")

    async with opened(Port(answer(), changes)) as port, await begun(port) as client:
        await client.event()
        name, now = parsed(await client.event())

        assert (name, now["uptime_seconds"]) == ("now", 3.0)
        assert [str(error) for error in port.failures] == ["of ours"]


@scenario
async def test_nothing_is_made_while_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PERIOD", 0.02)
    async with opened(Port(answer(), lambda told: setattr(told, "at", told.at + 1))) as port:
        async with await begun(port) as one, await begun(port) as other:
            await one.event()
            await other.event()
            assert port.live.pages == 2

        async with within():
            await port.left.wait()
            while port.live.pages:
                port.left.clear()
                await port.left.wait()

        assert port.live._telling is None


@scenario
async def test_a_slow_page_skips_what_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PERIOD", 0.01)

    def changes(told: Answer) -> None:
        told.uptime_seconds += 1

    big = answer(config_path="x" * 1_000_000)
    async with opened(Port(big, changes)) as port, await begun(port) as client:
        await port.looks_again(40)
        seen: list[float] = []
        while not seen or seen[-1] < 41:
            event = await client.event()
            if event.startswith(b"event: now"):
                seen.append(parsed(event)[1]["uptime_seconds"])

        assert len(seen) < 30
        assert seen == sorted(set(seen))


@scenario
async def test_a_page_that_reads_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PERIOD", 0.01)
    monkeypatch.setattr(events, "PATIENCE", 0.2)
    big = answer(config_path="x" * 4_000_000)
    async with opened(Port(big, lambda told: setattr(told, "at", told.at + 1))) as port:
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(port.address)
        with deaf:
            deaf.sendall(request("GET", "/events", key=None))
            async with within():
                await port.left.wait()

            assert port.live.pages == 0


@scenario
async def test_the_end_of_the_port_ends_the_streams() -> None:
    async with opened(Port(answer())) as port, await begun(port) as client:
        await client.event()
        await port.live.close()

        rest = await client.rest()

        assert rest.end.name == "CLEAN"


@scenario
async def test_a_relay_stops_while_pages_are_open(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(several(1, config({"a": upstream})), tmp_path) as relay,
        await RawClient.connect(relay.admin) as client,
    ):
        await client.send(request("GET", "/events", key=None))
        await client.head(to="GET")
        await client.event()

        assert await relay.stop() == 0
        assert (await client.rest()).end.name == "CLEAN"


@scenario
async def test_what_all_workers_tell_is_one(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(several(2, config({"a": upstream})), tmp_path) as relay,
        await RawClient.connect(relay.admin) as client,
    ):
        for number in range(8):
            headers = {"x-request-id": f"playground-{number}"}
            await chat(relay.address, stream=True, headers=headers)
        await client.send(request("GET", "/events", key=None))
        await client.head(to="GET")

        told: dict[str, Any] = {}
        while not told.get("served") or told["totals"]["calls"] < 8 or len(told["served"]) < 8:
            event = await client.event()
            if event.startswith(b"event: "):
                told |= parsed(event)[1]

        assert told["totals"]["calls"] == told["upstreams"][0]["attempts"] == 8
        assert {one["upstream"] for one in told["served"]} == {"a"}


@pytest.mark.parametrize("workers", [1, 2])
@scenario
async def test_reloads_and_the_ends_of_keys_are_told_by_one_process_and_by_many(
    tmp_path: Path, workers: int
) -> None:
    async with Upstream() as upstream:
        fields = several(workers, config({"a": upstream}))
        fields["state"] = {"path": str(tmp_path / "state")}
        async with RelayProcess(fields, tmp_path) as relay:
            first = (await get(relay.admin, "/status.json", key=None)).json()
            soon = datetime.fromtimestamp(first["at"] + 3 * 86_400, UTC).isoformat()
            keys = [
                {"id": "soon", "key": "sk-soon-0123456789abcdef", "expires": soon},
                {"id": "gone", "key": "sk-gone-0123456789abcdef", "expires": "2020-01-01"},
            ]
            server = fields["server"] | {"max_body": "1MiB"}
            relay.write(fields | {"server": server, "keys": fields["keys"] + keys})
            relay.reload()
            await relay.log(lambda line: line.get("event") == "reloaded")
            second = (await get(relay.admin, "/status.json", key=None)).json()
            relay.path.write_text("models: 5", "utf-8")
            relay.reload()
            await relay.log(lambda line: line.get("event") == "reload_failed")
            third = (await get(relay.admin, "/status.json", key=None)).json()

            assert first["reload"] is None
            assert first["expiring"] == first["expired"] == []
            assert [one["key"] for one in second["expiring"]] == ["soon"]
            assert [one["key"] for one in second["expired"]] == ["gone"]
            assert (second["keys_expiring"], second["keys_expired"]) == (1, 1)
            assert "expires" in [one["code"] for one in second["headline"]]
            changes = {"keys": ["+soon", "+gone"], "server": ["~max_body"]}
            assert second["reload"]["changes"] == changes
            assert third["reload"]["successful"] is False
            assert "models" in third["reload"]["faults"][0]
            assert third["config_digest"] == second["config_digest"] != first["config_digest"]
            (failed,) = [one for one in third["headline"] if one["code"] == "reload_failed"]
            assert failed["facts"]["fault"] == third["reload"]["faults"][0]


@pytest.mark.alone
@scenario
async def test_a_page_that_comes_holds_the_event_loop_for_a_moment_only(tmp_path: Path) -> None:
    words = ("--keys", "400", "--upstreams", "50", "--seconds", "1.5")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.page.stall", *words),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with within(30 * SCALE):
        out, _ = await process.communicate()

    # Two at most, of CPU time; looked at in one turn, the limits alone would take four.
    longest = float(re.findall(r"with one ([\d.]+)", out.decode())[0])
    assert longest < 4 * SCALE, out


@pytest.mark.alone
@scenario
async def test_open_pages_cost_little(tmp_path: Path) -> None:
    spent = await cost.measured(tmp_path, pages=100, seconds=1.0, keys=20)

    # Measured at a tenth of a millisecond; the bound leaves room for a machine that is busy.
    assert spent.page < 1.0 * SCALE, spent
    assert spent.bytes < 50_000, spent
