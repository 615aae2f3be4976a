"""The first dashboard: do users notice, which upstream is slow, which key is near its limit.

The three are answered without scrolling; how it came to that is below.
"""

from __future__ import annotations

from deploy.grafana.panels import (
    AMBER,
    JOB,
    KEYS,
    MODEL,
    MODELS,
    PAIR,
    RED,
    SLO,
    SLOW,
    UPSTREAM,
    UPSTREAMS,
    Dashboard,
    Panel,
    Query,
    Row,
    quantile,
    rate,
)

TTFT = "relay_time_to_first_token_seconds"
COUNTED = f'relay_requests_total{{{PAIR}, outcome!~"client_cancelled|client_error|rate_limited"}}'
FAILED = f'relay_requests_total{{{PAIR}, outcome!~"client_cancelled|client_error|rate_limited|ok"}}'
EVENTS = f'relay:slo_events:total{{{PAIR}, slo="first_token"}}'
LATE = f'relay:slo_bad_events:total{{{PAIR}, slo="first_token"}}'

BURN = ((1.0, AMBER), (6.0, RED))
FULL = ((0.8, AMBER), (0.9, RED))

HEAD, BARS = 4, 7
"""Heights with which three rows of answers fit on the first screen."""


NOTICED = Row(
    "Do users notice?",
    (
        Panel(
            "stat",
            "Failed calls",
            "Of all calls that were not the client's own fault, the part that ended without a whole answer. Counted at the "
            "end: a stream that breaks after its 200 is in it.",
            "percentunit",
            (Query(f"({rate(FAILED)} or vector(0)) / {rate(COUNTED)}", "failed"),),
            *(4, HEAD, ((0.005, AMBER), (0.02, RED))),
            alert="ErrorBudgetBurn",
            decimals=2,
        ),
        Panel(
            "stat",
            "Late first tokens",
            "Of all streams, the part whose first token came later than observability.slow_first_token. 5 % may.",
            "percentunit",
            (Query(f"{rate(LATE)} / {rate(EVENTS)}", "late"),),
            *(4, HEAD, ((0.05, AMBER), (0.3, RED))),
            alert="FirstTokenBudgetBurn",
            decimals=1,
        ),
        Panel(
            "stat",
            "Budget burn, one hour",
            "How many times faster than allowed the budget of errors, and that of late first tokens, is used up; the worst "
            "model, which the shares beside it may hide. 1 lasts thirty days, 14.4 pages.",
            "none",
            (Query(f"max by (slo) (job_model:relay_slo_burn:rate1h{{{SLO}}})", "{{slo}}"),),
            *(4, HEAD, BURN),
            alert="ErrorBudgetBurn",
            decimals=1,
        ),
        Panel(
            "stat",
            "First token, p95",
            "Nineteen streams in twenty have their first token within this time.",
            "s",
            (Query(quantile(0.95, TTFT, PAIR), "p95"),),
            *(3, HEAD, SLOW),
            alert="FirstTokenBudgetBurn",
        ),
        Panel(
            "stat",
            "Models nobody can answer",
            "Models of which every upstream, and every fallback's, is ejected, paused or parked. Who asks for one gets an error.",
            "none",
            (
                Query(
                    f"count(max by (job, model) (relay_model_available{{{MODEL}}}) == 0) or vector(0)",
                    "models",
                ),
            ),
            *(3, HEAD, ((1.0, RED),)),
            alert="ModelUnavailable",
        ),
        Panel(
            "stat",
            "Streams now",
            "Answers that are being streamed at this moment.",
            "none",
            (Query(f"sum(relay_inflight_streams{{{PAIR}}})", "streams"),),
            *(3, HEAD),
        ),
        Panel(
            "stat",
            "Firing alerts",
            "Alerts that fire now; the table below has their names.",
            "none",
            (
                Query(
                    'count(ALERTS{alertstate="firing", job=~"$job"}) or vector(0)',
                    "alerts",
                ),
            ),
            *(3, HEAD, ((1.0, RED),)),
        ),
    ),
)

SLOW_UPSTREAM = Row(
    "Which upstream is slow, or fails?",
    (
        Panel(
            "bargauge",
            "First token by upstream, p95",
            "The slowest upstream first. It has the time of the attempts before it, too: read it beside its failures.",
            "s",
            (Query(f"sort_desc({quantile(0.95, TTFT, PAIR, 'upstream')})", "{{upstream}}"),),
            height=BARS,
            steps=SLOW,
            alert="FirstTokenBudgetBurn",
        ),
        Panel(
            "bargauge",
            "Failed attempts by upstream",
            "Of its attempts, the part that failed. Users notice only what no other upstream makes good.",
            "percentunit",
            (
                Query(
                    "sort_desc(1 - "
                    + rate(
                        f'relay_upstream_attempts_total{{{UPSTREAM}, result=~"ok|cancelled|client_error"}}',
                        "upstream",
                    )
                    + " / "
                    + rate(f"relay_upstream_attempts_total{{{UPSTREAM}}}", "upstream")
                    + ")",
                    "{{upstream}}",
                ),
            ),
            height=BARS,
            steps=((0.02, AMBER), (0.2, RED)),
            most=1,
            alert="UpstreamDown",
        ),
        Panel(
            "bargauge",
            "Endpoints out of use",
            "Of an upstream's endpoints, the part that is ejected (open, half_open), asked to be left alone (paused) or waits for "
            "somebody (parked).",
            "percentunit",
            (
                Query(
                    f'sort_desc(sum by (upstream) (relay_upstream_state{{{UPSTREAM}, state!="closed"}}) '
                    f"/ sum by (upstream) (relay_upstream_state{{{UPSTREAM}}}))",
                    "{{upstream}}",
                ),
            ),
            height=BARS,
            steps=((0.01, AMBER), (0.5, RED)),
            most=1,
            alert="UpstreamDown",
        ),
    ),
)

NEAR_LIMIT = Row(
    "Which key is near its limit?",
    (
        Panel(
            "bargauge",
            "Keys nearest to a limit",
            "The used part of each limit, of the tighter of key and group; the ten nearest. At 100 % calls get 429: for rates "
            "within a minute, for budgets until the day or month ends.",
            "percentunit",
            (
                Query(
                    f'topk(10, max by (key, limit) (relay_key_limit_ratio{{{JOB}, key=~"$key"}}))',
                    "{{key}}: {{limit}}",
                ),
            ),
            *(12, BARS),
            steps=FULL,
            most=1,
            alert="KeyBudgetNearlySpent",
        ),
        Panel(
            "table",
            "Firing alerts",
            "What fires now. The runbook has an entry for each.",
            "none",
            (
                Query(
                    "max by (alertname, severity, upstream, model, key, instance) "
                    '(ALERTS{alertstate="firing", job=~"$job"})',
                ),
            ),
            *(12, BARS),
            columns=("alertname", "severity", "upstream", "model", "key", "instance"),
        ),
    ),
)

SINCE = Row(
    "Since when?",
    (
        Panel(
            "timeseries",
            "Calls by outcome",
            "Calls a second, counted when they end. All but ok, client_error, rate_limited and client_cancelled are failures "
            "that users see.",
            "reqps",
            (Query(rate(f"relay_requests_total{{{PAIR}}}", "outcome"), "{{outcome}}"),),
            width=8,
            stack=True,
            alert="ErrorBudgetBurn",
        ),
        Panel(
            "timeseries",
            "Time to first token",
            "From the receipt of a call to the first event with content, failed attempts and queue included. The line `slow` is "
            "observability.slow_first_token. Dots are single calls: their request id is in the access log.",
            "s",
            (
                Query(quantile(0.5, TTFT, PAIR), "p50"),
                Query(quantile(0.95, TTFT, PAIR), "p95", exemplar=True),
                Query(quantile(0.99, TTFT, PAIR), "p99"),
                Query(f"max(relay_slow_first_token_seconds{{{JOB}}})", "slow"),
            ),
            width=8,
            alert="FirstTokenBudgetBurn",
        ),
        Panel(
            "timeseries",
            "Refused calls",
            "Calls a second that were refused, by reason: the name of a limit, or queue, overload, store, unpriced.",
            "reqps",
            (Query(rate(f"relay_refused_total{{{JOB}}}", "reason"), "{{reason}}"),),
            stack=True,
            alert="RelayOverloaded",
        ),
    ),
)

DASHBOARD = Dashboard(
    "relay-overview",
    "Relay overview",
    "Within a minute: do users notice, which upstream is slow, which key is near its limit.",
    (MODELS, UPSTREAMS, KEYS),
    (NOTICED, SLOW_UPSTREAM, NEAR_LIMIT, SINCE),
)
