"""Signals: SIGHUP reloads atomically, SIGTERM drains, a second one stops."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

from tests.rig import (
    End,
    Gate,
    RawClient,
    RelayProcess,
    Upstream,
    chat,
    config,
    get,
    scenario,
    within,
)
from tests.rig import scripts as say
from tests.rig.raw_client import chat_body, request
from tests.rig.relay_process import Line

RELOADED = "relay_config_last_reload_successful"
HELD = say.sse(say.EVENTS[:3], Gate("end"), *say.sse(say.EVENTS[3:])[1:])
CHAT = request("POST", "/v1/chat/completions", chat_body())


def about_reload(line: Line) -> bool:
    return "reload" in str(line.get("event"))


# --- reload -----------------------------------------------------------------------------------


@scenario
async def test_a_reload_takes_effect_and_running_streams_keep_their_upstream(
    tmp_path: Path,
) -> None:
    async with (
        Upstream(HELD) as old,
        Upstream() as new,
        RelayProcess(config({"a": old}), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        await client.send(CHAT)
        await client.head()
        running = await old.exchange()
        await running.reached("end")

        state = {"state": {"path": str(tmp_path / "state")}}
        keys = [{"id": "other", "key": "sk-other-0123456789abcdef"}]
        relay.write(state | config({"b": new}, None, keys))
        relay.reload()
        line = await relay.log(about_reload)
        metrics = await relay.metrics()
        lost = await relay.chat()
        moved = await relay.chat(key="sk-other-0123456789abcdef")
        running.open("end")
        answer = await client.rest()

        assert metrics[RELOADED] == 1, line
        assert lost.status == 401
        assert moved.text == say.TEXT
        assert len(new.exchanges) == 1
        assert answer.text == say.TEXT
        assert answer.end is End.CLEAN


@scenario
async def test_a_bad_configuration_changes_nothing_and_says_why(tmp_path: Path) -> None:
    async with Upstream() as upstream, Upstream() as other:
        good = config({"a": upstream}) | {"state": {"path": str(tmp_path / "state")}}
        async with RelayProcess(good, tmp_path) as relay:
            text = json.dumps(good, indent=1)
            bad = [
                text[: len(text) // 2],
                text.replace('"pool"', '"pol"'),
                text.replace('"upstream": "a"', '"upstream": "nobody"'),
                "",
            ]
            for number, content in enumerate(bad):
                relay.path.write_text(content, "utf-8")
                relay.reload()
                line = await relay.nth_log(number, about_reload)
                assert "config.yaml" in json.dumps(line), line
                assert (await relay.chat()).text == say.TEXT
                assert (await relay.metrics())[RELOADED] == 0

            relay.write(config({"b": other}) | {"state": good["state"]})
            relay.reload()
            await relay.nth_log(len(bad), about_reload)
            # A page of metrics may be half a second old; the scenario's own deadline ends the asking.
            while (await relay.metrics())[RELOADED] != 1:
                pass
            assert (await relay.chat()).text == say.TEXT
            assert len(other.exchanges) == 1
        assert '"pol"' in relay.stderr or "pol" in relay.stderr
        assert "did you mean" in relay.stderr.lower() or "pool" in relay.stderr


@scenario
async def test_what_limits_have_counted_survives_a_reload(tmp_path: Path) -> None:
    keys = [{"id": "limited", "key": "sk-limited-0123456789abcdef", "limits": {"rpm": 3}}]
    async with Upstream() as upstream:
        fields = config({"a": upstream}, None, keys) | {"state": {"path": str(tmp_path / "s")}}
        async with RelayProcess(fields, tmp_path) as relay:
            first = [await relay.chat(key="sk-limited-0123456789abcdef") for _ in range(3)]
            relay.reload()
            await relay.log(about_reload)
            fourth = await relay.chat(key="sk-limited-0123456789abcdef")

            assert [item.status for item in first] == [200] * 3
            assert fourth.status == 429


@scenario
async def test_a_reload_frees_a_parked_credential(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        fields = config({"a": upstream}) | {"state": {"path": str(tmp_path / "s")}}
        async with RelayProcess(fields, tmp_path) as relay:
            upstream.then(say.error(401))
            refused = [(await relay.chat()).status for _ in range(2)]
            relay.reload()
            await relay.log(about_reload)
            answer = await relay.chat()

            assert refused == [503, 503]
            assert answer.text == say.TEXT


# --- drain ------------------------------------------------------------------------------------


@scenario
async def test_sigterm_stops_listening_and_lets_streams_finish(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
        await RawClient.connect(relay.address) as late,
    ):
        assert (await late.ask(CHAT)).status == 200
        upstream.then(HELD)
        await client.send(CHAT)
        await client.head()
        exchange = await upstream.exchange(1)
        await exchange.reached("end")

        relay.signal(signal.SIGTERM)
        await relay.log(lambda line: "drain" in str(line.get("event")))
        refused = await _refused(relay)
        exchange.open("end")
        answer = await client.rest()
        code = await relay.exit()

        assert refused
        assert answer.text == say.TEXT
        assert answer.end is End.CLEAN
        assert code == 0
        line = await relay.call_of(answer)
        assert line["outcome"] == "ok"


@scenario
async def test_while_draining_an_open_connection_is_served_once_more(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
        await RawClient.connect(relay.address) as streaming,
    ):
        upstream.then(HELD)
        await streaming.send(CHAT)
        await streaming.head()
        exchange = await upstream.exchange()
        await client.send(CHAT[:40])

        relay.signal(signal.SIGTERM)
        await relay.log(lambda line: "drain" in str(line.get("event")))
        await client.send(CHAT[40:])
        await client.head()
        answer = await client.rest()
        exchange.open("end")
        await streaming.rest()

        assert answer.text == say.TEXT
        assert answer.headers.get("connection", "").lower() == "close"
        await client.closed()
        assert await relay.exit() == 0


@scenario
async def test_at_the_drain_limit_streams_end_with_an_error_event(tmp_path: Path) -> None:
    server = {"drain": {"delay": "0s", "timeout": "300ms"}}
    async with (
        Upstream(HELD) as upstream,
        RelayProcess(config({"a": upstream}, server=server), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        await client.send(CHAT)
        await client.head()
        await (await upstream.exchange()).reached("end")

        relay.signal(signal.SIGTERM)
        answer = await client.rest()
        code = await relay.exit()

        assert answer.end is End.BROKEN
        assert json.loads(answer.events[-1][6:])["error"]["code"] == "server_shutting_down"
        assert code == 0
        line = await relay.call_of(answer)
        assert (line["outcome"], line["cause"]) == ("stream_truncated", "drain")


@scenario
async def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    async with (
        Upstream(HELD) as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        await client.send(CHAT)
        await client.head()
        await (await upstream.exchange()).reached("end")

        relay.signal(signal.SIGINT)
        await relay.log(lambda line: "drain" in str(line.get("event")))
        relay.signal(signal.SIGTERM)
        answer = await client.rest()
        await relay.exit(5)

        assert answer.end is not End.CLEAN
        line = await relay.call_of(answer)
        assert line["cause"] == "drain"


@scenario
async def test_before_the_delay_is_over_new_calls_are_served_but_not_ready(
    tmp_path: Path,
) -> None:
    server = {"drain": {"delay": "1s", "timeout": "5s"}}
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, server=server), tmp_path) as relay,
    ):
        relay.signal(signal.SIGTERM)
        await relay.log(lambda line: line.get("event") == "stopping")
        ready = await get(relay.address, "/readyz", key=None)
        live = await get(relay.address, "/livez", key=None)
        answer = await relay.chat()
        code = await relay.exit()

        assert (ready.status, live.status) == (503, 200)
        assert answer.text == say.TEXT
        assert code == 0


@scenario
async def test_no_stream_is_lost_when_many_drain(tmp_path: Path) -> None:
    number = 100
    held = say.sse(say.EVENTS[:2], Gate("end"), *say.sse(say.EVENTS[2:])[1:])
    async with (
        Upstream(held) as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(chat(relay.address, timeout=30)) for _ in range(number)]
            for each in range(number):
                await (await upstream.exchange(each)).reached("end")
            relay.signal(signal.SIGTERM)
            await relay.log(lambda line: "drain" in str(line.get("event")))
            for exchange in upstream.exchanges:
                exchange.open("end")
        answers = [call.result() for call in calls]

        assert [item.end for item in answers] == [End.CLEAN] * number
        assert {item.text for item in answers} == {say.TEXT}
        assert await relay.exit() == 0
        assert len(relay.calls) == number


async def _refused(relay: RelayProcess) -> bool:
    """The listener is closed: a connection is refused or reset."""
    try:
        async with within(), await RawClient.connect(relay.address) as client:
            await client.ask(request("GET", "/livez"))
    except (OSError, EOFError):
        return True
    return False
