"""The relay itself: what it adds, what it needs, what it lost."""

from __future__ import annotations

from deploy.grafana.panels import (
    AMBER,
    JOB,
    MODELS,
    PAIR,
    RED,
    UPSTREAMS,
    Dashboard,
    Panel,
    Query,
    Row,
    quantile,
    rate,
)

ADDS = Row(
    "What does it add?",
    (
        Panel(
            "timeseries",
            "Added before the first token",
            "The relay's own part of the time to first token: all but the queue and the upstreams.",
            "s",
            (
                Query(quantile(0.5, "relay_overhead_seconds", PAIR), "p50"),
                Query(quantile(0.99, "relay_overhead_seconds", PAIR), "p99"),
            ),
            steps=((0.05, AMBER),),
            alert="OverheadHigh",
        ),
        Panel(
            "heatmap",
            "Added before the first token, all calls",
            "How many calls a second, by the time the relay added.",
            "s",
            (Query(rate(f"relay_overhead_seconds_bucket{{{PAIR}}}", "le"), "{{le}}"),),
            alert="OverheadHigh",
        ),
        Panel(
            "timeseries",
            "Event loop lag",
            "How late the loop ran its timer. A stall holds up all streams of a process.",
            "s",
            (
                Query(
                    quantile(0.5, "relay_event_loop_lag_seconds", JOB, "instance"),
                    "{{instance}} p50",
                ),
                Query(
                    quantile(0.99, "relay_event_loop_lag_seconds", JOB, "instance"),
                    "{{instance}} p99",
                ),
            ),
            steps=((0.1, AMBER),),
            alert="EventLoopLag",
        ),
    ),
)

NEEDS = Row(
    "What does it need?",
    (
        Panel(
            "timeseries",
            "CPU",
            "CPU seconds a second, of all its processes: 1 is one core.",
            "none",
            (
                Query(
                    f"sum by (instance) (rate(process_cpu_seconds_total{{{JOB}}}[$__rate_interval]))",
                    "{{instance}}",
                ),
            ),
            alert="EventLoopLag",
        ),
        Panel(
            "timeseries",
            "Memory",
            "Resident memory of all its processes; what they share counts in each.",
            "bytes",
            (Query(f"process_resident_memory_bytes{{{JOB}}}", "{{instance}}"),),
        ),
        Panel(
            "timeseries",
            "Open files",
            "The part of the descriptors that is in use.",
            "percentunit",
            (
                Query(
                    f"process_open_fds{{{JOB}}} / process_max_fds{{{JOB}}}",
                    "{{instance}}",
                ),
            ),
            steps=((0.8, AMBER),),
            most=1,
            alert="DescriptorsNearlyUsedUp",
        ),
        Panel(
            "timeseries",
            "Streams and waiting calls",
            "What is under way.",
            "none",
            (
                Query(
                    f"sum by (instance) (relay_inflight_streams{{{PAIR}}})", "{{instance}} streams"
                ),
                Query(f"sum by (instance) (relay_queue_depth{{{JOB}}})", "{{instance}} waiting"),
            ),
        ),
        Panel(
            "timeseries",
            "Refused because the relay is short of something",
            "Calls a second that got 503 server_is_overloaded, or that a store which is away has cost. The log says what is short.",
            "reqps",
            (
                Query(
                    rate(f'relay_refused_total{{{JOB}, reason=~"overload|store|queue"}}', "reason"),
                    "{{reason}}",
                ),
            ),
            alert="RelayOverloaded",
        ),
        Panel(
            "timeseries",
            "Collections of Python's garbage",
            "Collections a second by generation. Generation 2 looks at everything, and stalls the loop meanwhile.",
            "ops",
            (
                Query(
                    rate(f"python_gc_collections_total{{{JOB}}}", "generation"),
                    "generation {{generation}}",
                ),
            ),
            alert="EventLoopLag",
        ),
    ),
)

STATE = Row(
    "Is it whole?",
    (
        Panel(
            "stat",
            "Relays that answer",
            "Instances that Prometheus reaches, of those it knows.",
            "percentunit",
            (Query(f"sum(up{{{JOB}}}) / count(up{{{JOB}}})", "up"),),
            *(4, 6),
            most=1,
            alert="RelayInstanceDown",
        ),
        Panel(
            "stat",
            "Relays that serve an older configuration",
            "Instances whose last reload failed: the file on disk is not the one in effect.",
            "none",
            (Query(f"sum(1 - relay_config_last_reload_successful{{{JOB}}})", "stale"),),
            *(4, 6, ((1.0, RED),)),
            alert="ReloadFailed",
        ),
        Panel(
            "stat",
            "Stores that are away",
            "Quota stores that do not answer, over all instances.",
            "none",
            (Query(f"sum by (store) (1 - relay_store_up{{{JOB}}})", "{{store}}"),),
            *(4, 6, ((1.0, RED),)),
            alert="QuotaStoreDegraded",
        ),
        Panel(
            "table",
            "Relays",
            "What is running, and for how long its configuration has been in effect.",
            "s",
            (
                Query(
                    f"(time() - relay_config_last_reload_success_timestamp_seconds{{{JOB}}}) "
                    "* on (job, instance) group_left (version, python) "
                    f"max by (job, instance, version, python) (relay_build_info{{{JOB}}})",
                ),
            ),
            *(12, 6),
            columns=("job", "instance", "version", "python"),
            value="configuration in effect for",
        ),
        Panel(
            "timeseries",
            "Processes that died",
            "Worker processes started again within the last hour.",
            "none",
            (
                Query(
                    f"sum by (instance) (increase(relay_worker_restarts_total{{{JOB}}}[1h]))",
                    "{{instance}}",
                ),
            ),
            alert="WorkerRestarts",
        ),
        Panel(
            "timeseries",
            "Errors of the quota store",
            "Failed operations a second.",
            "ops",
            (Query(rate(f"relay_store_errors_total{{{JOB}}}", "store"), "{{store}}"),),
            alert="QuotaStoreDegraded",
        ),
        Panel(
            "timeseries",
            "Ledger and log",
            "Calls written to the ledger a second; calls and log lines that were lost should be none.",
            "ops",
            (
                Query(rate(f"relay_ledger_calls_total{{{JOB}}}"), "calls written"),
                Query(rate(f"relay_ledger_dropped_total{{{JOB}}}"), "calls lost"),
                Query(rate(f"relay_log_dropped_total{{{JOB}}}"), "log lines lost"),
            ),
            alert="LedgerDropping",
        ),
        Panel(
            "timeseries",
            "Traces",
            "Traced calls a second; both are zero where no collector is named. Those that were lost should be none.",
            "ops",
            (
                Query(rate(f"relay_traces_sent_total{{{JOB}}}"), "sent"),
                Query(rate(f"relay_traces_dropped_total{{{JOB}}}"), "lost"),
            ),
        ),
    ),
)

DASHBOARD = Dashboard(
    "relay-internals",
    "Relay internals",
    "What the relay itself adds, needs and loses.",
    (MODELS, UPSTREAMS),
    (ADDS, NEEDS, STATE),
)
