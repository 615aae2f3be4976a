"""`relay bench`: whom it calls and as whom, what it refuses, keeps secret and shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from relay.cli import main
from tests.authority import Authority
from tests.measuring import CUT, Bench, stream
from tests.rig import Request, Upstream, scenario
from tests.rig import scripts as say
from tests.rig.scripts import Script
from tests.rig.terminal import Terminal


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, capsys)


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
