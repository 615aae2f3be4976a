"""Keys and cost: who uses how much, who is near a limit, what it costs."""

from __future__ import annotations

from deploy.grafana.panels import (
    AMBER,
    JOB,
    KEY,
    KEYS,
    MODELS,
    PAIR,
    RED,
    UPSTREAMS,
    Dashboard,
    Panel,
    Query,
    Row,
    rate,
)

COST = f"relay_cost_usd_total{{{PAIR}}}"
TOKENS = f"relay_tokens_total{{{PAIR}}}"
INPUT = f'relay_tokens_total{{{PAIR}, direction="input"}}'
OUTPUT = f'relay_tokens_total{{{PAIR}, direction="output"}}'

MONEY = Row(
    "What does it cost?",
    (
        Panel(
            "stat",
            "Cost an hour",
            "At the pace of these minutes, by the configured prices. `relay usage` has the exact sums.",
            "currencyUSD",
            (Query(f"{rate(COST)} * 3600", "US$ an hour"),),
            *(4, 6),
            decimals=2,
        ),
        Panel(
            "stat",
            "Input from the cache",
            "Of the input tokens, the part that the upstream had in its cache, and charged less for.",
            "percentunit",
            (Query(f"{rate(f'relay_cached_tokens_total{{{PAIR}}}')} / {rate(INPUT)}", "cached"),),
            *(4, 6),
        ),
        Panel(
            "stat",
            "Output spent on reasoning",
            "Of the output tokens, the part that no user saw.",
            "percentunit",
            (
                Query(
                    f"{rate(f'relay_reasoning_tokens_total{{{PAIR}}}')} / {rate(OUTPUT)}",
                    "reasoning",
                ),
            ),
            *(4, 6),
        ),
        Panel(
            "timeseries",
            "Cost an hour by model and upstream",
            "By the configured prices; a model without one costs nothing here.",
            "currencyUSD",
            (
                Query(
                    f"{rate(COST, 'model, upstream')} * 3600",
                    "{{model}} at {{upstream}}",
                ),
            ),
            *(12, 6),
            stack=True,
        ),
        Panel(
            "timeseries",
            "Tokens a second",
            "Cached input and reasoning are contained in them.",
            "si:tok/s",
            (Query(rate(TOKENS, "model, direction"), "{{model}} {{direction}}"),),
            width=12,
        ),
        Panel(
            "timeseries",
            "Where token counts come from",
            "reported: by the upstream. continuous: the last report of a broken stream. estimated: by the relay, because none came; much of "
            "that makes bills inexact.",
            "si:tok/s",
            (Query(rate(TOKENS, "source"), "{{source}}"),),
            width=12,
            stack=True,
        ),
    ),
)

WHO = Row(
    "Who uses it?",
    (
        Panel(
            "timeseries",
            "Tokens a second, the ten greatest keys",
            "Input and output together. Keys beyond the first thousand are `other`.",
            "si:tok/s",
            (Query(f"topk(10, {rate(f'relay_key_tokens_total{{{KEY}}}', 'key')})", "{{key}}"),),
            stack=True,
        ),
        Panel(
            "timeseries",
            "Calls a second, the ten greatest keys",
            "All calls of a key, refused ones too.",
            "reqps",
            (Query(f"topk(10, {rate(f'relay_key_requests_total{{{KEY}}}', 'key')})", "{{key}}"),),
            stack=True,
        ),
        Panel(
            "timeseries",
            "Calls of keys that were not ok",
            "client_error is the key's own fault, rate_limited its limit; the others are ours or an upstream's.",
            "reqps",
            (
                Query(
                    rate(f'relay_key_requests_total{{{KEY}, outcome!="ok"}}', "key, outcome"),
                    "{{key}} {{outcome}}",
                ),
            ),
            alert="ErrorBudgetBurn",
        ),
    ),
)

LIMITS = Row(
    "Who is near a limit?",
    (
        Panel(
            "bargauge",
            "Used part of budgets",
            "Limits per day and month, of the tighter of key and group; the twenty nearest to their end.",
            "percentunit",
            (
                Query(
                    "topk(20, max by (key, limit) "
                    f'(relay_key_limit_ratio{{{KEY}, limit=~".+_per_(day|month)"}}))',
                    "{{key}}: {{limit}}",
                ),
            ),
            steps=((0.8, AMBER), (0.9, RED)),
            most=1,
            alert="KeyBudgetNearlySpent",
        ),
        Panel(
            "timeseries",
            "Used part of rates",
            "Calls and tokens of the last minute, calls at once; the ten highest.",
            "percentunit",
            (
                Query(
                    "topk(10, max by (key, limit) "
                    f'(relay_key_limit_ratio{{{KEY}, limit=~"rpm|tpm|concurrent"}}))',
                    "{{key}}: {{limit}}",
                ),
            ),
            steps=((0.9, AMBER),),
        ),
        Panel(
            "timeseries",
            "Refused calls by limit",
            "Calls a second that a limit refused.",
            "reqps",
            (
                Query(
                    rate(
                        f'relay_refused_total{{{JOB}, reason=~"rpm|tpm|concurrent|.+_per_(day|month)|unpriced"}}',
                        "reason",
                    ),
                    "{{reason}}",
                ),
            ),
            stack=True,
        ),
        Panel(
            "timeseries",
            "Would have been refused",
            "Calls a second that limits which only count (shadow: true) would have refused.",
            "reqps",
            (
                Query(
                    rate(f"relay_shadow_refusals_total{{{KEY}}}", "key, limit"),
                    "{{key}}: {{limit}}",
                ),
            ),
            width=12,
        ),
        Panel(
            "table",
            "Keys that expire next",
            "The twenty that expire first, and the time they have left. A negative one has expired.",
            "s",
            (
                Query(
                    "sort(bottomk(20, min by (key) "
                    f"(relay_key_expiry_timestamp_seconds{{{KEY}}} - time())))",
                ),
            ),
            width=12,
            columns=("key",),
            value="time left",
            alert="KeyExpiresSoon",
        ),
    ),
)

DASHBOARD = Dashboard(
    "relay-keys-and-cost",
    "Relay keys and cost",
    "Who uses how much, what it costs, and who is near a limit.",
    (MODELS, UPSTREAMS, KEYS),
    (MONEY, WHO, LIMITS),
)
