"""The figures as sections of `docs/faults.md`: one table each, a row per run, and what the target is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tests.faults.figures import greedy, hedging, outage, prefixes, quickest, recovery

Row = dict[str, Any]


class Figure(NamedTuple):
    title: str
    command: str
    run: Callable[[], dict[str, Any]]
    target: str
    columns: tuple[tuple[str, Callable[[Row], Any]], ...]


def _of(name: str) -> Callable[[Row], Any]:
    return lambda row: row[name]


def _scene(row: Row) -> str:
    more = [f"{name} {value}" for name, value in row.get("options", {}).items()]
    return ", ".join((row["fault"], *more))


FIGURES: dict[str, Figure] = {
    "recovery": Figure(
        "One of two upstreams dies, at 50 calls a second",
        "recovery",
        recovery.run,
        f"No error before the first token; the p99 of the time to first token back within two connect timeouts (the "
        f"default is 3 s, here it is {recovery.CONNECT:g} s), with `first_token: {recovery.FIRST_TOKEN:g}s` where "
        f"nothing else is said. Cut are calls that had begun to stream when it was killed.",
        (
            ("Fault", _scene),
            ("Calls while dead", _of("calls_while_dead")),
            ("Errors", _of("errors_before_the_first_token")),
            ("Cut", _of("cut_in_mid_stream")),
            ("Slow", _of("slow_calls")),
            ("p99 back after, s", _of("ttft_p99_back_after_s")),
            ("Traffic back after, s", _of("returned_after_s")),
        ),
    ),
    "outage": Figure(
        "Nobody answers, at 50 calls a second",
        "outage",
        outage.run,
        "Attempts per call at most 1.2 and the floor of the retry budget; told within 10 ms at the p99.",
        (
            ("Upstreams", _of("upstreams")),
            ("Calls", _of("calls")),
            ("Attempts per call", _of("attempts_per_call")),
            ("Told p50, ms", _of("told_p50_ms")),
            ("Told p99, ms", _of("told_p99_ms")),
            ("After the first second p99, ms", _of("told_p99_after_1s_ms")),
        ),
    ),
    "hedging": Figure(
        "One of two upstreams takes 2 s now and then",
        "hedging",
        hedging.run,
        f"p99 of the time to first token at most 1.2 times the hedge's delay ({hedging.AFTER * 1000:g} ms), hedges at "
        f"most their budget ({hedging.BUDGET:.0%} of the calls).",
        (
            ("Slow calls", lambda row: "5 % of one's" if row["slow_calls"] else "none"),
            ("Hedge", lambda row: "yes" if row["hedge"] else "no"),
            ("Calls", _of("calls")),
            ("p50, ms", _of("ttft_p50_ms")),
            ("p95, ms", _of("ttft_p95_ms")),
            ("p99, ms", _of("ttft_p99_ms")),
            ("Hedges, of all", lambda row: f"{row['hedges_share']:.1%}"),
        ),
    ),
    "prefixes": Figure(
        "`prefix`: conversations over four accounts, one of which is throttled for a while",
        "prefixes",
        prefixes.run,
        "At least 95 % of the later turns at an account that holds the conversation's prefix, load within 1.25 of the "
        "mean.",
        (
            ("Turns", lambda row: row["later_turns"] + row["conversations"]),
            ("Later turns", _of("later_turns")),
            ("At an account that holds it", lambda row: f"{row['held_share']:.1%}"),
            ("Most turns ÷ mean", _of("load_of_mean")),
            ("Under way ÷ mean, p95", _of("under_way_of_mean_p95")),
        ),
    ),
    "quickest": Figure(
        "`fastest`: two upstreams of 50 and 200 ms, the first of which is slow for a while",
        "quickest",
        lambda: {"quickest": [quickest.run()["quickest"]]},
        "Most calls go to the quicker one, and return to it.",
        (
            ("Calls", _of("calls")),
            ("Share of the first", lambda row: f"{row['while_quick']['share_of_quick']:.0%}"),
            ("While it is slow", lambda row: f"{row['while_slow']['share_of_quick']:.0%}"),
            ("Later", lambda row: f"{row['later']['share_of_quick']:.0%}"),
            ("Back after, s", _of("back_after_s")),
        ),
    ),
    "greedy": Figure(
        "A key with a thousand waiting calls beside one with a single call at a time",
        "greedy",
        greedy.run,
        "The quiet key waits two service times at most.",
        (
            ("Places", _of("places")),
            ("Waiting", _of("greedy_calls")),
            ("Quiet calls", _of("quiet_calls")),
            ("Wait p50, service times", _of("wait_p50_services")),
            ("Wait at most", _of("wait_max_services")),
        ),
    ),
}


def measured(tell: Callable[[str], None]) -> dict[str, list[Row]]:
    """Runs them all: about twelve minutes."""
    found: dict[str, list[Row]] = {}
    for figure in FIGURES.values():
        tell(f"figure: {figure.title}")
        found |= figure.run()
    return found


def sections(found: dict[str, list[Row]]) -> Iterator[str]:
    yield "## Figures\n\n"
    yield "Real relays, interpreted, on the machine that played the rest; each is a module of "
    yield "`tests/faults/figures/`.\n\n"
    for name, figure in FIGURES.items():
        if name not in found:
            continue
        yield f"### {figure.title}\n\n{figure.target} `python -m tests.faults.figures.{figure.command}`\n\n"
        yield "| " + " | ".join(title for title, _ in figure.columns) + " |\n"
        yield "|" + "---|" * len(figure.columns) + "\n"
        for row in found[name]:
            cells = [read(row) for _, read in figure.columns]
            yield "| " + " | ".join("–" if cell is None else str(cell) for cell in cells) + " |\n"
        yield "\n"
