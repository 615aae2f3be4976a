"""Upstreams: their state, how attempts end, how fast they are, how full."""

from __future__ import annotations

from deploy.grafana.panels import (
    AMBER,
    JOB,
    MODEL,
    MODELS,
    PAIR,
    UPSTREAM,
    UPSTREAMS,
    Dashboard,
    Panel,
    Query,
    Row,
    quantile,
    rate,
)

ATTEMPTS = "relay_upstream_attempts_total"

HEALTH = Row(
    "Are they well?",
    (
        Panel(
            "timeseries",
            "Endpoints by state",
            "closed: in use. open, half_open: ejected, and tried now and then. paused: asked to be left alone (429). parked: rejects our "
            "key or wants money, and waits for you. Each endpoint counts once per worker.",
            "none",
            (
                Query(
                    f"sum by (upstream, state) (relay_upstream_state{{{UPSTREAM}}}) > 0",
                    "{{upstream}} {{state}}",
                ),
            ),
            stack=True,
            alert="UpstreamDown",
        ),
        Panel(
            "timeseries",
            "Attempts by result",
            "Attempts a second, several for a call that failed over. ok and cancelled are nobody's fault.",
            "reqps",
            (
                Query(
                    rate(f"{ATTEMPTS}{{{UPSTREAM}}}", "upstream, result"), "{{upstream}} {{result}}"
                ),
            ),
            stack=True,
            alert="UpstreamDown",
        ),
        Panel(
            "timeseries",
            "Failed attempts",
            "The part of an upstream's attempts that failed.",
            "percentunit",
            (
                Query(
                    "1 - "
                    + rate(
                        f'{ATTEMPTS}{{{UPSTREAM}, result=~"ok|cancelled|client_error"}}', "upstream"
                    )
                    + " / "
                    + rate(f"{ATTEMPTS}{{{UPSTREAM}}}", "upstream"),
                    "{{upstream}}",
                ),
            ),
            most=1,
            alert="UpstreamDown",
        ),
        Panel(
            "timeseries",
            "Throttled",
            "The part of an upstream's attempts that it answered with 429, and the part of its endpoints that rest after one.",
            "percentunit",
            (
                Query(
                    rate(f'{ATTEMPTS}{{{UPSTREAM}, result="rate_limited"}}', "upstream")
                    + " / "
                    + rate(f"{ATTEMPTS}{{{UPSTREAM}}}", "upstream"),
                    "{{upstream}} refused",
                ),
                Query(
                    f'sum by (upstream) (relay_upstream_state{{{UPSTREAM}, state="paused"}}) '
                    f"/ sum by (upstream) (relay_upstream_state{{{UPSTREAM}}})",
                    "{{upstream}} paused",
                ),
            ),
            steps=((0.1, AMBER),),
            most=1,
            alert="UpstreamThrottled",
        ),
        Panel(
            "timeseries",
            "Broken streams by upstream",
            "Of the answers that an upstream began, the part that broke off. Users see half an answer and an error.",
            "percentunit",
            (
                Query(
                    rate(f'relay_requests_total{{{PAIR}, outcome="stream_truncated"}}', "upstream")
                    + " / "
                    + rate(
                        f'relay_requests_total{{{PAIR}, outcome=~"ok|client_cancelled|stream_truncated"}}',
                        "upstream",
                    ),
                    "{{upstream}}",
                ),
            ),
            steps=((0.02, AMBER),),
            alert="StreamsTruncated",
        ),
        Panel(
            "timeseries",
            "How streams end",
            "Ends a second by cause. done and done_missing are whole answers, client_gone is the client's own doing.",
            "reqps",
            (Query(rate(f"relay_stream_end_total{{{JOB}}}", "cause"), "{{cause}}"),),
            stack=True,
            alert="StreamsTruncated",
        ),
    ),
)

SPEED = Row(
    "How fast are they?",
    (
        Panel(
            "timeseries",
            "First token, p50 and p95",
            "Receipt of a call to its first content, by the upstream that answered. Failed attempts before it are in it.",
            "s",
            (
                Query(
                    quantile(0.5, "relay_time_to_first_token_seconds", PAIR, "upstream"),
                    "{{upstream}} p50",
                ),
                Query(
                    quantile(0.95, "relay_time_to_first_token_seconds", PAIR, "upstream"),
                    "{{upstream}} p95",
                    exemplar=True,
                ),
            ),
            alert="FirstTokenBudgetBurn",
        ),
        Panel(
            "heatmap",
            "First token",
            "How many streams a second got their first token within which time. Two bands are two upstreams, or two kinds of prompts.",
            "s",
            (
                Query(
                    rate(f"relay_time_to_first_token_seconds_bucket{{{PAIR}}}", "le"),
                    "{{le}}",
                    exemplar=True,
                ),
            ),
            alert="FirstTokenBudgetBurn",
        ),
        Panel(
            "timeseries",
            "Whole answer, p95",
            "Receipt of a call to the end of its answer.",
            "s",
            (
                Query(
                    quantile(0.95, "relay_request_duration_seconds", PAIR, "upstream"),
                    "{{upstream}}",
                    exemplar=True,
                ),
            ),
        ),
        Panel(
            "timeseries",
            "Time between events, p50 and p95",
            "How smoothly words come: the time between two events of a stream.",
            "s",
            (
                Query(
                    quantile(0.5, "relay_inter_event_seconds", PAIR, "upstream"), "{{upstream}} p50"
                ),
                Query(
                    quantile(0.95, "relay_inter_event_seconds", PAIR, "upstream"),
                    "{{upstream}} p95",
                ),
            ),
        ),
        Panel(
            "timeseries",
            "Longest silence of a stream, p95",
            "The worst gap of each stream after its first token: what a reader takes for a hang.",
            "s",
            (
                Query(
                    quantile(0.95, "relay_stream_max_gap_seconds", PAIR, "upstream"), "{{upstream}}"
                ),
            ),
            alert="StreamsTruncated",
        ),
        Panel(
            "timeseries",
            "Output tokens a second",
            "What an upstream writes, over all its streams.",
            "si:tok/s",
            (
                Query(
                    rate(f'relay_tokens_total{{{PAIR}, direction="output"}}', "upstream"),
                    "{{upstream}}",
                ),
            ),
        ),
    ),
)

ROOM = Row(
    "Have they room?",
    (
        Panel(
            "timeseries",
            "Places in use",
            "Attempts in progress, of max_concurrent. An upstream without a limit has no line.",
            "percentunit",
            (
                Query(
                    f"sum by (upstream) (relay_upstream_inflight{{{UPSTREAM}}}) "
                    f"/ sum by (upstream) (relay_upstream_max_concurrent{{{UPSTREAM}}})",
                    "{{upstream}}",
                ),
            ),
            steps=((0.9, AMBER),),
            alert="QueueSaturated",
        ),
        Panel(
            "timeseries",
            "Waiting calls",
            "Calls that wait for a place.",
            "none",
            (Query(f"sum by (upstream) (relay_queue_depth{{{UPSTREAM}}})", "{{upstream}}"),),
            alert="QueueSaturated",
        ),
        Panel(
            "timeseries",
            "Wait for a place, p95",
            "Of the calls that had to wait. It is part of their time to first token.",
            "s",
            (Query(quantile(0.95, "relay_queue_seconds", UPSTREAM, "upstream"), "{{upstream}}"),),
            steps=((1.0, AMBER),),
            alert="QueueSaturated",
        ),
    ),
)

SECOND_TRIES = Row(
    "What do second tries bring?",
    (
        Panel(
            "timeseries",
            "Hedges",
            "Second attempts beside a silent first one, a second. won: it answered first. refused: wanted, but the budget or the pool had "
            "none left.",
            "reqps",
            (Query(rate(f"relay_hedges_total{{{JOB}}}", "outcome"), "{{outcome}}"),),
            width=6,
        ),
        Panel(
            "timeseries",
            "Tokens of lost hedges",
            "What hedges that lost have cost: output tokens a second that nobody read.",
            "si:tok/s",
            (
                Query(
                    rate(f"relay_hedge_waste_tokens_total{{{UPSTREAM}}}", "upstream"),
                    "{{upstream}}",
                ),
            ),
            width=6,
        ),
        Panel(
            "timeseries",
            "Resumed streams and other models",
            "Broken streams that another upstream went on with, and calls that a model of the fallback list answered, a second.",
            "reqps",
            (
                Query(rate(f"relay_resumes_total{{{JOB}}}", "outcome"), "resume {{outcome}}"),
                Query(
                    rate(f"relay_fallbacks_total{{{MODEL}}}", "model, to"), "{{model}} to {{to}}"
                ),
            ),
            width=6,
            alert="FallbackServing",
        ),
        Panel(
            "timeseries",
            "Retries not made",
            "Failed calls a second that got no further attempt, because retries had used up their budget.",
            "reqps",
            (Query(rate(f"relay_retry_budget_empty_total{{{MODEL}}}", "model"), "{{model}}"),),
            width=6,
            alert="RetryBudgetEmpty",
        ),
    ),
)

DASHBOARD = Dashboard(
    "relay-upstreams",
    "Relay upstreams",
    "Who answers, how well, how fast, and what happens when one does not.",
    (MODELS, UPSTREAMS),
    (HEALTH, SPEED, ROOM, SECOND_TRIES),
)
