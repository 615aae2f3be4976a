"""Whom the relay asks: weights, tiers, patience, fallbacks. What makes it ask another is in `tests/faults`."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.rig import (
    Models,
    RelayProcess,
    Send,
    Stall,
    Upstream,
    Upstreams,
    chat,
    config,
    scenario,
    within,
)
from tests.rig import scripts as say


@scenario
async def test_weights_share_and_tiers_wait_their_turn(tmp_path: Path) -> None:
    pool = [
        {"upstream": "a", "weight": 3},
        {"upstream": "b", "weight": 1},
        {"upstream": "z", "weight": 0},
        {"upstream": "c", "tier": 1},
    ]
    models: Models = {"m": {"pool": pool, "strategy": "weighted"}}
    async with Upstream() as a, Upstream() as b, Upstream() as c, Upstream() as z:
        fields = config({"a": a, "b": b, "c": c, "z": z}, models)
        async with RelayProcess(fields, tmp_path) as relay:
            for _ in range(40):
                assert (await relay.chat(stream=False)).status == 200

            counts = [len(each.exchanges) for each in (a, b, c, z)]
            assert counts == [30, 10, 0, 0]


@scenario
async def test_a_full_tier_spills_to_the_next(tmp_path: Path) -> None:
    held = say.sse(say.EVENTS[:2], say.Gate("end"), Send(say.LAST_CHUNK))
    async with Upstream(held) as small, Upstream() as large:
        upstreams: Upstreams = {
            "small": {"base_url": small.base_url, "max_concurrent": 1},
            "large": large,
        }
        async with RelayProcess(config(upstreams), tmp_path) as relay:
            loop = asyncio.get_running_loop()
            first = loop.create_task(chat(relay.address))
            holding = await small.exchange()
            await holding.reached("end")

            second = await relay.chat()

            assert second.text == say.TEXT
            assert (len(small.exchanges), len(large.exchanges)) == (1, 1)
            holding.open("end")
            async with within():
                await first


@scenario
async def test_silence_is_counted_from_the_calls_receipt_and_lowered_by_its_header(
    tmp_path: Path,
) -> None:
    upstream_timeouts = {"first_token": "20s"}
    async with Upstream([Stall()]) as mute, Upstream() as good:
        upstreams: Upstreams = {
            "mute": {"base_url": mute.base_url, "timeouts": upstream_timeouts},
            "good": good,
        }
        async with RelayProcess(config(upstreams), tmp_path) as relay:
            answer = await relay.chat(headers={"x-relay-first-token-ms": "150"})
            junk = await relay.chat(headers={"x-relay-first-token-ms": "1_000"})

            line = await relay.call_of(answer)
            assert answer.text == say.TEXT
            assert line["attempts"][0]["result"] == "first_token_timeout"
            assert 100 <= line["attempts"][0]["ms"] < 2000
            assert (junk.status, junk.error["param"]) == (400, "x-relay-first-token-ms")


@scenario
async def test_a_call_with_no_healthy_model_falls_back_to_the_next_and_last_to_static_words(
    tmp_path: Path,
) -> None:
    models: Models = {
        "m": {"pool": [{"upstream": "bad"}], "fallback": ["spare", "sorry"]},
        "lost": {"pool": [{"upstream": "bad"}], "fallback": ["sorry"]},
        "spare": {"pool": [{"upstream": "good"}]},
        "sorry": {"static": "系统繁忙，请稍后再试"},
    }
    async with Upstream(say.error(500)) as bad, Upstream() as good:
        fields = config({"bad": bad, "good": good}, models)
        async with RelayProcess(fields, tmp_path) as relay:
            spare = await relay.chat()
            static = await relay.chat(model="lost")
            plain = await relay.chat(model="lost", stream=False)

            assert spare.text == say.TEXT
            assert spare.headers["x-relay-fallback"] == "spare"
            assert static.text == "系统繁忙，请稍后再试"
            assert static.headers["x-relay-fallback"] == "static"
            assert static.events[-1] == say.DONE
            assert plain.json()["choices"][0]["message"]["content"] == "系统繁忙，请稍后再试"
            assert (await relay.call_of(static))["outcome"] == "degraded"
