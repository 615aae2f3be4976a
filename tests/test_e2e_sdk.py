"""The official SDKs, unchanged but for base URL and key, through a whole relay. Streams that break: `tests/faults`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.rig import RelayProcess, Upstream, config, scenario
from tests.rig import scripts as say
from tests.rig.relay_process import Line
from tests.rig.sdks import SDKS, Sdk, drive, require

each_sdk = pytest.mark.parametrize("sdk", SDKS, ids=lambda sdk: sdk.name)

TOOLS = (
    say.ROLE,
    say.delta(
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": ""},
                }
            ]
        }
    ),
    say.delta({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":"Paris"}'}}]}),
    say.delta({}, finish="tool_calls"),
    say.DONE,
)


def payloads(events: tuple[bytes, ...] | list[bytes]) -> list[Any]:
    return [json.loads(item[6:]) for item in events if item.startswith(b"data: {")]


def url(relay: RelayProcess) -> str:
    return "http://{}:{}/v1".format(*relay.address)


@each_sdk
@scenario
async def test_a_stream_is_what_the_upstream_sent(tmp_path: Path, sdk: Sdk) -> None:
    require(*sdk.needs)
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        found = await drive(sdk, "stream", url(relay))

        expected = payloads(say.EVENTS)
        assert found["async"] == expected
        assert found.get("sync", expected) == expected
        assert found["with_usage"] == [*expected, *payloads([say.usage_event()])]
        assert found["models"] == ["m"]


@each_sdk
@scenario
async def test_tool_calls_stream_through(tmp_path: Path, sdk: Sdk) -> None:
    require(*sdk.needs)
    async with (
        Upstream(say.sse(TOOLS)) as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        found = await drive(sdk, "stream", url(relay))

        assert found["async"] == payloads(TOOLS)


@each_sdk
@scenario
async def test_a_plain_answer_and_its_headers(tmp_path: Path, sdk: Sdk) -> None:
    require(*sdk.needs)
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        found = await drive(sdk, "plain", url(relay))

        assert found["async"] == say.completion()
        assert found.get("sync", say.completion()) == say.completion()
        assert found["request_id"]


@each_sdk
@scenario
async def test_an_sdk_that_is_told_not_to_retry_asks_once(tmp_path: Path, sdk: Sdk) -> None:
    require(*sdk.needs)
    keys = [{"id": "spent", "key": "sk-spent-0123456789abcdef", "limits": {"tokens_per_day": 1}}]
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, None, keys), tmp_path) as relay,
    ):
        found = await drive(sdk, "refused", url(relay), key="sk-spent-0123456789abcdef")
        again = await relay.chat(key="sk-spent-0123456789abcdef")
        await relay.call_of(again)

        assert found["status_code"] == 429
        assert found["code"] == "insufficient_quota"
        assert len(relay.calls) == 2, "one attempt of the SDK, and ours"


@each_sdk
@scenario
async def test_an_sdk_that_is_told_a_short_wait_comes_back_after_it(
    tmp_path: Path, sdk: Sdk
) -> None:
    require(*sdk.needs)
    keys = [{"id": "slow", "key": "sk-slow-0123456789abcdef", "limits": {"rpm": 60}}]
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, None, keys), tmp_path) as relay,
    ):
        ours: set[str] = set()

        def another_is_refused(line: Line) -> bool:
            return line["outcome"] == "rate_limited" and line["request_id"] not in ours

        async def keep_empty() -> None:
            """Until the SDK has met the limit, however long it takes to start."""
            while not any(map(another_is_refused, relay.calls)):
                answer = await relay.chat(key="sk-slow-0123456789abcdef", stream=False)
                ours.add(answer.headers["x-request-id"])

        async with asyncio.TaskGroup() as together:
            emptying = together.create_task(keep_empty())
            found = await drive(sdk, "plain", url(relay), key="sk-slow-0123456789abcdef")
            emptying.cancel()

        await relay.call(another_is_refused)
        assert found["async"] == say.completion()


@each_sdk
@scenario
async def test_a_wrong_key_is_an_authentication_error(tmp_path: Path, sdk: Sdk) -> None:
    require(*sdk.needs)
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        found = await drive(sdk, "refused", url(relay), key="sk-wrong-0123456789abcdef")

        assert found["class"] == "AuthenticationError"
        assert found["code"] == "invalid_api_key"
        await relay.call()
        assert len(relay.calls) == 1
