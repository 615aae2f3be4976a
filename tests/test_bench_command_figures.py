"""`relay bench`: what it measures of upstreams that do as their scripts say, and how long it waits for them."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from relay.measure.run import Run
from relay.measure.targets import Target
from tests.measuring import CUT, WORD, Bench, stream
from tests.rig import SCALE, Pause, Request, Reset, Send, Stall, Upstream, output, scenario
from tests.rig import scripts as say
from tests.rig.relay_process import PACKAGE
from tests.rig.scripts import Script

SLACK = 0.4 * SCALE
"""Seconds by which a busy machine may be late."""


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, capsys)


def near(value: float, promised: float, early: float = 3) -> bool:
    """Milliseconds; never before its time, but for what a timer may be early."""
    return promised - early <= value <= promised + SLACK * 1000


# --- what it measures -----------------------------------------------------------------------------


@pytest.mark.alone
@scenario
async def test_times_are_those_of_the_script(bench: Bench) -> None:
    async with Upstream(stream(0.05, 0.02)) as fast, Upstream(stream(0.3, 0.1)) as slow:
        bench.write({"fast": fast, "slow": slow})

        found = await bench.figures("-n", "3", "--concurrency", "2")

        for name, first, gap in (("fast", 50, 20), ("slow", 300, 100)):
            one = found[name]
            assert one["calls"] == one["whole"] == 3
            assert one["stability_percent"] == 100
            assert one["connect_ms"]["count"] == 3
            assert near(one["ttft_ms"]["p50"], first)
            assert one["gap_ms"]["count"] == 3 * 4
            assert near(one["gap_ms"]["p50"], gap)
            # Of 12 tokens in 5 events the first event's were there when the clock of the rate began.
            told = one["tokens_per_second"]["p50"]
            assert told <= 12 * 4 / 5 / (4 * gap / 1000) * 1.1
            assert one["ms_for_1000_tokens"]["p50"] >= first + 999 / told * 1000 * 0.99 - 3
            assert (one["input_tokens"], one["output_tokens"]) == (90, 36)
            assert {sample["source"] for sample in one["samples"]} == {"reported"}
        assert found["fast"]["ttft_ms"]["p50"] < found["slow"]["ttft_ms"]["p50"]


@pytest.mark.alone
@scenario
async def test_a_first_token_may_be_reasoning_and_is_no_role_and_no_comment(bench: Bench) -> None:
    thinks = say.delta({"reasoning_content": "hm"})
    script: Script = [
        *(Send(say.SSE_HEAD), Send(say.frame(b": waiting\n\n" + say.ROLE)), Pause(0.15)),
        *(Send(say.frame(thinks)), Pause(0.15), Send(say.frame(WORD))),
        *(Send(say.frame(say.FINISH + say.DONE)), Send(say.LAST_CHUNK)),
    ]
    async with Upstream(script) as upstream:
        bench.write({"a": upstream})

        found = (await bench.figures("-n", "1"))["a"]

        assert near(found["ttft_ms"]["p50"], 150)
        assert near(found["gap_ms"]["max"], 150, early=100), (
            "shorter if its beginning was read late"
        )


@scenario
async def test_a_reasoning_that_is_not_shown_does_not_make_a_stream_fast(bench: Bench) -> None:
    counts = {
        **{"prompt_tokens": 1, "completion_tokens": 1000, "total_tokens": 1001},
        "completion_tokens_details": {"reasoning_tokens": 990},
    }
    script: Script = [
        *(Send(say.SSE_HEAD), Send(say.frame(WORD)), Pause(0.1), Send(say.frame(WORD))),
        Send(say.frame(say.FINISH + say.usage_event(counts) + say.DONE)),
        Send(say.LAST_CHUNK),
    ]
    async with Upstream(script) as upstream:
        bench.write({"a": upstream})

        found = (await bench.figures("-n", "1"))["a"]

        assert found["output_tokens"] == 1000
        assert found["tokens_per_second"]["p50"] <= 10 / 2 / 0.1 * 1.05


@scenario
async def test_without_a_report_tokens_are_estimated_and_that_is_said(bench: Bench) -> None:
    async with Upstream(stream(usage=None)) as upstream:
        bench.write({"a": upstream})

        out, err = await bench.run("-n", "2")
        found = (await bench.figures("-n", "2"))["a"]

        assert out.startswith("UPSTREAM ")
        assert "a: the tokens of 2 of 2 calls are estimates" in err
        assert (found["output_tokens"], found["estimated_calls"]) == (10, 2)


@scenario
async def test_only_whole_streams_are_stable_and_each_failure_is_named(bench: Bench) -> None:
    nothing = say.sse(
        [
            say.ROLE,
            say.FINISH,
            say.usage_event({"prompt_tokens": 1, "completion_tokens": 0}),
            say.DONE,
        ]
    )
    without_done = say.sse([WORD, say.FINISH])
    event = say.event({"error": {"message": "engine died", "code": "server_error"}})
    async with Upstream(stream()) as upstream:
        broken: list[Script] = [
            CUT,
            [Send(say.SSE_HEAD), Send(say.frame(WORD)), Pause(0.05), Reset()],
            say.error(429, "slow down"),
            say.error(500),
            [Reset()],
            nothing,
            say.sse([WORD, event]),
            say.plain(200, say.completion()),
        ]
        upstream.then(*broken, without_done)
        bench.write({"a": upstream})

        found = (await bench.figures("-n", "10"))["a"]

        results = [sample["result"] for sample in found["samples"]]
        assert results[:4] == ["upstream_truncated", "upstream_truncated", "rate_limited", "5xx"]
        assert results[4:6] == ["reset_before_headers", "empty"]
        assert results[6:] == ["error_event", "bad_content_type", "ok", "ok"]
        assert found["stability_percent"] == 20
        said = {failed["result"]: failed["said"] for failed in found["failed"]}
        assert said["rate_limited"] == "slow down"
        assert said["error_event"] == "engine died"


@scenario
async def test_money_is_that_of_the_measured_tokens_at_the_configured_price(bench: Bench) -> None:
    async with Upstream(stream(usage=70)) as upstream:
        windows = [{"input": 10, "output": 20}]
        bench.write({"a": upstream}, price={"input": 1, "output": 2, "windows": windows})

        out, err = await bench.run("-n", "2", "--max-tokens", "100")
        found = (await bench.figures("-n", "2"))["a"]

        nano = 2 * (30 * 10_000 + 70 * 20_000)
        assert found["cost_nano_usd"] == nano
        assert found["usd_per_million_tokens"] == pytest.approx(nano / 200 / 1000)
        assert "17.000" in out
        assert "2 calls, 1 at a time, of at most 100 tokens each: at most US$ 0.0" in err


@scenario
async def test_an_upstream_that_takes_another_price_is_shown_with_that(bench: Bench) -> None:
    async with Upstream(stream(usage=70)) as a, Upstream(stream(usage=70)) as b:
        pool = [{"upstream": "a"}, {"upstream": "b", "price": {"input": 3, "output": 3}}]
        bench.write({"a": a, "b": b}, pool=pool, price={"input": 1, "output": 1})

        found = await bench.figures("-n", "1")

        each = {name: found[name]["usd_per_million_tokens"] for name in "ab"}
        assert each == {"a": pytest.approx(1), "b": pytest.approx(3)}


@scenario
async def test_every_round_calls_everybody_once_in_an_order_of_the_seed(bench: Bench) -> None:
    called: list[str] = []

    def by(name: str) -> Any:
        def answer(request: Request) -> Script:
            called.append(name)
            return stream()

        return answer

    async with (
        Upstream(by("a")) as a,
        Upstream(by("b")) as b,
        Upstream(by("c")) as c,
    ):
        bench.write({"a": a, "b": b, "c": c})

        await bench.run("-n", "6", "--seed", "7")
        first = called.copy()
        called.clear()
        await bench.run("-n", "6", "--seed", "7")

        assert called == first
        rounds = [tuple(first[at : at + 3]) for at in range(0, 18, 3)]
        assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
        assert len(set(rounds)) > 1


def test_another_seed_draws_another_order() -> None:
    targets = [Target(name, "http://x", (None,), "m") for name in "abcd"]

    orders = {tuple(Run(targets, 5, 1, 1, "", seed).order()) for seed in range(20)}

    assert len(orders) == 20


@scenario
async def test_so_many_calls_are_under_way_and_no_more_than_an_upstream_takes(bench: Bench) -> None:
    most = 0
    now = 0

    def answer(request: Request) -> Script:
        nonlocal most, now
        now += 1
        most = max(most, now)
        whole = list(stream(0.05))
        return [*whole[:-2], say.Do(lambda: leave()), *whole[-2:]]

    def leave() -> None:
        nonlocal now
        now -= 1

    async with Upstream(answer) as upstream:
        bench.write({"a": {"base_url": upstream.base_url, "max_concurrent": 2}})

        _, err = await bench.run("-n", "6", "--concurrency", "5")

        assert most == 2
        assert "2 at a time: a takes no more (max_concurrent)" in err


# --- patience, and ends ---------------------------------------------------------------------------


@scenario
async def test_an_upstream_that_hangs_ends_by_its_own_patience_and_does_not_look_fast(
    bench: Bench,
) -> None:
    async with Upstream(stream()) as upstream:
        upstream.then([Stall()], [Send(say.SSE_HEAD), Send(say.frame(say.ROLE)), Stall()])
        options = {"base_url": upstream.base_url, "timeouts": {"first_token": "150ms"}}
        bench.write({"a": options})

        found = (await bench.figures("-n", "3"))["a"]
        upstream.then([Stall()], [Stall()])
        out, _ = await bench.run("-n", "3")

        assert found["failed"][0]["result"] == "first_token_timeout"
        assert (found["silent"], found["whole"]) == (2, 1)
        assert near(found["ttft_ms"]["p50"], 150)
        assert ">1" in out.splitlines()[1]


@scenario
async def test_a_stream_that_falls_silent_ends_by_idle_and_a_call_by_its_timeout(
    bench: Bench,
) -> None:
    mute: Script = [Send(say.SSE_HEAD), Send(say.frame(WORD)), Stall()]
    async with Upstream(mute) as upstream:
        bench.write({"a": {"base_url": upstream.base_url, "timeouts": {"idle": "100ms"}}})
        idle = (await bench.figures("-n", "1", code=1))["a"]
        bench.write({"a": upstream})
        total = (await bench.figures("-n", "1", "--timeout", "0.2", code=1))["a"]

        assert idle["samples"][0]["result"] == "idle_timeout"
        assert total["samples"][0]["result"] == "total_timeout"
        assert near(total["samples"][0]["duration_ms"], 200)


@scenario
async def test_when_every_call_fails_the_code_is_1_and_the_table_says_so(bench: Bench) -> None:
    async with Upstream() as gone:
        pass
    bench.write({"gone": gone})

    out, err = await bench.run("-n", "2", code=1)

    assert "0.0%" in out
    assert "gone: 2 of 2 calls ended as connect_refused" in err


@scenario
async def test_ctrl_c_prints_what_there_is(tmp_path: Path, bench: Bench) -> None:
    async with Upstream(stream()) as upstream:
        upstream.then(stream(), stream(), [Stall()])
        bench.write({"a": upstream})
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relay", "bench", "-n", "50", "--json"),
            cwd=tmp_path,
            env={"PYTHONPATH": PACKAGE},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # Whoever runs the tests in the background has Ctrl-C ignored, and that is inherited.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        stalled = await upstream.exchange(2)
        process.send_signal(signal.SIGINT)
        out, err = await output(process)

        assert process.returncode == 130
        found = json.loads(out)
        assert found["interrupted"]
        assert [one["calls"] for one in found["upstreams"]] == [2]
        assert b"interrupted: the calls that were under way are not in it" in err
        assert b"Traceback" not in err
        await stalled.left()
