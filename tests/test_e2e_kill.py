"""Two upstreams, the first killed under load: nobody sees an error before the first token, none ends silently."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest

from tests.rig import End, Models, RelayProcess, chat, config, scenario
from tests.rig import scripts as say
from tests.rig.raw_client import Answer
from tests.rig.sdks import SDKS, drive
from tests.rig.upstream_process import UpstreamProcess

pytestmark = pytest.mark.alone

RATE = 50
"""Calls a second."""

CALLS = 300
MODELS: Models = {"m": {"pool": [{"upstream": "first"}, {"upstream": "second"}]}}


def outcome(answer: Answer) -> str:
    """What a client would make of the answer; every other end is a lie."""
    if answer.status != 200:
        return f"refused with {answer.status}"
    whole = b"".join(say.EVENTS)
    # With its finish_reason an answer is complete, though the upstream died before [DONE].
    if answer.end is End.CLEAN and answer.body in (whole, whole.removesuffix(say.DONE)):
        return "whole"
    last = answer.events[-1]
    told = last.startswith(b'data: {"error"') and json.loads(last[6:])["error"]["message"]
    if answer.end is End.BROKEN and told and b"[DONE]" not in answer.body:
        return "cut and told"
    return f"silent end: {answer.end} {last!r}"


@scenario
async def test_no_client_sees_an_error_before_the_first_token_when_an_upstream_is_killed(
    tmp_path: Path,
) -> None:
    async with UpstreamProcess() as first, UpstreamProcess() as second:
        fields = config(
            {"first": {"base_url": first.base_url}, "second": {"base_url": second.base_url}}, MODELS
        )
        async with RelayProcess(fields, tmp_path) as relay:
            loop = asyncio.get_running_loop()
            calls: list[asyncio.Task[Answer]] = []
            all_out = asyncio.Event()

            def start(number: int) -> None:
                calls.append(loop.create_task(chat(relay.address, timeout=30)))
                if number == CALLS - 1:
                    all_out.set()

            begin = loop.time()
            for number in range(CALLS):
                loop.call_at(begin + number / RATE, start, number)
            await first.has_begun(CALLS // 6)
            first.kill()
            await all_out.wait()
            ends = Counter([outcome(await call) for call in calls])

            assert ends["cut and told"] >= 1, "it was killed under streams"
            assert ends["whole"] + ends["cut and told"] == CALLS, ends
            assert ends["cut and told"] < RATE
            assert second.requests > CALLS // 2


@scenario
async def test_streams_cut_by_a_kill_raise_an_api_error_in_the_sdk(tmp_path: Path) -> None:
    newest = SDKS[2]
    async with UpstreamProcess() as first, UpstreamProcess() as second:
        fields = config(
            {"first": {"base_url": first.base_url}, "second": {"base_url": second.base_url}}, MODELS
        )
        async with RelayProcess(fields, tmp_path) as relay:
            url = "http://{}:{}/v1".format(*relay.address)
            load = {"CALLS": "120", "CONCURRENCY": "12"}
            task = asyncio.get_running_loop().create_task(drive(newest, "load", url, env=load))
            await first.has_begun(20)
            first.kill()
            ends = await task

            assert set(ends) == {"raised after tokens", "whole"}, ends
            assert sum(ends.values()) == 120
