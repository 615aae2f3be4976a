"""Turns plain numbers into a page that Prometheus reads: the one module that knows `prometheus_client`.

A snapshot is made on the event loop and never changes; its page is made in any thread. What the declared families
have no numbers for is on the page too, with its HELP and TYPE.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from prometheus_client.samples import Exemplar, Sample  # noqa: TID251
from prometheus_client.utils import floatToGoString  # noqa: TID251

from relay.observe.families import FAMILIES, PROCESS_FAMILIES, Family

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = openmetrics_text.CONTENT_TYPE_LATEST

LONGEST_EXEMPLAR_ID = 100
"""Characters; OpenMetrics allows 128 for the whole label set of an exemplar."""

Labels = tuple[str, ...]


class Seen(NamedTuple):
    """One observation that stands for its bucket: the request id leads from a dot in Grafana to the log line."""

    request_id: str
    value: float
    at: float
    """Unix time."""


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
        processes = self._processes
        if processes is not None:
            snapshot = Snapshot({**snapshot.values, **processes.values()}, snapshot.buckets)
            source = _Page(snapshot, (*FAMILIES, *PROCESS_FAMILIES), [])
        else:
            source = _Page(snapshot, FAMILIES, [self._process, self._gc])
        if openmetrics:
            # Our names are legal everywhere; the default would look at every letter of them again.
            page: bytes = openmetrics_text.generate_latest(  # type: ignore[no-untyped-call]
                source, openmetrics_text.ALLOWUTF8
            )
            return page
        return generate_latest(source, openmetrics_text.ALLOWUTF8)


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
    """One scrape: what `prometheus_client` iterates over."""

    def __init__(
        self, snapshot: Snapshot, families: Sequence[Family], others: Sequence[Collector]
    ) -> None:
        self._snapshot = snapshot
        self._families = families
        self._others = others

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        for family in self._families:
            metric = _declare(family)
            if family.kind == "histogram":
                for labels, buckets in snapshot.buckets.get(family.name, {}).items():
                    metric.samples += _histogram(family, labels, buckets)
            else:
                metric.samples += [
                    Sample(family.name, dict(zip(family.labels, labels, strict=True)), value)
                    for labels, value in snapshot.values.get(family.name, {}).items()
                ]
            yield metric
        for other in self._others:
            yield from other.collect()


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


def _histogram(family: Family, labels: Labels, buckets: Buckets) -> list[Sample]:
    name = family.name + "_bucket"
    common = dict(zip(family.labels, labels, strict=True))
    samples: list[Sample] = []
    count = 0
    seen = buckets.exemplars or (None,) * len(buckets.counts)
    edges = [*map(floatToGoString, buckets.edges), "+Inf"]
    for edge, add, example in zip(edges, buckets.counts, seen, strict=True):
        count += add
        samples.append(Sample(name, {**common, "le": edge}, count, None, _exemplar(example)))
    samples.append(Sample(family.name + "_count", common, count))
    samples.append(Sample(family.name + "_sum", common, buckets.total))
    return samples


def _exemplar(seen: Seen | None) -> Exemplar | None:
    if seen is None or len(seen.request_id) > LONGEST_EXEMPLAR_ID:
        return None
    return Exemplar({"request_id": seen.request_id}, seen.value, round(seen.at, 3))
