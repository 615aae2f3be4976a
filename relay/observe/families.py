"""Every metric the relay exports, one line each: name, type, labels, meaning.

The names are a contract with dashboards, rules and `docs/metrics.md` (a test holds the two equal). All of
them are on the page from the first scrape, with or without samples. Labels are bounded: `model` and `upstream` come
from the configuration (else `other`), `key` is on counters and gauges only.
"""

# ruff: noqa: E501  a family is one line

from __future__ import annotations

from typing import Literal, NamedTuple

from relay.gaps import GAP_EDGES

Kind = Literal["counter", "gauge", "histogram", "info"]


class Family(NamedTuple):
    """What is declared of a metric, whether it has samples or not."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str


_PAIR = ("model", "upstream")

FAMILIES: tuple[Family, ...] = (
    Family("relay_requests_total", "counter", ("operation", *_PAIR, "outcome", "code"), "Calls, counted when they end."),
    Family("relay_request_duration_seconds", "histogram", _PAIR, "Receipt of a call to the end of its answer."),
    Family("relay_time_to_first_token_seconds", "histogram", _PAIR, "Receipt of a streamed call to the first event with content, reasoning or a tool call."),
    Family("relay_slow_first_token_seconds", "gauge", (), "`observability.slow_first_token`: a first token later than this counts as slow."),
    Family("relay_inter_event_seconds", "histogram", _PAIR, "Time between two data events of a stream."),
    Family("relay_stream_max_gap_seconds", "histogram", _PAIR, "Longest silence of each stream after its first token."),
    Family("relay_overhead_seconds", "histogram", _PAIR, "Time the relay itself added before the first token."),
    Family("relay_stream_end_total", "counter", ("cause",), "How committed streams ended, and plain answers that broke off."),
    Family("relay_refused_total", "counter", ("reason",), "Calls refused by a limit of their key, the queue, overload or a store that is away."),
    Family("relay_shadow_refusals_total", "counter", ("key", "limit"), "Calls that a limit which only counts would have refused."),
    Family("relay_fallbacks_total", "counter", ("model", "to"), "Calls answered by another model of the fallback list."),
    Family("relay_tokens_total", "counter", (*_PAIR, "direction", "source"), "Tokens of answered calls. Cached and reasoning tokens are contained in them."),
    Family("relay_cached_tokens_total", "counter", _PAIR, "Input tokens that the upstream had in its cache."),
    Family("relay_reasoning_tokens_total", "counter", _PAIR, "Output tokens spent on reasoning."),
    Family("relay_cost_usd_total", "counter", _PAIR, "Cost of the tokens by the configured prices, in US dollars."),
    Family("relay_key_requests_total", "counter", ("key", "outcome"), "Calls of a key, counted when they end."),
    Family("relay_key_tokens_total", "counter", ("key", "direction"), "Tokens of a key."),
    Family("relay_key_limit_ratio", "gauge", ("key", "limit"), "Used part of a limit, of the tighter of key and group."),
    Family("relay_key_expiry_timestamp_seconds", "gauge", ("key",), "When a key expires, Unix time."),
    Family("relay_inflight_streams", "gauge", _PAIR, "Streams that are running."),
    Family("relay_queue_depth", "gauge", ("upstream",), "Calls that wait for a free place at an upstream."),
    Family("relay_queue_seconds", "histogram", ("upstream",), "Time that calls waited in the queue."),
    Family("relay_upstream_attempts_total", "counter", ("upstream", "result"), "Attempts at upstreams, several per call when it failed over."),
    Family("relay_upstream_state", "gauge", ("upstream", "state"), "Endpoints of an upstream in each state."),
    Family("relay_upstream_inflight", "gauge", ("upstream",), "Attempts in progress at an upstream."),
    Family("relay_upstream_max_concurrent", "gauge", ("upstream",), "Attempts allowed at once at an upstream; absent without a limit."),
    Family("relay_model_available", "gauge", ("model",), "1 while an upstream of the model, or of its fallbacks, is in use: not ejected, paused or parked."),
    Family("relay_retry_budget_empty_total", "counter", ("model",), "Retries that were not made because the budget was empty."),
    Family("relay_hedges_total", "counter", ("outcome",), "Hedged attempts."),
    Family("relay_hedge_waste_tokens_total", "counter", ("upstream",), "Tokens of hedges that lost."),
    Family("relay_resumes_total", "counter", ("outcome",), "Streams that broke and were to be continued by another upstream."),
    Family("relay_store_up", "gauge", ("store",), "1 while the quota store answers."),
    Family("relay_store_errors_total", "counter", ("store",), "Failed operations of the quota store."),
    Family("relay_ledger_calls_total", "counter", (), "Calls written to the ledger."),
    Family("relay_ledger_dropped_total", "counter", (), "Calls lost to the ledger because its store was away or too slow."),
    Family("relay_traces_sent_total", "counter", (), "Traced calls whose spans the collector took."),
    Family("relay_traces_dropped_total", "counter", (), "Traced calls whose spans were lost because the collector was away or too slow."),
    Family("relay_event_loop_lag_seconds", "histogram", (), "How late the event loop ran its timer."),
    Family("relay_worker_restarts_total", "counter", (), "Processes that died and were started again."),
    Family("relay_log_dropped_total", "counter", (), "Log lines lost because their sink was blocked or failed."),
    Family("relay_config_last_reload_successful", "gauge", (), "1 if the configuration was last loaded without a fault."),
    Family("relay_config_last_reload_success_timestamp_seconds", "gauge", (), "When the configuration in effect was loaded, Unix time."),
    Family("relay_build_info", "info", ("version", "python"), "Always 1; the labels say what is running."),
)  # fmt: skip

# What every Prometheus client shows of its process, for several processes together.
PROCESS_FAMILIES: tuple[Family, ...] = (
    Family("process_virtual_memory_bytes", "gauge", (), "Virtual memory size in bytes, of all processes."),
    Family("process_resident_memory_bytes", "gauge", (), "Resident memory size in bytes, of all processes; what they share counts in each."),
    Family("process_start_time_seconds", "gauge", (), "Start time of the first process since unix epoch in seconds."),
    Family("process_cpu_seconds_total", "counter", (), "Total user and system CPU time spent in seconds, by all processes."),
    Family("process_open_fds", "gauge", (), "Number of open file descriptors, of all processes."),
    Family("process_max_fds", "gauge", (), "Maximum number of open file descriptors, of all processes."),
    Family("python_gc_objects_collected_total", "counter", ("generation",), "Objects collected during gc, by all workers."),
    Family("python_gc_objects_uncollectable_total", "counter", ("generation",), "Uncollectable objects found during GC, by all workers."),
    Family("python_gc_collections_total", "counter", ("generation",), "Number of times this generation was collected, by all workers."),
)  # fmt: skip

# -- bucket edges: upper bounds in seconds, inclusive --

# OpenTelemetry's `gen_ai.server.time_to_first_token`, and the minute that reasoning models take (Envoy AI Gateway).
# `observability.slow_first_token` is added, so that the threshold of an SLO is an edge.
TTFT_EDGES = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(15.0, 20.0, 30.0, 45.0, 60.0),
)

# OpenTelemetry's `gen_ai.client.operation.duration` tops out at 82 s: too short for long answers.
DURATION_EDGES = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    *(120.0, 180.0, 300.0, 600.0, 900.0),
)

MAX_GAP_EDGES = (*GAP_EDGES, 30.0, 60.0, 120.0)

OVERHEAD_EDGES = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
)

QUEUE_EDGES = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

LAG_EDGES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
