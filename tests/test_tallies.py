"""What a call adds to which number, and that label values stay bounded."""

from __future__ import annotations

import pytest

from relay.observe.tallies import MAX_KEYS
from relay.records import AttemptRecord, CallRecord
from relay.usage import Usage
from tests.observed import Page, configured, streamed

PAIR = {"model": "chat", "upstream": "main"}


def test_a_streamed_call_is_counted_everywhere_it_belongs() -> None:
    metrics = configured()

    metrics.observe([streamed()])

    page = Page(metrics)
    assert (
        page.value(
            "relay_requests_total", operation="chat_completions", outcome="ok", code="200", **PAIR
        )
        == 1
    )
    assert page.value("relay_request_duration_seconds_sum", **PAIR) == 4.2345
    assert page.value("relay_time_to_first_token_seconds_count", **PAIR) == 1
    assert page.value("relay_stream_max_gap_seconds_sum", **PAIR) == 0.08
    assert page.value("relay_overhead_seconds_sum", **PAIR) == 0.0004
    assert page.value("relay_stream_end_total", cause="done") == 1
    assert page.value("relay_upstream_attempts_total", upstream="main", result="ok") == 1
    assert page.value("relay_key_requests_total", key="shop", outcome="ok") == 1


def test_tokens_are_counted_by_direction_and_subsets_on_their_own() -> None:
    metrics = configured()

    metrics.observe([streamed(), streamed()])

    page = Page(metrics)
    tokens = "relay_tokens_total"
    assert page.value(tokens, direction="input", source="reported", **PAIR) == 2000
    assert page.value(tokens, direction="output", source="reported", **PAIR) == 400
    assert page.value("relay_cached_tokens_total", **PAIR) == 1200
    assert page.value("relay_reasoning_tokens_total", **PAIR) == 100
    assert page.value("relay_cost_usd_total", **PAIR) == 0.000708
    assert page.value("relay_key_tokens_total", key="shop", direction="input") == 2000


def test_an_estimate_is_told_from_a_report() -> None:
    metrics = configured()
    record = streamed()
    record.usage = Usage(10, 3, source="estimated")

    metrics.observe([streamed(), record])

    page = Page(metrics)
    for source, count in (("reported", 1000), ("estimated", 10)):
        assert page.value("relay_tokens_total", direction="input", source=source, **PAIR) == count


@pytest.mark.parametrize(
    ("ttft", "edge", "below"), [(0.75, "0.75", "0.5"), (0.8, "0.8", "0.75"), (60.0, "60.0", "45.0")]
)
def test_an_edge_belongs_to_its_bucket(ttft: float, edge: str, below: str) -> None:
    metrics = configured()
    record = streamed()
    record.ttft = ttft

    metrics.observe([record])

    page = Page(metrics)
    bucket = "relay_time_to_first_token_seconds_bucket"
    assert page.value(bucket, le=edge, **PAIR) == 1
    assert page.value(bucket, le=below, **PAIR) == 0


def test_an_observation_beyond_all_edges_is_in_the_last_bucket() -> None:
    metrics = configured()
    record = streamed()
    record.duration = 5000.0

    metrics.observe([record])

    page = Page(metrics)
    assert page.value("relay_request_duration_seconds_bucket", le="900.0", **PAIR) == 0
    assert page.value("relay_request_duration_seconds_bucket", le="+Inf", **PAIR) == 1
    assert page.value("relay_request_duration_seconds_count", **PAIR) == 1


def test_a_refused_call_has_no_latency_but_a_reason() -> None:
    metrics = configured()
    record = CallRecord()
    record.operation, record.model, record.key = "chat_completions", "chat", "shop"
    record.code, record.outcome, record.reason = 429, "rate_limited", "rpm"

    metrics.observe([record])

    page = Page(metrics)
    labels = {"model": "chat", "upstream": "none", "outcome": "rate_limited", "code": "429"}
    assert page.value("relay_requests_total", operation="chat_completions", **labels) == 1
    assert page.value("relay_refused_total", reason="rpm") == 1
    assert page.value("relay_key_requests_total", key="shop", outcome="rate_limited") == 1
    assert page.labels("relay_time_to_first_token_seconds_count") == []
    assert page.labels("relay_tokens_total") == []


def test_a_failover_counts_every_attempt() -> None:
    metrics = configured()
    record = streamed()
    record.attempts = (
        AttemptRecord("main", "connect_refused", 0.2),
        AttemptRecord("spare", "ok", 300.0),
    )

    metrics.observe([record])

    page = Page(metrics)
    attempts = "relay_upstream_attempts_total"
    assert page.value(attempts, upstream="main", result="connect_refused") == 1
    assert page.value(attempts, upstream="spare", result="ok") == 1


def test_a_queued_call_and_a_fallback_are_counted() -> None:
    metrics = configured()
    record = streamed()
    record.queue, record.fallback, record.served_model = 0.3, "apology", "apology"

    metrics.observe([record])

    page = Page(metrics)
    assert page.value("relay_queue_seconds_sum", upstream="main") == 0.3
    assert page.value("relay_fallbacks_total", model="chat", to="apology") == 1


@pytest.mark.parametrize("answered_by", ["none", "static"])
def test_who_waited_in_vain_is_counted_where_the_line_was(answered_by: str) -> None:
    metrics = configured()
    record = streamed()
    record.upstream, record.queue, record.queued_at = answered_by, 2.0, "main"

    metrics.observe([record])

    assert Page(metrics).labels("relay_queue_seconds_sum") == [{"upstream": "main"}]


def test_a_plain_answer_is_a_stream_end_only_when_it_broke_off() -> None:
    metrics = configured()
    whole, broken = streamed(), streamed()
    whole.stream = broken.stream = False
    broken.cause = "upstream_truncated"

    metrics.observe([whole, broken])

    page = Page(metrics)
    assert page.labels("relay_stream_end_total") == [{"cause": "upstream_truncated"}]


def test_names_that_a_client_made_up_are_other() -> None:
    metrics = configured()
    records = []
    for number in range(500):
        record = CallRecord()
        record.model = f'made-up-{number}"}} 1\n'
        records.append(record)

    metrics.observe(records)

    page = Page(metrics)
    assert {labels["model"] for labels in page.labels("relay_requests_total")} == {"other"}
    assert "made-up" not in page.text


def test_upstreams_that_are_not_configured_are_other() -> None:
    metrics = configured()
    record = streamed()
    record.upstream = "gone"
    record.attempts = (AttemptRecord("gone", "5xx", 1.0), AttemptRecord("also-gone", "5xx", 1.0))

    metrics.observe([record])

    page = Page(metrics)
    assert page.value("relay_upstream_attempts_total", upstream="other", result="5xx") == 2
    assert page.value("relay_request_duration_seconds_count", model="chat", upstream="other") == 1


def test_keys_beyond_the_first_thousand_share_one_label() -> None:
    metrics = configured()
    records = []
    for number in range(MAX_KEYS + 200):
        record = streamed()
        record.key = f"key-{number}"
        records.append(record)

    metrics.observe(records)
    metrics.observe(records)

    page = Page(metrics)
    keys = {labels["key"] for labels in page.labels("relay_key_requests_total")}
    assert len(keys) == MAX_KEYS + 1
    assert page.value("relay_key_requests_total", key="other", outcome="ok") == 400
    assert page.value("relay_key_requests_total", key="key-0", outcome="ok") == 2


def test_a_call_without_a_key_is_on_no_key() -> None:
    metrics = configured()
    record = streamed()
    record.key = None

    metrics.observe([record])

    assert Page(metrics).labels("relay_key_requests_total") == []


def test_a_reload_forgets_what_it_no_longer_names() -> None:
    metrics = configured()
    kept, gone = streamed(), streamed()
    gone.model = gone.served_model = "apology"
    gone.key, gone.upstream, gone.queue, gone.fallback = "old", "spare", 1.0, "apology"
    gone.attempts = (AttemptRecord("spare", "ok", 1.0),)
    metrics.observe([kept, gone])

    metrics.configure({"chat"}, {"main"}, {"shop"}, 0.8)

    page = Page(metrics)
    assert page.labels("relay_request_duration_seconds_count") == [PAIR]
    assert {labels["key"] for labels in page.labels("relay_key_requests_total")} == {"shop"}
    for name in ("relay_queue_seconds_count", "relay_fallbacks_total"):
        assert page.labels(name) == []
    assert "spare" not in page.text
    assert "apology" not in page.text
    assert page.value("relay_stream_end_total", cause="done") == 2


def test_a_reload_keeps_the_numbers_of_what_stays() -> None:
    metrics = configured()
    metrics.observe([streamed()])

    metrics.configure({"chat", "new"}, {"main"}, {"shop", "more"}, 0.8)
    metrics.observe([streamed()])

    page = Page(metrics)
    assert page.value("relay_request_duration_seconds_count", **PAIR) == 2
    assert page.value("relay_time_to_first_token_seconds_count", **PAIR) == 2


def test_another_slow_first_token_starts_only_that_histogram_anew() -> None:
    metrics = configured()
    metrics.observe([streamed()])

    metrics.configure({"chat"}, {"main"}, {"shop"}, 1.7)
    metrics.observe([streamed()])

    page = Page(metrics)
    assert page.value("relay_time_to_first_token_seconds_bucket", le="1.7", **PAIR) == 1
    assert page.value("relay_time_to_first_token_seconds_bucket", le="0.8", **PAIR) is None
    assert page.value("relay_request_duration_seconds_count", **PAIR) == 2
