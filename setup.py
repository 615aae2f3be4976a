"""Builds the wheel; with RELAY_COMPILE=1 the modules a call runs through are compiled to C first, by mypyc.

The sources stay what they are, Python that is typed strictly, and run as they are where nothing is compiled. What the
compiler adds is speed and checks of types at run time (docs/performance.md has the figures). All of them
make one extension, so that calls between them are calls of C.
"""

import os

from setuptools import setup

COMPILED = (
    *("call", "chatbody", "chatedit", "chunked", "gaps", "jsonscan", "pricing", "prompts"),
    *("records", "replies", "sse", "timers", "tracecontext"),
    *(
        "bill",
        "endings",
        "equipment",
        "exchange",
        "opening",
        "passage",
        "proxy",
        "leaving",
        "resumable",
    ),
    *("resume", "routes"),
    *("snapshot", "static", "stream", "waits"),
    *("connection", "heads", "overload", "port", "reception"),
    *("admission/gate", "admission/memory", "admission/principals", "admission/purse"),
    *("admission/windows", "admission/authority", "admission/refusals", "admission/remote"),
    *("admission/asking", "admission/away", "admission/kinds", "admission/letters"),
    *("admission/stakes", "admission/store"),
    *("admission/budgets", "admission/period"),
    *("upstream/account", "upstream/attempt", "upstream/balance", "upstream/breaker"),
    *(
        "upstream/budget",
        "upstream/connections",
        "upstream/directory",
        "upstream/reporting",
        "upstream/encoding",
        "upstream/endpoint",
    ),
    *("upstream/failover", "upstream/percentile", "upstream/queue", "upstream/request"),
    *("upstream/headers", "upstream/plain", "upstream/pool", "upstream/tail"),
    *("upstream/permits", "upstream/shares", "upstream/verdicts", "upstream/wire"),
    *("observe/accesslog", "observe/tallies"),
    *("page/teller", "state/calls"),
)
"""Modules of `relay` that a call passes through. Errors, configuration and the rest of the edges run as they are."""


def extensions() -> list[object]:
    if os.environ.get("RELAY_COMPILE") != "1":
        return []
    from mypyc.build import mypycify

    sources = [f"relay/{name}.py" for name in COMPILED]
    return list(
        mypycify(["--config-file=pyproject.toml", *sources], opt_level="2", debug_level="0")
    )


setup(ext_modules=extensions())
