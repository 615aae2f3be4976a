"""The page in both formats: what `promtool` and the reference parsers accept."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from prometheus_client import Metric, generate_latest  # noqa: TID251  writes the reference
from prometheus_client.core import (  # noqa: TID251
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.openmetrics.exposition import (  # noqa: TID251
    generate_latest as openmetrics_latest,
)
from prometheus_client.openmetrics.parser import (  # noqa: TID251  reads pages
    text_string_to_metric_families,
)
from prometheus_client.registry import Collector  # noqa: TID251
from prometheus_client.samples import Exemplar, Sample  # noqa: TID251
from prometheus_client.utils import floatToGoString  # noqa: TID251

from relay.observe.exposition import LONGEST_EXEMPLAR_ID, Buckets, Snapshot, wants_openmetrics
from relay.observe.families import FAMILIES
from relay.observe.metrics import Metrics
from relay.process import SWITCH
from relay.usage import Usage
from tests.observed import STARTED, Page, configured, streamed
from tests.rig import scenario
from tests.rig.deadlines import SCALE

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        (PROMETHEUS, True),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text; Version=1.0.0", True),
        ("application/openmetrics-text;q=0.2, text/plain;q=0.9", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=high", False),
        ("text/plain", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("*/*", False),
        ("", False),
        (",;,=;q", False),
    ],
)
def test_the_format_follows_what_the_scraper_prefers(accept: str, openmetrics: bool) -> None:
    assert wants_openmetrics(accept) is openmetrics


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_to_criticise() -> None:
    metrics = configured()
    metrics.observe([streamed()])

    found = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics.render(), capture_output=True, check=False
    )

    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")


def test_openmetrics_carries_the_request_id_of_a_call() -> None:
    metrics = configured()
    metrics.observe([streamed(7)])

    text = metrics.render(openmetrics=True).decode()

    read = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    families = {family.name: family for family in read}
    for name, value in (
        ("relay_request_duration_seconds", 4.2345),
        ("relay_time_to_first_token_seconds", 0.3),
    ):
        [seen] = [sample.exemplar for sample in families[name].samples if sample.exemplar]
        assert seen.labels == {"request_id": "req-7"}
        assert seen.value == value
        assert float(seen.timestamp or 0) == pytest.approx(STARTED + value, abs=0.001)


def test_an_id_that_is_too_long_for_openmetrics_is_left_out() -> None:
    metrics = configured()
    record = streamed()
    record.request_id = "r" * (LONGEST_EXEMPLAR_ID + 1)

    metrics.observe([record])

    assert b"# {" not in metrics.render(openmetrics=True)


def test_the_text_format_has_no_exemplars_and_no_created_series() -> None:
    metrics = configured()
    metrics.observe([streamed()])

    page = Page(metrics)

    assert "# {" not in page.text
    assert "_created" not in page.text
    assert b"_created" not in metrics.render(openmetrics=True)


def test_labels_of_the_configuration_are_escaped() -> None:
    metrics = configured()
    name = 'odd "name"\n\\ 模型'
    metrics.configure({name}, {"main"}, {"shop"}, 0.8)
    record = streamed()
    record.model = record.served_model = name

    metrics.observe([record])

    page = Page(metrics)
    assert page.value("relay_request_duration_seconds_count", model=name, upstream="main") == 1


# --- our lines beside the library's ---------------------------------------------------------------

ODD = 'a "quoted"\\ 模型\nname'


class Reference(Collector):
    """The same numbers as objects of the library."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        kinds = {
            "counter": CounterMetricFamily,
            "gauge": GaugeMetricFamily,
            "histogram": HistogramMetricFamily,
            "info": InfoMetricFamily,
        }
        for family in FAMILIES:
            metric = kinds[family.kind](family.name.removesuffix("_info"), family.help)
            for labels, value in self._snapshot.values.get(family.name, {}).items():
                told = dict(zip(family.labels, labels, strict=True))
                metric.samples.append(Sample(family.name, told, value))
            for labels, buckets in self._snapshot.buckets.get(family.name, {}).items():
                told = dict(zip(family.labels, labels, strict=True))
                metric.samples += self._histogram(family.name, told, buckets)
            yield metric

    def _histogram(self, name: str, told: dict[str, str], found: Buckets) -> Iterator[Sample]:
        count = 0
        edges = [*map(floatToGoString, found.edges), "+Inf"]
        seen = found.exemplars or [None] * len(edges)
        for edge, add, one in zip(edges, found.counts, seen, strict=True):
            count += add
            example = one and Exemplar({"request_id": one[0]}, one[1], round(one[1] + one[2], 3))
            yield Sample(name + "_bucket", {**told, "le": edge}, count, None, example)
        yield Sample(name + "_count", told, count)
        yield Sample(name + "_sum", told, found.total)


@pytest.mark.parametrize("openmetrics", [False, True])
def test_every_line_is_what_the_reference_library_would_write(openmetrics: bool) -> None:
    metrics = configured()
    metrics.configure({"chat", ODD}, {"main", ODD}, {"shop", ODD}, 0.8)
    odd, dear, queued = streamed(2), streamed(3), streamed(4)
    odd.model = odd.served_model = odd.upstream = odd.key = ODD
    dear.usage = Usage(input=12_345_678_901, output=10**6, cached=999_999, reasoning=1)
    dear.cost, dear.ttft, dear.duration = 10**15 + 1, 61.5, 1234567.5
    queued.queue, queued.reason = 0.002, "queue"
    metrics.observe([streamed(1), odd, dear, queued])
    metrics.observe_lag(1e-7)
    snapshot = metrics.snapshot()
    generate = openmetrics_latest if openmetrics else generate_latest

    page = metrics.page(snapshot, openmetrics).decode()

    want = generate(Reference(snapshot), "allow-utf-8").decode().removesuffix("# EOF\n")
    assert want.count("\n") > 300
    assert page[: len(want)].splitlines() == want.splitlines()
    assert page.endswith("# EOF\n") == openmetrics


LINES = 40_000


def crowded() -> Metrics:
    """As many pairs as make a very long page."""
    metrics = Metrics()
    models, upstreams = [f"model-{n}" for n in range(25)], [f"up-{n}" for n in range(20)]
    metrics.configure(models, upstreams, {"shop"}, 0.8)
    for model in models:
        for upstream in upstreams:
            record = streamed()
            record.model = record.served_model = model
            record.upstream = upstream
            metrics.observe([record])
    return metrics


@scenario
async def test_a_very_long_page_keeps_no_stream_waiting() -> None:
    """The worst gap of a timer of 1 ms while such a page is made; of five, for others use this machine as well."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH)
    loop, metrics = asyncio.get_running_loop(), crowded()
    worst: list[float] = []

    async def scraped() -> bytes:
        return await loop.run_in_executor(None, metrics.page, await metrics.copied(), False)

    try:
        for _ in range(5):
            gaps: list[float] = []
            made = loop.create_task(scraped())
            last = loop.time()
            while not made.done():
                # Yields to the loop; a timer is what a stream waits for, too.
                await asyncio.wait([made], timeout=0.001)
                now = loop.time()
                gaps.append(now - last)
                last = now
            assert (await made).count(b"\n") > LINES
            worst.append(max(gaps))
    finally:
        sys.setswitchinterval(interval)

    assert min(worst) < 0.02 * SCALE, worst
