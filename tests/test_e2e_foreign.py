"""Against a server that this project did not write: what an SDK gets through the relay is what it gets directly.

`python -m tests.transcript` prints the same comparison for people.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.rig import RelayProcess, config, scenario
from tests.rig.foreign import ForeignServer, alike
from tests.rig.raw_client import chat
from tests.rig.sdks import SDKS, Sdk, drive, require

PROMPTS = ("Say hello.", "What is the weather?", "Think.")


@pytest.mark.parametrize("sdk", SDKS, ids=lambda sdk: sdk.name)
@scenario
async def test_sdk_streams_are_event_for_event_what_the_server_sends(
    tmp_path: Path, sdk: Sdk
) -> None:
    require(*sdk.needs)
    async with ForeignServer() as server:
        fields = config({"foreign": {"base_url": server.base_url}})
        async with RelayProcess(fields, tmp_path) as relay:
            through = "http://{}:{}/v1".format(*relay.address)
            env = {"PROMPTS": json.dumps(PROMPTS)}
            direct = await drive(sdk, "streams", server.base_url, env=env)
            relayed = await drive(sdk, "streams", through, env=env)

    for prompt in PROMPTS:
        assert relayed[prompt].keys() == direct[prompt].keys() >= {"async", "with_usage"}
        for way, events in direct[prompt].items():
            assert len(events) > 3
            assert alike(relayed[prompt][way]) == alike(events)


@scenario
async def test_the_bytes_of_a_stream_are_the_servers(tmp_path: Path) -> None:
    async with ForeignServer("--latency", "5") as server:
        fields = config({"foreign": {"base_url": server.base_url}})
        async with RelayProcess(fields, tmp_path) as relay:
            for prompt in PROMPTS:
                messages = [{"role": "user", "content": prompt}]
                asked: dict[str, Any] = {
                    "messages": messages,
                    "stream_options": {"include_usage": True},
                }
                direct = await chat(("127.0.0.1", server.port), **asked)
                relayed = await relay.chat(**asked)

                assert alike(relayed.body.decode()) == alike(direct.body.decode())
