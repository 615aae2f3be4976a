"""What an operator sees: one line per call, metrics, no trace of the rest."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path

from tests.crew import several, spread
from tests.rig import RelayProcess, Reset, Upstream, config, get, scenario
from tests.rig import scripts as say
from tests.rig.deadlines import SCALE
from tests.rig.raw_client import chat_body, request

MODELS = {
    "m": {
        "pool": [{"upstream": "a"}],
        "price": {"input": 2, "output": 4},
        "retry": {"attempts": 1},
    }
}
NO_PROXY: dict[str, list[str]] = {"trusted_proxies": []}
KNOWN = {
    *("time", "event", "request_id", "client_request_id", "trace_id", "key", "client"),
    *("operation", "model", "served_model", "upstream", "upstream_request_id", "stream"),
    *("code", "error", "outcome", "cause", "attempts", "hedged", "fallback", "queue_ms"),
    *("ttft_ms", "overhead_ms", "max_gap_ms", "duration_ms", "events", "input_tokens"),
    *("cached_tokens", "output_tokens", "reasoning_tokens", "source", "cost_usd"),
}


@scenario
async def test_each_call_leaves_one_line_with_the_known_fields(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, MODELS, server=NO_PROXY), tmp_path) as relay,
    ):
        stream = await relay.call_of(await relay.chat())
        plain = await relay.call_of(await relay.chat(stream=False))
        refused = await relay.call_of(await relay.chat(key="sk-nobody-0123456789abcdef"))

        for line in (stream, plain, refused):
            assert set(line) <= KNOWN, set(line) - KNOWN
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
            assert line["event"] == "call"
            assert line["operation"] == "chat_completions"
            assert line["client"] == "127.0.0.1"
            assert line["duration_ms"] >= 0
        assert (stream["key"], stream["model"], stream["upstream"]) == ("tester", "m", "a")
        assert (stream["stream"], stream["code"], stream["outcome"]) == (True, 200, "ok")
        assert (stream["input_tokens"], stream["output_tokens"]) == (9, 12)
        assert abs(stream["cost_usd"] - (9 * 2 + 12 * 4) / 1e6) < 1e-12
        assert 0 < stream["ttft_ms"] <= stream["duration_ms"]
        # What comes after the first event, until its bytes are handed on, is no part of the time to it.
        assert 0 < stream["overhead_ms"] <= stream["duration_ms"]
        assert stream["cause"] == "done"
        assert plain["stream"] is False
        assert "ttft_ms" not in plain
        assert (refused["code"], refused["outcome"]) == (401, "client_error")
        assert refused["error"] == "invalid_api_key"
        assert len(relay.calls) == 3


@scenario
async def test_metrics_count_what_happened(tmp_path: Path) -> None:
    keys = [
        {"id": "tester", "key": "sk-t-0123456789abcdef", "limits": {"rpm": 3}},
    ]
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, MODELS, keys), tmp_path) as relay,
    ):
        whole = await relay.chat(key="sk-t-0123456789abcdef")
        upstream.then(say.sse(say.EVENTS[:3], Reset()), say.error(500))
        cut = await relay.chat(key="sk-t-0123456789abcdef")
        failed = await relay.chat(key="sk-t-0123456789abcdef")
        limited = await relay.chat(key="sk-t-0123456789abcdef")
        for answer in (whole, cut, failed, limited):
            await relay.call_of(answer)
        seen = await relay.metrics()

        def of(name: str, **labels: str) -> float:
            wanted = {f'{key}="{value}"' for key, value in labels.items()}
            found = [
                value
                for series, value in seen.items()
                if series.partition("{")[0] == name
                and wanted <= set(series.partition("{")[2].rstrip("}").split(","))
            ]
            assert found, (name, labels, [each for each in seen if each.startswith(name)])
            return sum(found)

        common = {"operation": "chat_completions", "model": "m"}
        requests = "relay_requests_total"
        assert of(requests, **common, upstream="a", outcome="ok", code="200") == 1
        assert of(requests, **common, upstream="a", outcome="stream_truncated", code="200") == 1
        assert of(requests, **common, outcome="upstream_error", code="502") == 1
        assert of(requests, **common, outcome="rate_limited", code="429") == 1
        assert of("relay_tokens_total", model="m", direction="output", source="reported") >= 12
        assert of("relay_upstream_attempts_total", upstream="a", result="ok") >= 1
        assert of("relay_stream_end_total", cause="upstream_reset") == 1
        assert of("relay_key_requests_total", key="tester", outcome="ok") == 1
        assert of("relay_refused_total", reason="rpm") == 1
        assert of("relay_key_limit_ratio", key="tester", limit="rpm") > 0.9
        assert of("relay_inflight_streams", model="m") == 0
        assert of("relay_time_to_first_token_seconds_count", model="m", upstream="a") == 2
        assert of("relay_build_info") == 1
        assert of("relay_config_last_reload_successful") == 1


@scenario
async def test_metrics_answer_in_the_formats_that_prometheus_asks_for(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        await relay.chat()
        plain = await get(relay.admin, "/metrics", key=None)
        lost = await get(relay.admin, "/not-there", key=None)

        assert plain.headers["content-type"].startswith("text/plain")
        helped = set(re.findall(r"^# HELP (\w+) \S", plain.body.decode(), re.M))
        typed = set(re.findall(r"^# TYPE (\w+) ", plain.body.decode(), re.M))
        assert helped == typed
        assert "relay_requests_total" in typed
        assert lost.status == 404


@scenario
async def test_an_admin_port_with_a_token_asks_for_it(tmp_path: Path) -> None:
    admin = {"listen": "127.0.0.1:0", "token": "canary-admin-token"}
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, admin=admin), tmp_path) as relay,
    ):
        closed = await get(relay.admin, "/metrics", key=None)
        wrong = await get(relay.admin, "/metrics", key="canary")
        opened = await get(relay.admin, "/metrics", key="canary-admin-token")
        live = await get(relay.admin, "/livez", key=None)

        assert (closed.status, wrong.status) == (401, 401)
        assert (opened.status, live.status) == (200, 200)


@scenario
async def test_a_scrape_shows_what_any_worker_served_until_a_second_before(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    series = (
        'relay_requests_total{code="200",model="m",operation="chat_completions",'
        'outcome="ok",upstream="a"}'
    )
    async with (
        Upstream() as upstream,
        RelayProcess(several(2, config({"a": upstream})), tmp_path) as relay,
        AsyncExitStack() as stack,
    ):
        clients = await spread(relay, stack, 2)
        before = (await relay.metrics()).get(series, 0)
        for client in clients:
            answer = await client.ask(request("POST", "/v1/chat/completions", chat_body()))
            assert answer.status == 200
        ended = loop.time()
        while (await relay.metrics()).get(series, 0) < before + 2:
            assert loop.time() - ended < 1.0 * SCALE

        page = (await get(relay.admin, "/metrics", key=None)).body
        if shutil.which("promtool") is not None:
            criticised = await asyncio.to_thread(
                subprocess.run,
                ["promtool", "check", "metrics"],
                input=page,
                capture_output=True,
                check=False,
            )
            assert (criticised.returncode, criticised.stderr) == (0, b"")
