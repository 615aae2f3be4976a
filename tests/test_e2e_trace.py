"""Traces: what an upstream is told of them, and what a collector gets."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.collector import Collector, Span
from tests.crew import HELD, begun, narrow, several, shown, spread, worker_of
from tests.rig import Gate, RawClient, RelayProcess, Reset, Upstream, config, scenario
from tests.rig import scripts as say
from tests.rig.raw_client import KEY, chat_body, request

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01"
SERVER, INTERNAL, CLIENT = 2, 1, 3


def by_kind(spans: list[Span], kind: int) -> list[Span]:
    return sorted((span for span in spans if span.kind == kind), key=lambda span: span.start)


# --- without a collector --------------------------------------------------------------------------


@scenario
async def test_a_trace_passes_through_and_a_malformed_one_ends_here(tmp_path: Path) -> None:
    async with Upstream() as upstream, RelayProcess(config({"a": upstream}), tmp_path) as relay:
        good = await relay.chat(headers={"traceparent": SAMPLED, "tracestate": "v=1"})
        bad = await relay.chat(headers={"traceparent": SAMPLED[:-1], "tracestate": "v=1"})
        none = await relay.chat(headers={"tracestate": "v=1"})

        told = [exchange.request.headers for exchange in upstream.exchanges]
        assert (told[0]["traceparent"], told[0]["tracestate"]) == (SAMPLED, "v=1")
        assert (await relay.call_of(good))["trace_id"] == TRACE
        for answer, headers in ((bad, told[1]), (none, told[2])):
            assert answer.status == 200
            assert "trace_id" not in await relay.call_of(answer)
            assert not {"traceparent", "tracestate"} & set(headers)
        assert (await relay.metrics())["relay_traces_sent_total"] == 0


# --- with one -------------------------------------------------------------------------------------


@scenario
async def test_a_call_that_failed_over_is_a_span_its_admission_and_each_attempt(
    tmp_path: Path,
) -> None:
    async with (
        Collector() as collector,
        Upstream([Reset()]) as broken,
        Upstream() as whole,
        RelayProcess(config({"a": broken, "b": whole}), tmp_path, collector.env) as relay,
    ):
        answer = await relay.chat(headers={"traceparent": SAMPLED, "tracestate": "v=1"})
        line = await relay.call_of(answer)
        spans = await collector.trace(TRACE, 4)

        (call,) = by_kind(spans, SERVER)
        (admission,) = by_kind(spans, INTERNAL)
        first, second = by_kind(spans, CLIENT)
        assert (call.name, call.parent, call.failed) == ("chat m", SPAN, False)
        assert call.attributes["relay.request_id"] == answer.headers["x-request-id"]
        assert call.attributes["relay.key"] == "tester"
        assert call.attributes["gen_ai.operation.name"] == "chat"
        assert call.attributes["gen_ai.request.model"] == "m"
        assert call.attributes["gen_ai.request.stream"] is True
        assert call.attributes["http.response.status_code"] == 200
        ttft = call.attributes["gen_ai.response.time_to_first_chunk"]
        assert abs(ttft * 1000 - line["ttft_ms"]) < 0.01
        assert abs((call.end - call.start) / 1e6 - line["duration_ms"]) < 0.01
        assert {admission.parent, first.parent, second.parent} == {call.id}
        assert first.failed
        assert first.attributes["relay.result"] == line["attempts"][0]["result"]
        assert first.attributes["error.type"] == line["attempts"][0]["result"]
        assert not second.failed
        assert second.attributes["relay.upstream"] == "b"
        assert second.attributes["gen_ai.usage.input_tokens"] == line["input_tokens"]
        assert second.attributes["gen_ai.usage.output_tokens"] == line["output_tokens"]
        assert not any("usage" in name for name in {**call.attributes, **first.attributes})
        assert call.start <= admission.start <= admission.end <= first.start <= first.end
        assert first.end <= second.start <= second.end <= call.end
        assert call.resource["service.name"] == "relay"
        assert collector.paths == ["/v1/traces"]
        told = [exchange.request.headers for exchange in whole.exchanges]
        assert [h["traceparent"] for h in told] == [f"00-{TRACE}-{second.id}-01"]
        assert told[0]["tracestate"] == "v=1"


@scenario
async def test_a_stream_that_runs_is_a_span_until_its_end(tmp_path: Path) -> None:
    held = say.sse(say.EVENTS[:3], Gate("end"), *say.sse(say.EVENTS[3:])[1:])
    async with (
        Collector() as collector,
        Upstream(held) as upstream,
        RelayProcess(config({"a": upstream}), tmp_path, collector.env) as relay,
        await RawClient.connect(relay.address) as client,
    ):
        await client.send(request("POST", "/v1/chat/completions", chat_body()))
        await client.head()
        exchange = await upstream.exchange()
        exchange.open("end")
        await client.rest()
        line = await relay.call()
        spans = await collector.trace(line["trace_id"], 3)

        (call,), (attempt,) = by_kind(spans, SERVER), by_kind(spans, CLIENT)
        assert call.parent == ""
        assert 0 <= call.end - attempt.end < 5e6
        answered = attempt.attributes["relay.answer_seconds"]
        assert answered * 1e9 < attempt.end - attempt.start
        told = exchange.request.headers["traceparent"]
        assert told == f"00-{call.trace_id}-{attempt.id}-01"


@scenario
async def test_a_wait_in_the_queue_is_a_span_between_the_admission_and_the_attempt(
    tmp_path: Path,
) -> None:
    waiting = request("POST", "/v1/chat/completions", chat_body(), headers={"traceparent": SAMPLED})
    async with (
        Collector() as collector,
        Upstream(HELD) as upstream,
        RelayProcess(config({"a": narrow(upstream, 1, line=1)}), tmp_path, collector.env) as relay,
        await RawClient.connect(relay.address) as first,
        await RawClient.connect(relay.address) as second,
    ):
        await begun(first)
        await second.send(waiting)
        await shown(relay, 'relay_queue_depth{upstream="a"}', 1)
        upstream.exchanges[0].open("end")
        await first.rest()
        await second.head()
        (await upstream.exchange(1)).open("end")
        line = await relay.call_of(await second.rest())
        spans = await collector.trace(TRACE, 4)
        others = [span.name for span in collector.spans if span.trace_id != TRACE]

        admission, queue = by_kind(spans, INTERNAL)
        (call,), (attempt,) = by_kind(spans, SERVER), by_kind(spans, CLIENT)
        assert (queue.name, queue.parent, queue.failed) == ("queue", call.id, False)
        assert abs((queue.end - queue.start) / 1e6 - line["queue_ms"]) < 0.01
        assert admission.end <= queue.start < queue.end <= attempt.start
        assert "queue" not in others
        assert attempt.attributes["server.address"] == "127.0.0.1"
        assert attempt.attributes["server.port"] == upstream.port


@scenario
async def test_a_refused_call_is_traced_to_where_it_was_refused(tmp_path: Path) -> None:
    keys = [{"id": "tester", "key": KEY, "limits": {"rpm": 1}}]
    async with (
        Collector() as collector,
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}, keys=keys), tmp_path, collector.env) as relay,
    ):
        await relay.chat()
        answer = await relay.chat(headers={"traceparent": SAMPLED})
        spans = await collector.trace(TRACE, 2)

        (call,), (admission,) = by_kind(spans, SERVER), by_kind(spans, INTERNAL)
        assert answer.status == call.attributes["http.response.status_code"] == 429
        assert call.attributes["error.type"] == "rate_limit_exceeded"
        assert not call.failed
        assert admission.failed
        assert by_kind(spans, CLIENT) == []


@scenario
async def test_a_client_that_does_not_sample_is_passed_through_and_not_sent(
    tmp_path: Path,
) -> None:
    unsampled = SAMPLED[:-1] + "0"
    async with (
        Collector() as collector,
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path, collector.env) as relay,
    ):
        await relay.chat(headers={"traceparent": unsampled})
        await relay.chat(headers={"traceparent": f"00-{TRACE[::-1]}-{SPAN}-01"})
        spans = await collector.trace(TRACE[::-1], 3)

        assert upstream.exchanges[0].request.headers["traceparent"] == unsampled
        assert {span.trace_id for span in spans} == {TRACE[::-1]}
        assert len(collector.spans) == 3


@scenario
async def test_every_worker_sends_its_own_calls(tmp_path: Path) -> None:
    async with (
        Collector() as collector,
        Upstream() as upstream,
        RelayProcess(several(2, config({"a": upstream})), tmp_path, collector.env) as relay,
        AsyncExitStack() as stack,
    ):
        clients = await spread(relay, stack, 2)
        asked = [
            request(
                "POST", "/v1/chat/completions", chat_body(), headers={"traceparent": traced(number)}
            )
            for number in (1, 2)
        ]
        answers = [await client.ask(data) for client, data in zip(clients, asked, strict=True)]
        found = [await collector.trace(traced(number)[3:35], 3) for number in (1, 2)]

        assert len({worker_of(answer.headers) for answer in answers}) == 2
        assert len({spans[0].resource["process.pid"] for spans in found}) == 2
        # The calls that `spread` made for itself are traced, too.
        assert (await relay.metrics())["relay_traces_dropped_total"] == 0


def traced(number: int) -> str:
    return f"00-{number:032x}-{SPAN}-01"


@scenario
async def test_a_collector_that_is_away_costs_spans_and_no_call(tmp_path: Path) -> None:
    async with (
        Collector(400, 200) as collector,
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path, collector.env) as relay,
    ):
        lost = await relay.chat()
        await relay.log(lambda line: line.get("event") == "traces_dropped")
        kept = await relay.chat()
        await relay.log(lambda line: line.get("event") == "traces_sent_again")
        metrics = await relay.metrics()

        assert (lost.status, kept.status) == (200, 200)
        assert metrics["relay_traces_dropped_total"] == 1
        assert metrics["relay_traces_sent_total"] == 1
        assert "127.0.0.1:" + collector.env["OTEL_EXPORTER_OTLP_ENDPOINT"][-5:] not in relay.stderr


@scenario
async def test_the_last_spans_are_sent_before_the_end(tmp_path: Path) -> None:
    async with Collector() as collector, Upstream() as upstream:
        async with RelayProcess(config({"a": upstream}), tmp_path, collector.env) as relay:
            await relay.chat(headers={"traceparent": SAMPLED})

        assert len(collector.spans) == 3


@scenario
async def test_no_span_has_content_or_a_credential(tmp_path: Path) -> None:
    async with (
        Collector() as collector,
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path, collector.env) as relay,
    ):
        secret = [{"role": "user", "content": "the-prompt-itself"}]
        await relay.chat(messages=secret, headers={"traceparent": SAMPLED})
        await collector.trace(TRACE, 3)

        for sent in collector.requests:
            for word in (b"the-prompt-itself", KEY.encode(), b"sk-upstream", b"lo, "):
                assert word not in sent


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "knows otlp and none"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_TRACES_SAMPLER": "sometimes"}, "none of Open"),
    ],
)
@scenario
async def test_what_the_environment_says_wrong_is_told_and_the_relay_serves(
    env: dict[str, str], says: str, tmp_path: Path
) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path, env) as relay,
    ):
        line = await relay.log(lambda line: says in line.get("notice", ""))

        assert line["level"] == "warning"
        assert (await relay.chat(headers={"traceparent": SAMPLED[:-1] + "0"})).status == 200
