"""Figures of how upstreams are judged and shared among: each module has `run() -> dict`, and prints it as JSON.

- recovery: one of two upstreams dies in four ways; what clients see meanwhile, and when it has traffic again.
- outage: nobody answers; how many attempts that costs, and how soon a client is told.
- prefixes: conversations over four accounts, one of which is throttled for a while.
- quickest: two upstreams of different speed, and the quick one is slow for a while.
- hedging: one of two upstreams is slow now and then; what a second attempt makes of it.
- greedy: a key with a thousand waiting calls, and how long another key's calls wait beside it.

A figure comes with its N. What is a promise is asserted in `test_figures` on a smaller N.
"""
