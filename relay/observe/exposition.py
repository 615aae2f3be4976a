"""Turns plain numbers into a page that Prometheus reads: the one module that knows `prometheus_client`.

A snapshot is made on the event loop and never changes; its page is made in any thread. What the declared families
have no numbers for is on the page too, with its HELP and TYPE.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from time import sleep  # noqa: TID251  in a thread that has all the time
from typing import NamedTuple

from prometheus_client import (  # noqa: TID251  the one importer
    CollectorRegistry,
    GCCollector,
    Metric,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (  # noqa: TID251
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.openmetrics import exposition as openmetrics_text  # noqa: TID251
from prometheus_client.registry import Collector  # noqa: TID251
from prometheus_client.utils import floatToGoString  # noqa: TID251

from relay.observe.families import FAMILIES, PROCESS_FAMILIES, Family

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = openmetrics_text.CONTENT_TYPE_LATEST

BLOCK = 200
"""Lines that are written without a rest: half a millisecond."""
REST = 0.001
"""Seconds. A thread that only computes takes the interpreter back whenever the loop lets go of it, which it does
several times an event: beside one, streams would get behind for as long as the page takes. So it lets go itself, and a
page of 50,000 lines takes twice as long."""

LONGEST_EXEMPLAR_ID = 100
"""Characters; OpenMetrics allows 128 for the whole label set of an exemplar."""

Labels = tuple[str, ...]


Seen = tuple[str, float, float]
"""One observation that stands for its bucket: request id (it leads from a dot in Grafana to the log line), value in
seconds, and the Unix time of the call's receipt."""


class Buckets(NamedTuple):
    """A histogram at one moment; `counts` has one more entry than `edges` and is not cumulative."""

    edges: Sequence[float]
    counts: Sequence[int]
    total: float
    exemplars: Sequence[Seen | None] = ()


class Snapshot(NamedTuple):
    """All numbers of a process at one moment, by family and label values. Nobody writes to it."""

    values: Mapping[str, Mapping[Labels, float]]
    buckets: Mapping[str, Mapping[Labels, Buckets]]


def wants_openmetrics(accept: str) -> bool:
    """Whether an `Accept` header prefers OpenMetrics (which carries exemplars) to the text format."""
    best = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for item in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in item.split(";"))
        if kind in best:
            best[kind] = max(best[kind], _quality(parameters))
    return best["application/openmetrics-text"] > 0 and (
        best["application/openmetrics-text"] >= best["text/plain"]
    )


def _quality(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


class Exposition:
    """Renders pages. Holds the collectors that read the process itself, or several; lives as long as it."""

    def __init__(self, processes: Processes | None = None) -> None:
        """With `processes` a snapshot has the collections of all of them (`gc_values`)."""
        self._processes = processes
        self._process = ProcessCollector(registry=None)
        self._gc = CollectorRegistry()
        GCCollector(self._gc)

    def page(self, snapshot: Snapshot, openmetrics: bool) -> bytes:
        """The whole page. May run in any thread, beside others; of several processes one at a time."""
        processes, families = self._processes, FAMILIES
        others: list[Collector] = [self._process, self._gc]
        if processes is not None:
            snapshot = Snapshot({**snapshot.values, **processes.values()}, snapshot.buckets)
            families, others = (*FAMILIES, *PROCESS_FAMILIES), []
        blocks: list[bytes] = []
        out: list[str] = []
        for lines in _lines(families, snapshot, openmetrics):
            out += lines
            if len(out) >= BLOCK:
                blocks.append("".join(out).encode())
                out.clear()
                sleep(REST)
        blocks.append("".join(out).encode())
        rest = (metric for other in others for metric in other.collect())
        blocks.append(_generate(rest, openmetrics))
        return b"".join(blocks)


class Processes:
    """Reads what the system knows of several processes, as `process_*` of one. In any thread, one at a time."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids
        self._cpu: dict[int, float] = {}
        self._gone = 0.0
        """CPU seconds of those that have ended."""

    def values(self) -> dict[str, dict[Labels, float]]:
        found: dict[str, list[float]] = {}
        cpu: dict[int, float] = {}
        for pid in self._pids():
            # Called at once: it is this turn's process.
            collector = ProcessCollector(pid=lambda: pid, registry=None)  # noqa: B023
            for metric in collector.collect():
                for sample in metric.samples:
                    found.setdefault(sample.name, []).append(sample.value)
                    if sample.name == "process_cpu_seconds_total":
                        cpu[pid] = sample.value
        self._gone += sum(last for pid, last in self._cpu.items() if pid not in cpu)
        self._cpu = cpu
        values: dict[str, dict[Labels, float]] = {
            name: {(): min(each) if name == "process_start_time_seconds" else sum(each)}
            for name, each in found.items()
        }
        values["process_cpu_seconds_total"] = {(): sum(cpu.values()) + self._gone}
        return values


def gc_values() -> dict[str, dict[Labels, float]]:
    """The collections of this process, by `python_gc_*` family and generation."""
    stats = gc.get_stats()
    return {
        f"python_gc_{name}_total": {(str(at),): each[field] for at, each in enumerate(stats)}
        for name, field in (
            ("objects_collected", "collected"),
            ("objects_uncollectable", "uncollectable"),
            ("collections", "collections"),
        )
    }


class _Page(Collector):
    """What `prometheus_client` iterates over."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def _declare(family: Family) -> Metric:
    match family.kind:
        case "counter":
            return CounterMetricFamily(family.name, family.help)
        case "gauge":
            return GaugeMetricFamily(family.name, family.help)
        case "histogram":
            return HistogramMetricFamily(family.name, family.help)
        case "info":
            return InfoMetricFamily(family.name.removesuffix("_info"), family.help)


def _generate(metrics: Iterable[Metric], openmetrics: bool) -> bytes:
    """The library's own page."""
    source = _Page(metrics)
    if openmetrics:
        # Our names are legal everywhere; the default would look at every letter of them again.
        page: bytes = openmetrics_text.generate_latest(  # type: ignore[no-untyped-call]
            source, openmetrics_text.ALLOWUTF8
        )
        return page
    return generate_latest(source, openmetrics_text.ALLOWUTF8)


@cache
def _head(family: Family, openmetrics: bool) -> str:
    """HELP and TYPE."""
    return _generate([_declare(family)], openmetrics).decode().removesuffix("# EOF\n")


# -- lines: texts from the first, for objects by the ten thousand are work for the collector, and that stops all --


def _lines(
    families: Iterable[Family], snapshot: Snapshot, openmetrics: bool
) -> Iterator[list[str]]:
    """Few at a time."""
    for family in families:
        yield [_head(family, openmetrics)]
        if family.kind == "histogram":
            for labels, buckets in snapshot.buckets.get(family.name, {}).items():
                yield _histogram_lines(family, labels, buckets, openmetrics)
        else:
            for labels, value in snapshot.values.get(family.name, {}).items():
                yield [_plain_line(family, labels, value)]


def _plain_line(family: Family, labels: Labels, value: float) -> str:
    told = ",".join(sorted(_pairs(family.labels, labels)))
    shown = f"{{{told}}}" if told else ""
    return f"{family.name}{shown} {_number(value)}\n"


def _histogram_lines(
    family: Family, labels: Labels, buckets: Buckets, exemplars: bool
) -> list[str]:
    name = family.name
    out: list[str] = []
    pairs = sorted(_pairs(family.labels, labels))
    # Labels stand in the order of their names, and `le` is one of them.
    before = "".join(f"{pair}," for pair in pairs if pair < "le=")
    after = "".join(f",{pair}" for pair in pairs if pair > "le=")
    none = (None,) * len(buckets.counts)
    seen = (buckets.exemplars or none) if exemplars else none
    count = 0
    for edge, add, example in zip(_edges(tuple(buckets.edges)), buckets.counts, seen, strict=True):
        count += add
        shown = "" if example is None else _exemplar(example)
        out.append(f'{name}_bucket{{{before}le="{edge}"{after}}} {_number(count)}{shown}\n')
    told = ",".join(pairs)
    common = f"{{{told}}}" if told else ""
    out.append(f"{name}_count{common} {_number(count)}\n")
    out.append(f"{name}_sum{common} {_number(buckets.total)}\n")
    return out


def _pairs(names: Labels, values: Labels) -> list[str]:
    return [f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)]


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


@lru_cache(maxsize=64)
def _edges(edges: tuple[float, ...]) -> list[str]:
    return [*map(_go, edges), "+Inf"]


def _number(value: float) -> str:
    # Nearly all are small and whole.
    return f"{value}.0" if type(value) is int and value < 1_000_000 else _go(value)


def _go(value: float) -> str:
    written: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return written


def _exemplar(seen: Seen) -> str:
    request_id, value, received = seen
    if len(request_id) > LONGEST_EXEMPLAR_ID:
        return ""
    told = _escaped(request_id)
    return f' # {{request_id="{told}"}} {_go(value)} {round(received + value, 3)}'
