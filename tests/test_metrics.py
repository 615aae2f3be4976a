"""What a scrape shows beside the calls, and that a page is always whole."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import pytest

from relay.gaps import GapCounts, GapTable
from relay.observe.families import FAMILIES
from relay.observe.metrics import Metrics, Sources
from relay.observe.tallies import MAX_KEYS, Pair
from tests.observed import STARTED, Page, configured, streamed


class Everything(Sources):
    """Sources that answer every question."""

    def __init__(self) -> None:
        self.table = GapTable()

    def inflight_streams(self) -> Iterable[tuple[str, str, int]]:
        return [("chat", "main", 3), ("chat", "spare", 1), ("chat", "main", 2)]

    def gaps(self) -> Iterable[tuple[Pair, GapCounts]]:
        return self.table.items()

    def upstream_states(self) -> Iterable[tuple[str, str, int]]:
        return [("main", "closed", 1), ("main", "closed", 1), ("main", "open", 1)]

    def upstream_inflight(self) -> Iterable[tuple[str, int, int | None]]:
        return [("main", 7, 100), ("spare", 0, None)]

    def models_available(self) -> Iterable[tuple[str, bool]]:
        return [("chat", True), ("apology", False)]

    def queue_depth(self) -> Iterable[tuple[str, int]]:
        return [("main", 4)]

    def key_ratios(self) -> Iterable[tuple[str, str, float]]:
        return [("shop", "rpm", 0.25), ("shop", "usd_per_month", 0.5)]

    def shadow_refusals(self) -> Iterable[tuple[str, str, int]]:
        return [("shop", "rpm", 3)]

    def key_expiries(self) -> Iterable[tuple[str, float]]:
        return [("shop", STARTED)]

    def retry_budget_empty(self) -> Iterable[tuple[str, int]]:
        return [("chat", 5)]

    def hedges(self) -> Iterable[tuple[str, int]]:
        return [("won", 2)]

    def hedge_waste_tokens(self) -> Iterable[tuple[str, int]]:
        return [("spare", 12)]

    def store_up(self) -> Iterable[tuple[str, bool]]:
        return [("sqlite", True), ("redis", False)]

    def store_errors(self) -> Iterable[tuple[str, int]]:
        return [("redis", 9)]

    def log_dropped(self) -> int:
        return 11

    def worker_restarts(self) -> int:
        return 1


class ManyKeys(Sources):
    def __init__(self) -> None:
        self.asked = 0

    def key_ratios(self) -> Iterable[tuple[str, str, float]]:
        for number in range(100_000):
            self.asked += 1
            yield f"key-{number}", "rpm", 0.5

    def key_expiries(self) -> Iterable[tuple[str, float]]:
        return ((f"key-{number}", STARTED) for number in range(100_000))


def names(page: Page) -> set[str]:
    """The families of a page by the names that their samples have."""
    kinds = {"counter": "_total"}
    return {name + kinds.get(family.type, "") for name, family in page.families.items()}


def test_every_family_is_there_before_the_first_call() -> None:
    page = Page(Metrics())

    assert names(page) >= {family.name for family in FAMILIES}
    for family in FAMILIES:
        assert f"# HELP {family.name} {family.help}\n" in page.text


def test_every_sample_has_the_labels_that_its_family_declares() -> None:
    metrics = configured()
    metrics.sources = sources = Everything()
    sources.table.of("chat", "main").add(0.03)
    record = streamed()
    record.reason, record.queue, record.fallback = "queue", 0.1, "apology"
    metrics.observe([streamed(), record])
    metrics.observe_lag(0.001)
    suffix = {"counter": "", "gauge": "", "info": "", "histogram": "_count"}

    page = Page(metrics)

    for family in FAMILIES:
        found = page.labels(family.name + suffix[family.kind])
        assert found, f"{family.name} has no sample"
        assert all(set(labels) == set(family.labels) for labels in found)


def test_the_page_has_nothing_that_is_not_documented() -> None:
    others = names(Page(Metrics())) - {family.name for family in FAMILIES}

    assert others == {
        "process_virtual_memory_bytes",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_max_fds",
        "python_gc_objects_collected_total",
        "python_gc_objects_uncollectable_total",
        "python_gc_collections_total",
    }


def test_the_page_says_which_first_token_is_slow_as_it_is_configured() -> None:
    metrics = configured()

    before = Page(metrics).value("relay_slow_first_token_seconds")
    metrics.configure({"chat"}, {"main"}, {"shop"}, 2.0)
    after = Page(metrics).value("relay_slow_first_token_seconds")

    assert (before, after) == (0.8, 2.0)


def test_numbers_of_one_name_are_added_up() -> None:
    metrics = configured()
    metrics.sources = Everything()

    page = Page(metrics)

    assert page.value("relay_inflight_streams", model="chat", upstream="main") == 5
    assert page.value("relay_upstream_state", upstream="main", state="closed") == 2


def test_a_state_that_no_endpoint_has_is_zero() -> None:
    metrics = configured()
    metrics.sources = Everything()

    page = Page(metrics)

    assert page.value("relay_upstream_state", upstream="main", state="parked") == 0
    assert page.value("relay_upstream_state", upstream="main", state="half_open") == 0


def test_an_upstream_without_a_limit_shows_none() -> None:
    metrics = configured()
    metrics.sources = Everything()

    page = Page(metrics)

    assert page.value("relay_upstream_max_concurrent", upstream="main") == 100
    assert page.value("relay_upstream_max_concurrent", upstream="spare") is None
    assert page.value("relay_upstream_inflight", upstream="spare") == 0


def test_gaps_are_read_from_where_streams_count_them() -> None:
    metrics = configured()
    metrics.sources = sources = Everything()
    gaps = sources.table.of("chat", "main")

    for gap in (0.001, 0.02, 0.02, 99.0):
        gaps.add(gap)

    page = Page(metrics)
    pair = {"model": "chat", "upstream": "main"}
    assert page.value("relay_inter_event_seconds_bucket", le="0.001", **pair) == 1
    assert page.value("relay_inter_event_seconds_bucket", le="10.0", **pair) == 3
    assert page.value("relay_inter_event_seconds_count", **pair) == 4
    assert page.value("relay_inter_event_seconds_sum", **pair) == pytest.approx(99.041)


def test_gauges_of_keys_are_bounded_like_their_counters() -> None:
    metrics = configured()
    metrics.sources = sources = ManyKeys()
    metrics.observe([streamed()])

    page = Page(metrics)

    ratios = {labels["key"] for labels in page.labels("relay_key_limit_ratio")}
    expiries = {labels["key"] for labels in page.labels("relay_key_expiry_timestamp_seconds")}
    assert len(ratios | expiries | {"shop"}) == MAX_KEYS
    assert sources.asked < 10_000


def test_a_failed_reload_keeps_the_time_of_the_last_good_one() -> None:
    metrics = Metrics()
    metrics.reloaded(successful=True, wall=STARTED)

    metrics.reloaded(successful=False, wall=STARTED + 60)

    page = Page(metrics)
    assert page.value("relay_config_last_reload_successful") == 0
    assert page.value("relay_config_last_reload_success_timestamp_seconds") == STARTED


def test_lag_is_a_histogram_of_the_process() -> None:
    metrics = Metrics()

    metrics.observe_lag(0.004)

    page = Page(metrics)
    assert page.value("relay_event_loop_lag_seconds_bucket", le="0.005") == 1
    assert page.value("relay_event_loop_lag_seconds_count") == 1


def test_the_build_is_told() -> None:
    page = Page(Metrics(version="1.2.3"))

    [labels] = page.labels("relay_build_info")
    assert labels["version"] == "1.2.3"


def test_a_snapshot_does_not_change_with_later_calls() -> None:
    metrics = configured()
    metrics.observe([streamed()])
    snapshot = metrics.snapshot()
    before = metrics.page(snapshot, True)

    metrics.observe([streamed(), streamed()])

    mine = [line for line in before.splitlines() if line.startswith(b"relay_")]
    after = metrics.page(snapshot, True)
    assert mine == [line for line in after.splitlines() if line.startswith(b"relay_")]


def test_pages_are_whole_while_calls_are_counted() -> None:
    metrics = configured()
    pages: list[Page] = []
    done = threading.Event()

    def scrape() -> None:
        for _ in range(15):
            pages.append(Page(metrics))
        done.set()

    thread = threading.Thread(target=scrape)
    thread.start()
    number = 0
    while not done.is_set():
        number += 1
        record = streamed()
        record.key, record.code = f"key-{number % 3000}", 200 + number % 300
        metrics.observe([record])
    thread.join()

    counts = [
        sum(
            p.value("relay_requests_total", **labels) or 0
            for labels in p.labels("relay_requests_total")
        )
        for p in pages
    ]
    assert len(pages) == 15
    assert counts == sorted(counts)
