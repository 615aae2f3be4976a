"""Hedges, an early head and a resumed stream, in a whole relay over real sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.crew import CHAT
from tests.rig import End, RawClient, RelayProcess, Upstream, config, scenario
from tests.rig import scripts as say
from tests.rig.relay_process import Fields
from tests.rig.upstream import Request

POOL: Fields = {
    "pool": [{"upstream": "a"}, {"upstream": "b", "tier": 1}],
    "retry": {"budget": "100%"},
}


def models(**more: object) -> dict[str, Fields]:
    return {"m": POOL | more}


@scenario
async def test_a_hedge_answers_for_an_upstream_that_fell_silent(tmp_path: Path) -> None:
    async with Upstream() as slow, Upstream() as quick:
        hedge = {"hedge": {"after": "50ms", "budget": "50%"}}
        async with RelayProcess(
            config({"a": slow, "b": quick}, models(**hedge)), tmp_path
        ) as relay:
            for _ in range(2):
                assert (await relay.chat()).text == say.TEXT
            slow.then([say.Stall()])
            answer = await relay.chat()
            answered = asyncio.get_running_loop().time()
            line = await relay.call(lambda line: line["hedged"])
            metrics = await relay.metrics()
            left = await slow.exchanges[2].left()

            assert answer.text == say.TEXT
            assert line["upstream"] == "b"
            assert [attempt["result"] for attempt in line["attempts"]] == ["cancelled", "ok"]
            assert left - answered < 0.25
            assert metrics['relay_hedges_total{outcome="won"}'] == 1
            assert metrics['relay_hedge_waste_tokens_total{upstream="a"}'] > 0
            assert metrics['relay_upstream_inflight{upstream="a"}'] == 0


@scenario
async def test_an_early_head_and_comments_bridge_the_silence(tmp_path: Path) -> None:
    waits = [say.Gate("on"), *say.sse(say.EVENTS)]
    async with Upstream(waits) as upstream:
        early = {"heartbeat": {"interval": "50ms", "before_commit": True}}
        async with RelayProcess(
            config({"a": upstream}, {"m": {"pool": [{"upstream": "a"}], **early}}), tmp_path
        ) as relay:
            async with await RawClient.connect(relay.address) as client:
                await client.send(CHAT)
                await client.head()
                first = await client.event()
                upstream.exchanges[0].open("on")
                answer = await client.rest()

            assert first == b": keep-alive\n\n"
            assert answer.status == 200
            assert answer.text == say.TEXT


@scenario
@pytest.mark.parametrize("way", ["deepseek-prefix", "continue-final-message"])
async def test_a_stream_that_was_reset_is_continued(tmp_path: Path, way: str) -> None:
    def rest(asked: Request) -> say.Script:
        said = asked.json()["messages"][-1]
        assert said["role"] == "assistant"
        begun = len(said["content"])
        return say.sse(
            [
                say.ROLE,
                say.delta({"content": say.TEXT[begun:]}),
                say.FINISH,
                say.usage_event(),
                say.DONE,
            ]
        )

    cut = say.sse(say.EVENTS[:3], say.Reset())
    async with (
        Upstream(cut) as broken,
        Upstream(rest) as good,
        RelayProcess(config({"a": broken, "b": good}, models(resume=way)), tmp_path) as relay,
    ):
        answer = await relay.chat()
        line = await relay.call()
        metrics = await relay.metrics()

        assert answer.text == say.TEXT
        assert answer.end is End.CLEAN
        assert line["resumed"] is True
        assert line["cause"] == "done"
        assert line["source"] == "reported"
        assert metrics['relay_resumes_total{outcome="continued"}'] == 1
        assert metrics['relay_inflight_streams{model="m",upstream="b"}'] == 0
        assert metrics['relay_inflight_streams{model="m",upstream="a"}'] == 0
