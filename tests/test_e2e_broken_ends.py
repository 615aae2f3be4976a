"""Broken ends before an old client, a slow one, and of two members in turn. All ways to break are in `tests/faults`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.rig import (
    End,
    Gate,
    Models,
    RawClient,
    RelayProcess,
    Reset,
    Stall,
    Upstream,
    Upstreams,
    config,
    scenario,
)
from tests.rig import scripts as say
from tests.rig.raw_client import Answer, chat_body, request
from tests.rig.scripts import Script

SEEN = say.EVENTS[:3]
"""What the client has got when the upstream fails."""


def error_of(answer: Answer) -> dict[str, object]:
    """The error object of the last event."""
    last = answer.events[-1]
    assert last.startswith(b"data: {"), last
    payload = json.loads(last[6:])
    assert list(payload) == ["error"]
    found = payload["error"]
    assert isinstance(found, dict)
    return found


@scenario
async def test_a_client_of_http_1_0_gets_the_error_event_and_the_close(tmp_path: Path) -> None:
    whole = request("POST", "/v1/chat/completions", chat_body(), version="1.0")
    async with (
        Upstream(say.sse(SEEN, Reset())) as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        answer = await client.ask(whole)

        assert answer.end is End.EOF
        assert answer.headers.get("connection", "close") == "close"
        assert error_of(answer)["code"] == "upstream_stream_error"


@scenario
async def test_events_before_a_failure_are_delivered_to_a_slow_reader(tmp_path: Path) -> None:
    large = [say.delta({"content": "y" * 30_000}) for _ in range(64)]
    script: Script = say.sse([say.ROLE, *large], Gate("cut"), Reset())
    async with (
        Upstream(script) as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        await RawClient.connect(relay.address, receive_buffer=8192) as client,
    ):
        await client.send(request("POST", "/v1/chat/completions", chat_body()))
        await client.head()
        exchange = await upstream.exchange()
        await exchange.reached("cut")
        exchange.open("cut")
        answer = await client.rest()

        assert answer.end is End.BROKEN
        assert error_of(answer)["code"] == "upstream_stream_error"


@scenario
async def test_two_members_that_stall_in_turn_cost_one_wait_each(tmp_path: Path) -> None:
    pool = [{"upstream": name, "tier": tier} for tier, name in enumerate(("x", "y"))]
    models: Models = {"m": {"pool": pool, "retry": {"attempts": 3, "budget": "100%"}}}
    async with Upstream([Stall()]) as x, Upstream([Stall()]) as y:
        short = {"first_token": "200ms"}
        upstreams: Upstreams = {
            "x": {"base_url": x.base_url, "timeouts": short},
            "y": {"base_url": y.base_url, "timeouts": short},
        }
        async with RelayProcess(config(upstreams, models), tmp_path) as relay:
            answer = await relay.chat()

            assert (answer.status, answer.error["code"]) == (504, "timeout")
            line = await relay.call_of(answer)
            assert [item["upstream"] for item in line["attempts"]] == ["x", "y"]
            for exchange in (x.exchanges[0], y.exchanges[0]):
                await exchange.left()
