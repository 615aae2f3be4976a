"""`relay bench`: what it measures of upstreams that do as their scripts say, over real sockets."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from relay.cli import main
from relay.measure.run import Run
from relay.measure.targets import Target
from tests.authority import Authority
from tests.rig import SCALE, Close, Pause, Request, Reset, Send, Stall, Upstream, output, scenario
from tests.rig import scripts as say
from tests.rig.relay_process import PACKAGE
from tests.rig.scripts import Script, Step
from tests.rig.terminal import Terminal

WORD = say.delta({"content": "tide "})
SLACK = 0.4 * SCALE
"""Seconds by which a busy machine may be late."""

Fields = dict[str, Any]


def stream(
    first: float = 0.0, gap: float = 0.0, words: int = 5, *, usage: int | None = 12
) -> Script:
    """A whole one: the role at once, the first word after `first` seconds, another after each `gap`."""
    steps: list[Step] = [Send(say.SSE_HEAD), Send(say.frame(say.ROLE)), Pause(first)]
    for number in range(words):
        steps += [*([Pause(gap)] if number and gap else []), Send(say.frame(WORD))]
    closing = [say.FINISH]
    if usage is not None:
        counts = {"prompt_tokens": 30, "completion_tokens": usage, "total_tokens": 30 + usage}
        closing.append(say.usage_event(counts))
    return [*steps, Send(say.frame(b"".join((*closing, say.DONE)))), Send(say.LAST_CHUNK)]


CUT: Script = [Send(say.SSE_HEAD), Send(say.frame(WORD)), Send(say.frame(WORD)), Close()]


@dataclass(frozen=True)
class Bench:
    """Runs the command in a thread of its own, as it has its own loop."""

    folder: Path
    capsys: pytest.CaptureFixture[str]

    def write(self, upstreams: dict[str, Upstream | Fields], **model: object) -> None:
        ready: Fields = {}
        for name, given in upstreams.items():
            fields = {"base_url": given.base_url} if isinstance(given, Upstream) else given
            ready[name] = {"api_keys": ["sk-upstream-1"]} | fields
        pool = [{"upstream": name} for name in upstreams]
        whole = {"upstreams": ready, "models": {"m": {"pool": pool} | model}}
        (self.folder / "config.yaml").write_text(json.dumps(whole), "utf-8")

    async def run(self, *words: str, code: int = 0) -> tuple[str, str]:
        """What it printed on stdout and stderr."""
        line = ["bench", "-c", str(self.folder / "config.yaml"), *words]
        assert await asyncio.to_thread(main, line) == code
        printed = self.capsys.readouterr()
        return printed.out, printed.err

    async def figures(self, *words: str, code: int = 0) -> dict[str, Fields]:
        """By upstream."""
        out, _ = await self.run("--json", *words, code=code)
        return {each["upstream"]: each for each in json.loads(out)["upstreams"]}


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, capsys)


def near(value: float, promised: float) -> bool:
    """Milliseconds; never before its time, but for what a timer may be early."""
    return promised - 3 <= value <= promised + SLACK * 1000


# --- what it measures -----------------------------------------------------------------------------


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
        assert near(found["gap_ms"]["max"], 150)


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


# --- whom, and as whom ----------------------------------------------------------------------------


@scenario
async def test_a_call_is_asked_for_as_the_configuration_says(bench: Bench) -> None:
    async with Upstream(stream()) as upstream:
        whole = {
            "upstreams": {
                "a": {"base_url": upstream.base_url, "api_keys": ["sk-one-1", "sk-two-2"]}
            },
            "models": {"m": {"pool": [{"upstream": "a", "model": "their-name"}]}},
        }
        (bench.folder / "config.yaml").write_text(json.dumps(whole), "utf-8")

        await bench.run("-n", "4", "--max-tokens", "9", "--prompt", "Say tide.", "--model", "m")

        requests = [exchange.request for exchange in upstream.exchanges]
        keys = [request.headers["authorization"] for request in requests]
        assert keys == ["Bearer sk-one-1", "Bearer sk-two-2"] * 2
        assert {request.target for request in requests} == {"/v1/chat/completions"}
        bodies = [request.json() for request in requests]
        prompts = [body["messages"][0]["content"] for body in bodies]
        assert len(set(prompts)) == 4
        assert all(prompt.endswith(" Say tide.") for prompt in prompts)
        assert {(body["model"], body["max_tokens"], body["stream"]) for body in bodies} == {
            ("their-name", 9, True)
        }
        assert all(body["stream_options"] == {"include_usage": True} for body in bodies)
        assert upstream.connections == 4


@scenario
async def test_a_field_that_an_upstream_does_not_know_is_left_out_and_is_no_failure(
    bench: Bench,
) -> None:
    def picky(request: Request) -> Script:
        body = request.json()
        if "max_tokens" in body:
            return say.error(400, "Use 'max_completion_tokens' instead of 'max_tokens'.")
        if "stream_options" in body:
            return say.error(400, "Unknown field: stream_options")
        return stream(usage=None)

    async with Upstream(picky) as upstream:
        bench.write({"a": upstream})

        found = (await bench.figures("-n", "3"))["a"]

        assert found["whole"] == 3
        assert len(upstream.exchanges) == 3 + 2


@scenario
async def test_any_base_url_can_be_measured_without_a_configuration(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THEIR_KEY", "sk-of-theirs-123")
    async with Upstream(stream(usage=70)) as upstream:
        words = ["--base-url", upstream.base_url, "--upstream-model", "x", "--api-key-env"]

        found = await bench.figures(*words, "THEIR_KEY", "--price", "1,2", "-n", "1")
        _, err = await bench.run(*words, "NOBODYS", "-n", "1", code=1)

        (one,) = found.values()
        assert one["upstream"] == f"127.0.0.1:{upstream.port}"
        assert one["cost_nano_usd"] == 30 * 1000 + 70 * 2000
        assert upstream.exchanges[0].request.headers["authorization"] == "Bearer sk-of-theirs-123"
        assert err == "relay: the variable NOBODYS of --api-key-env is empty\n"


@scenario
async def test_a_base_url_stands_beside_the_pool_of_a_model(bench: Bench) -> None:
    async with Upstream(stream()) as ours, Upstream(stream()) as theirs:
        bench.write({"a": ours})

        found = await bench.figures("-n", "1", "--model", "m", "--base-url", theirs.base_url)

        assert list(found) == ["a", f"127.0.0.1:{theirs.port}"]
        assert {one["model"] for one in found.values()} == {"m"}


@scenario
async def test_who_is_left_out_is_told(bench: Bench) -> None:
    async with Upstream(stream()) as upstream:
        bench.write({"a": upstream, "b": {"base_url": "http://127.0.0.1:1/v1", "api_keys": [""]}})

        out, err = await bench.run("-n", "1", "--json")

        assert "b is left out: its api_keys are empty\n" in err
        assert json.loads(out)["left_out"] == [
            {"upstream": "b", "reason": "its api_keys are empty"}
        ]


@scenario
async def test_the_demo_is_measured_when_nobody_else_is_there_and_costs_nothing(
    bench: Bench,
) -> None:
    demo = {"kind": "demo", "api_keys": []}
    bench.write({"demo": demo})

    out, err = await bench.run("-n", "1", "--max-tokens", "5")
    async with Upstream(stream()) as upstream:
        bench.write({"demo": demo, "a": upstream})
        found = await bench.figures("-n", "1")

    assert out.splitlines()[1].startswith("demo ")
    assert "it costs nothing" in err
    assert list(found) == ["a"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--upstream", "aa"], "relay: there is no upstream 'aa', did you mean 'a'?"),
        (["--model", "n"], "relay: there is no model 'n' (there are: 'm')"),
        (["-n", "1001"], "relay: more than 1,000 calls need --yes"),
        (["--base-url", "http://x/v1"], "relay: say which model --base-url is asked for"),
        (["--base-url", "ftp://x", "--upstream-model", "m"], "relay: --base-url must begin with"),
    ],
)
@scenario
async def test_what_cannot_be_measured_is_refused_in_a_line(
    bench: Bench, words: Sequence[str], said: str
) -> None:
    bench.write({"a": {"base_url": "http://127.0.0.1:1/v1"}})

    _, err = await bench.run(*words, code=1)

    assert err.splitlines()[-1].startswith(said)


@pytest.mark.parametrize(
    "words",
    [["-n", "0"], ["--timeout", "soon"], ["--price", "1"], ["--chart", "x.pdf"], ["--seed", "-1"]],
)
def test_wrong_usage_is_told(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", *words])

    assert end.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


# --- what must not happen -------------------------------------------------------------------------


@scenario
async def test_a_key_and_a_host_are_shown_nowhere_and_a_text_commands_no_terminal(
    bench: Bench,
) -> None:
    def echo(request: Request) -> Script:
        key = request.headers["authorization"]
        return say.error(401, f"bad key {key} at http://127.0.0.1 \x1b[2J\nnext")

    async with Upstream(echo) as upstream:
        bench.write({"a": upstream})

        out, err = await bench.run("-n", "1", code=1)
        found, _ = await bench.run("-n", "1", "--json", code=1)

        assert "auth_failed (HTTP 401): bad key" in err
        for text in (out, err, found):
            assert "sk-upstream" not in text
            assert "127.0.0.1" not in text
            assert "\x1b" not in text


@scenario
async def test_a_redirect_is_not_followed(bench: Bench) -> None:
    async with Upstream(stream()) as other:
        head = b"Location: " + other.base_url.encode() + b"/chat/completions\r\n"
        async with Upstream(say.plain(307, {}, headers=head)) as upstream:
            bench.write({"a": upstream})

            found = (await bench.figures("-n", "1", code=1))["a"]

            assert found["failed"][0]["result"] == "redirect"
            assert not other.exchanges


# TLS says goodbye, and its loop ends before the other side has answered.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@scenario
async def test_tls_is_verified_and_the_authority_of_the_configuration_trusted(
    bench: Bench, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    async with Upstream(stream(), tls=authority.serving("IP:127.0.0.1")) as upstream:
        bench.write({"a": {"base_url": upstream.base_url, "ca_file": str(authority.file)}})
        trusted = (await bench.figures("-n", "1"))["a"]
        bench.write({"a": upstream})
        stranger = (await bench.figures("-n", "1", code=1))["a"]

        assert trusted["whole"] == 1
        assert stranger["failed"][0]["result"] == "tls_error"


# --- how it shows ---------------------------------------------------------------------------------


@scenario
async def test_the_best_of_each_column_is_marked(bench: Bench) -> None:
    async with Upstream(stream(0.01, 0.01)) as fast, Upstream(stream(0.2, 0.08)) as slow:
        bench.write({"快": fast, "slow": slow})
        slow.then(CUT)

        out, err = await bench.run("-n", "2")

        head, first, second = out.splitlines()
        assert head.split()[:5] == ["UPSTREAM", "CALLS", "CONNECT", "FIRST", "TOKEN"]
        assert first.startswith("快 ")
        assert first.count("*") >= 5
        assert "100.0%*" in first
        assert "50.0% " in second
        assert "slow: 1 of 2 calls ended as upstream_truncated" in err
        assert "of fewer than 20 calls the p95 is the slowest one" in err


@scenario
async def test_json_says_how_it_was_measured(bench: Bench) -> None:
    async with Upstream(stream()) as upstream:
        bench.write({"a": upstream})

        out, _ = await bench.run("-n", "2", "--json", "--seed", "5", "--timeout", "3")

        found = json.loads(out)
        assert found["date"] < found["ended"]
        assert (found["calls"], found["concurrency"], found["seed"]) == (2, 1, 5)
        assert (found["max_tokens"], found["timeout_seconds"]) == (256, 3)
        assert not found["interrupted"]
        assert len(found["upstreams"][0]["samples"]) == 2


@scenario
async def test_a_chart_has_a_dot_for_each_call_that_had_a_token(bench: Bench) -> None:
    async with (
        Upstream(stream(0.02)) as a,
        Upstream(stream(0.2)) as b,
        Upstream(say.error(500)) as c,
    ):
        bench.write({"<a>&": a, "b": b, "c": c})
        path = bench.folder / "first.svg"

        _, err = await bench.run("-n", "3", "--concurrency", "3", "--chart", str(path))

        assert f"the chart is in {path}" in err
        root = ElementTree.fromstring(path.read_text("utf-8"))  # noqa: S314
        name = "{http://www.w3.org/2000/svg}"
        assert len(root.findall(f"{name}circle")) == 6
        texts = [element.text for element in root.iter(f"{name}text")]
        assert {"<a>&", "b", "c", "no first token"} <= set(texts)
        xs = [float(circle.get("cx", "0")) for circle in root.findall(f"{name}circle")]
        assert max(xs[:3]) < min(xs[3:])


@scenario
async def test_a_terminal_is_asked_before_anything_is_called(bench: Bench) -> None:
    async with Upstream(stream()) as upstream:
        bench.write({"a": upstream}, price={"input": 1, "output": 2})
        words = ("bench", "-c", str(bench.folder / "config.yaml"), "-n", "2")

        async with Terminal(*words) as terminal:
            await terminal.shows("Go ahead? [y/N]")
            terminal.type("n\n")
            code = await terminal.exit()
            assert code == 1
            assert "relay: nothing was called" in terminal.text()
        assert not upstream.exchanges

        async with Terminal(*words) as terminal:
            await terminal.shows("at most US$ 0.0")
            await terminal.shows("Go ahead? [y/N]")
            terminal.type("y\n")
            code = await terminal.exit()
            assert code == 0
            assert "] 2/2" in terminal.text()
            assert "100.0%" in terminal.text()
        assert len(upstream.exchanges) == 2
