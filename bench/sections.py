"""The parts of the report below the main table: one function each, empty when its case was not measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench import figures
from bench.figures import Sample, Spread
from bench.plot import short

NGINX = "nginx"
RELAY = "relay"
BOTH = (NGINX, RELAY)
MAIN = ("plain", "events", "first_token", "held")

FULL = 0.85
"""A share of a CPU from which on the tools may be what bounds a rate."""
DAGGER = f"† Load and stand-in used {FULL:.0%} of a CPU or more: this rate may be theirs, CPU per call is not."


def cell(value: Spread | None, *, ranged: bool = True, unit: str = "") -> str:
    """The median, with the smallest and largest in brackets."""
    if value is None:
        return "–"
    text = short(value.median) + unit
    if ranged and value.count > 1:
        text += f" ({short(value.low)}–{short(value.high)})"
    return text


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def bounded(samples: Sequence[Sample], case: str, peer: str, point: str = "") -> str:
    """A dagger, if the tools may have bounded a rate."""
    busy = figures.absolute(samples, case, peer, "tools_busy", point)
    return " †" if busy is not None and busy.median >= FULL else ""


def streaming(samples: Sequence[Sample]) -> str:
    """Streamed against unstreamed calls per second."""
    rows = []
    for peer in BOTH:
        for point in figures.points(samples, "streaming"):
            row = _streaming_row(samples, peer, point)
            if row:
                rows.append(row)
    if not rows:
        return ""
    head = ["program", "tokens", "in one piece, calls/s", "streamed, calls/s", "ratio"]
    head += ["in one piece, CPU µs", "streamed, CPU µs", "ratio"]
    return (
        "## Streamed against in one piece\n\n"
        "The same answer from an upstream that is never slow, 32 connections, one CPU: what a call costs when its\n"
        "answer comes token by token, each in an event and a segment of its own. "
        + DAGGER
        + "\n\n"
        + table(head, rows)
    )


def _streaming_row(samples: Sequence[Sample], peer: str, point: str) -> list[str]:
    def measured(figure: str) -> dict[int, float]:
        return figures.values(samples, "streaming", peer, figure, point)

    def median(figure: str) -> str:
        return cell(figures.absolute(samples, "streaming", peer, figure, point), ranged=False)

    if not measured("plain_us"):
        return []
    mark = bounded(samples, "streaming", peer, point)
    return [
        *(peer, point, median("plain_per_s"), median("streamed_per_s") + mark),
        cell(figures.ratio(measured("streamed_per_s"), measured("plain_per_s"))) + mark,
        *(median("plain_us"), median("streamed_us")),
        cell(figures.ratio(measured("streamed_us"), measured("plain_us"))),
    ]


def in_step(samples: Sequence[Sample]) -> str:
    """Events in phase with each other."""
    rows = [
        [
            peer,
            *(
                cell(figures.absolute(samples, case, peer, "us_per_event"))
                for case in ("events", "events_in_step")
            ),
            *(
                cell(figures.against(samples, case, peer, NGINX, "us_per_event"))
                for case in ("events", "events_in_step")
            ),
        ]
        for peer in BOTH
        if peer in figures.peers(samples, "events_in_step")
    ]
    if not rows:
        return ""
    head = [
        "program",
        "spread, CPU µs per event",
        "in step, CPU µs per event",
        "spread × nginx",
        "in step × nginx",
    ]
    return (
        "## Events in step\n\nStreams that started together send together, and one wake-up serves many of them.\n"
        "Users do not do that; many benchmarks do.\n\n" + table(head, rows)
    )


def stalled(samples: Sequence[Sample]) -> str:
    """Clients that never read."""
    rows = []
    for peer in BOTH:
        alone = figures.values(samples, "stalled", peer, "alone_p99_ms")
        beside = figures.values(samples, "stalled", peer, "beside_p99_ms")
        if not alone:
            continue
        kb = figures.absolute(samples, "stalled", peer, "kb_per_stalled")
        rows.append(
            [
                peer,
                cell(figures.spread(list(alone.values()))),
                cell(figures.spread(list(beside.values()))),
                cell(figures.ratio(beside, alone)),
                cell(kb, unit=" KB"),
            ]
        )
    if not rows:
        return ""
    head = [
        "program",
        "p99 alone, ms",
        "p99 beside them, ms",
        "ratio",
        "memory per client that does not read",
    ]
    return (
        "## 500 clients that never read\n\n5,000 events a second in 100 streams, alone and beside 500 clients that\n"
        "asked for 4 MB/s each and read nothing.\n\n" + table(head, rows)
    )


def _growth(case: str, title: str, label: str, note: str) -> Callable[[Sequence[Sample]], str]:
    """A cost over a scale, for the relay and, where it was measured, nginx."""

    def section(samples: Sequence[Sample]) -> str:
        points = figures.points(samples, case)
        measured = [peer for peer in BOTH if peer in figures.peers(samples, case)]
        if not points:
            return ""
        head = [label]
        for peer in measured:
            head += [f"{peer}, CPU µs per call", f"{peer}, × the first"]
        if NGINX in measured:
            head.append("relay × nginx")
        rows = []
        for point in points:
            row = [f"{int(point):,}"]
            for peer in measured:
                here = figures.values(samples, case, peer, "us_per_request", point)
                first = figures.values(samples, case, peer, "us_per_request", points[0])
                row += [cell(figures.spread(list(here.values()))), cell(figures.ratio(here, first))]
            if NGINX in measured:
                row.append(
                    cell(figures.against(samples, case, RELAY, NGINX, "us_per_request", point))
                )
            rows.append(row)
        return f"## {title}\n\n{note}\n\n" + table(head, rows)

    return section


def body_budget(samples: Sequence[Sample]) -> str:
    """What a KB of body costs beyond twice nginx."""
    rows = []
    for point in figures.points(samples, "body"):
        relay, nginx = (
            figures.values(samples, "body", peer, "us_per_request", point)
            for peer in (RELAY, NGINX)
        )
        over = [
            (relay[n] - 2 * nginx[n]) / (int(point) / 1000) for n in relay.keys() & nginx.keys()
        ]
        rows.append([f"{int(point):,}", cell(figures.spread(over))])
    if not rows:
        return ""
    return "### Beyond twice nginx\n\n" + table(["bytes", "CPU µs per KB"], rows)


def keys(samples: Sequence[Sample]) -> str:
    """What many keys cost at start and at a reload."""
    rows = []
    for point in figures.points(samples, "keys"):
        start = figures.absolute(samples, "keys", RELAY, "start_cpu_s", point)
        stall = figures.absolute(samples, "keys", RELAY, "reload_stall_ms", point)
        rows.append([f"{int(point):,}", cell(start), cell(stall)])
    if not rows:
        return ""
    head = ["keys", "CPU until it serves, s", "longest delay of an event while it reloads, ms"]
    return "### Loading and reloading them\n\n" + table(head, rows)


def workers(samples: Sequence[Sample]) -> str:
    """What two workers could serve."""
    points = figures.points(samples, "workers")
    if len(points) < 2:
        return ""
    rows = []
    first = figures.values(samples, "workers", RELAY, "capacity_per_s", points[0])
    for point in points:
        capacity = figures.values(samples, "workers", RELAY, "capacity_per_s", point)
        rows.append(
            [
                point,
                cell(figures.absolute(samples, "workers", RELAY, "us_per_request", point)),
                cell(figures.absolute(samples, "workers", RELAY, "busiest_share", point)),
                cell(figures.spread(list(capacity.values()))),
                cell(figures.ratio(capacity, first)),
            ]
        )
    head = [
        "workers",
        "CPU µs per call",
        "share of the busiest",
        "calls per second of its CPU",
        "× one worker",
    ]
    return (
        "## Workers\n\nBy CPU accounting, since the load needs a CPU, too: the calls served, over the CPU seconds of\n"
        "the worker that used most. It is what they would serve with a CPU each.\n\n"
        + table(head, rows)
    )


def self_check(samples: Sequence[Sample]) -> str:
    """The tools alone."""
    names = {
        "self_calls": "plain calls, saturated",
        "self_flood": "events, saturated",
        "self_events": "10,000 events/s in 200 streams",
    }
    rows = []
    for case, what in names.items():
        found = [
            figures.absolute(samples, case, "tools", figure)
            for figure in ("per_s", "load_us", "standin_us")
        ]
        delays = [
            figures.absolute(samples, case, "tools", f"delay_{name}_ms") for name in ("p50", "p99")
        ]
        if found[0]:
            rows.append(
                [
                    what,
                    *(cell(value) for value in found),
                    " / ".join(cell(value) for value in delays),
                ]
            )
    if not rows:
        return ""
    busy = [
        sample.figures["tools_busy"]
        for sample in samples
        if sample.case in MAIN and "tools_busy" in sample.figures
    ]
    most = (
        f" While programs were measured they used {max(busy):.0%} of a CPU at most." if busy else ""
    )
    head = [
        "load straight at the stand-in",
        "per second",
        "load, CPU µs each",
        "stand-in, CPU µs each",
    ]
    head.append("delay p50 / p99, ms")
    return f"## The tools themselves\n\nNothing in between.{most}\n\n" + table(head, rows)


ALL: tuple[Callable[[Sequence[Sample]], str], ...] = (
    streaming,
    in_step,
    stalled,
    _growth(
        "open_streams",
        "Open streams",
        "open streams",
        "Plain calls beside streams that are open and mostly silent; what those cost by themselves is taken off.",
    ),
    _growth("body", "Length of the body", "bytes", "Plain calls with longer and longer prompts."),
    body_budget,
    _growth(
        "endpoints",
        "Endpoints in the pool",
        "endpoints",
        "Plain calls over pools of more and more endpoints.",
    ),
    _growth("keys", "Keys", "keys", "Plain calls that use all of the keys in turn."),
    keys,
    workers,
    self_check,
)
