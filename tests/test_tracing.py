from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import threading

import pytest

from relay.observe.otlp import MOST_WAITING, Exporter
from relay.observe.spans import spans_of
from relay.observe.tracing import plan
from relay.records import AttemptRecord, CallRecord
from relay.tracecontext import Parent, Trace, read
from tests.rig.deadlines import WAIT

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
TRACE = "0af7651916cd43dd8448eb211c80319c"


def parent(flags: str) -> Parent:
    found = read([f"00-{TRACE}-b7ad6b7169203331-{flags}"], [])
    assert found is not None
    return found


# --- what the environment asks for ----------------------------------------------------------------


@pytest.mark.parametrize(
    "env",
    [
        ENDPOINT,
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"},
        {"OTEL_TRACES_EXPORTER": "otlp"},
        {"OTEL_TRACES_EXPORTER": " otlp "},
        ENDPOINT | {"OTEL_SDK_DISABLED": "false"},
    ],
)
def test_an_endpoint_or_an_exporter_turns_traces_on(env: dict[str, str]) -> None:
    made = plan(env, lambda: True)

    assert made.tracer is not None
    assert (made.sampler, made.notes) == ("parentbased_always_on", [])


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"OTEL_SERVICE_NAME": "relay"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"},
        ENDPOINT | {"OTEL_SDK_DISABLED": "TRUE"},
        ENDPOINT | {"OTEL_TRACES_SAMPLER": "always_off"},
    ],
)
def test_without_one_or_with_a_no_they_are_off(env: dict[str, str]) -> None:
    made = plan(env, lambda: True)

    assert (made.tracer, made.notes) == (None, [])


def test_without_the_extra_one_sentence_says_how_to_get_it() -> None:
    made = plan(ENDPOINT, lambda: False)

    assert made.tracer is None
    assert made.notes == [
        "Traces are asked for, but the extra is missing: pip install 'relay[otel]'."
    ]


@pytest.mark.parametrize(
    ("name", "ratio", "root", "sampled", "unsampled"),
    [
        ("always_on", "", True, True, True),
        ("traceidratio", "0", False, False, False),
        ("traceidratio", "1", True, True, True),
        ("parentbased_always_on", "", True, True, False),
        ("parentbased_always_off", "", False, True, False),
        ("parentbased_traceidratio", "0.0", False, True, False),
        ("parentbased_traceidratio", "1", True, True, False),
    ],
)
def test_each_sampler_takes_what_the_specification_says(
    name: str, ratio: str, root: bool, sampled: bool, unsampled: bool
) -> None:
    env = {"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": ratio}

    tracer = plan(ENDPOINT | env, lambda: True).tracer

    assert tracer is not None
    taken = [tracer.begin(one) is not None for one in (None, parent("01"), parent("00"))]
    assert taken == [root, sampled, unsampled]


@pytest.mark.parametrize(
    ("env", "word"),
    [
        ({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, "OTEL_TRACES_SAMPLER is none"),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1.5"},
            "OTEL_TRACES_SAMPLER_ARG must be",
        ),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "half"},
            "OTEL_TRACES_SAMPLER_ARG must be",
        ),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"},
            "OTEL_TRACES_SAMPLER_ARG must be",
        ),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http/protobuf"),
    ],
)
def test_what_makes_no_sense_is_named_and_the_default_holds(env: dict[str, str], word: str) -> None:
    made = plan(ENDPOINT | env, lambda: True)

    assert made.tracer is not None
    assert made.tracer.begin(None) is not None
    (note,) = made.notes
    assert word in note


OFF = """
import sys
from pathlib import Path
from relay.config.file import loads
from relay.observe.aside import Aside
aside = Aside(loads(b"{}", {}, Path("config.yaml")), {})
assert aside.tracer is None and aside.traces == (0, 0) and len(aside.observers) == 2
print([name for name in sys.modules if name.split(".")[0] in ("opentelemetry", "google", "requests")])
"""


def test_where_traces_are_off_nothing_of_the_library_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", OFF], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


# --- the thread that sends ------------------------------------------------------------------------


def test_a_collector_that_never_answers_holds_a_bounded_number_of_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        exporter = Exporter()

        exporter.observe([traced() for _ in range(MOST_WAITING)])
        exporter.observe([traced(trace=None) for _ in range(9)])
        before = exporter.dropped
        exporter.observe([traced() for _ in range(7)])
        exporter.close(0.01)
        exporter.observe([traced()])

        assert (before, exporter.dropped, exporter.sent) == (0, 8, 0)

    # Its thread draws its pauses from `random`, which hypothesis would find in a test after this one.
    for thread in threading.enumerate():
        if thread.name == "otlp":
            thread.join(WAIT)


# --- what a trace says ----------------------------------------------------------------------------


def traced(**fields: object) -> CallRecord:
    record = CallRecord()
    record.trace = Trace(TRACE, 0, b"")
    record.received, record.duration = 1_700_000_000.0, 2.0
    record.operation = "chat_completions"
    for name, value in fields.items():
        setattr(record, name, value)
    return record


def test_a_connection_that_went_stale_is_no_span() -> None:
    stale = AttemptRecord("a", "stale_conn", 0.0, 0.1)
    went_on = AttemptRecord("a", "ok", 500.0, 0.1, 1.9, span=7)
    record = traced(attempts=(stale, went_on), upstream="a", code=200)

    found = spans_of(record, lambda: 5)

    assert [span.kind for span in found] == ["server", "client"]


def test_no_span_lasts_longer_than_its_call() -> None:
    attempt = AttemptRecord("a", "ok", 500.0, 0.5, 1.6, span=7)

    call, made = spans_of(traced(attempts=(attempt,), upstream="a", code=200), lambda: 5)

    assert made.end == call.end
    assert made.start - call.start == 500_000_000


def test_each_wait_in_a_queue_is_a_span_and_who_waited_in_none_has_no_such_span() -> None:
    tried = AttemptRecord("a", "5xx", 10.0, 0.5, 0.01, span=7)
    again = AttemptRecord("b", "ok", 10.0, 0.9, 1.0, span=8)
    waited = traced(
        attempts=(tried, again),
        admission=0.1,
        queue=0.7,
        waits=((0.1, 0.4), (0.6, 0.3)),
        key="k",
        code=200,
    )
    ids = itertools.count(50)

    call, admission, first, second, *_ = found = spans_of(waited, ids.__next__)
    none = spans_of(traced(attempts=(again,), admission=0.1, code=200), ids.__next__)

    assert [span.name for span in found].count("queue") == 2
    assert (first.kind, first.parent, first.error) == ("internal", call.id, None)
    assert (first.start - call.start, first.end - first.start) == (100_000_000, 400_000_000)
    assert admission.end <= first.start <= first.end <= second.start
    assert len({span.id for span in found}) == len(found)
    assert first.attributes == {"relay.key": "k"}
    assert "queue" not in [span.name for span in none]


def test_a_wait_for_a_place_that_never_came_is_a_failed_span() -> None:
    record = traced(admission=0.0, waits=((0.0, 2.0),), reason="queue", code=503)

    _, _, wait = spans_of(record, lambda: 5)

    assert wait.error == wait.attributes["error.type"] == "queue"


def test_an_attempt_says_where_it_went_and_the_one_that_served_when_it_spoke() -> None:
    lost = AttemptRecord("a", "5xx", 10.0, 0.0, 0.01, 7, "a.example", 443)
    served = AttemptRecord("b", "ok", 250.0, 0.1, 1.0, 8, "b.example", 8443)
    record = traced(attempts=(lost, served), upstream="b", stream=True, ttft=0.35, code=200)
    plain = traced(attempts=(served,), upstream="b", code=200)

    call, first, second = spans_of(record, lambda: 5)
    _, whole = spans_of(plain, lambda: 5)

    where = [
        (span.attributes["server.address"], span.attributes["server.port"])
        for span in (first, second)
    ]
    assert where == [("a.example", 443), ("b.example", 8443)]
    assert "server.address" not in call.attributes
    first_chunk = "gen_ai.response.time_to_first_chunk"
    assert (call.attributes[first_chunk], second.attributes[first_chunk]) == (0.35, 0.25)
    assert first_chunk not in first.attributes
    assert first_chunk not in whole.attributes


@pytest.mark.parametrize(
    ("code", "outcome", "error", "failed"),
    [
        (200, "ok", None, False),
        (400, "client_error", "invalid_request_error", False),
        (499, "client_cancelled", None, False),
        (429, "rate_limited", "rate_limit_exceeded", False),
        (429, "upstream_error", "upstream_rate_limited", True),
        (503, "overloaded", "overloaded", True),
        (200, "stream_truncated", None, True),
    ],
)
def test_only_what_the_server_did_wrong_is_a_failed_span(
    code: int, outcome: str, error: str | None, failed: bool
) -> None:
    (call, *_) = spans_of(traced(code=code, outcome=outcome, error=error), lambda: 5)

    assert (call.error is not None) == failed
    assert ("error.type" in call.attributes) == (failed or error is not None)


def test_long_words_of_a_client_are_cut() -> None:
    (call,) = spans_of(traced(model="m" * 10_000, code=404), lambda: 5)

    assert call.attributes["gen_ai.request.model"] == "m" * 256
    assert call.name == "chat"
