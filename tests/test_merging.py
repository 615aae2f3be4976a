"""The numbers of several processes as one: sums, a base for the dead, bounded labels."""

from __future__ import annotations

import os

from relay.observe.exposition import Buckets, Exposition, Labels, Processes, Seen, Snapshot
from relay.observe.merging import Merging
from relay.observe.tallies import MAX_KEYS

REQUESTS = "relay_requests_total"
STREAMS = "relay_inflight_streams"
TTFT = "relay_time_to_first_token_seconds"
KEYS = "relay_key_requests_total"

OK = ("chat_completions", "m", "a", "ok", "200")
PAIR = ("m", "a")
NONE = Snapshot({}, {})


def merging() -> Merging:
    made = Merging()
    made.configure(["m"], ["a"], ["k", "other-key"])
    return made


def numbers(calls: int = 0, streams: int = 0, h: Buckets | None = None) -> Snapshot:
    values: dict[str, dict[Labels, float]] = {REQUESTS: {OK: calls}, STREAMS: {PAIR: streams}}
    return Snapshot(values, {} if h is None else {TTFT: {PAIR: h}})


def buckets(*counts: int, total: float = 0.0, seen: list[Seen | None] | None = None) -> Buckets:
    return Buckets((0.1, 1.0), counts, total, seen or [None] * 3)


def test_counters_and_gauges_add_up() -> None:
    whole = merging().merge(NONE, [numbers(3, 1), numbers(4, 2)])

    assert whole.values[REQUESTS] == {OK: 7}
    assert whole.values[STREAMS] == {PAIR: 3}


def test_histograms_add_up_and_keep_the_latest_exemplar_of_each_bucket() -> None:
    old, new = ("old", 0.5, 10.0), ("new", 0.6, 20.0)
    first = numbers(h=buckets(1, 2, 3, total=4.0, seen=[None, new, old]))
    second = numbers(h=buckets(10, 20, 30, total=40.0, seen=[old, old, None]))

    found = merging().merge(NONE, [first, second]).buckets[TTFT][PAIR]

    assert list(found.counts) == [11, 22, 33]
    assert found.total == 44.0
    assert list(found.exemplars) == [old, new, old]


def test_the_dead_keep_their_counters_and_lose_their_gauges() -> None:
    whole = merging()
    last = numbers(5, 2, h=buckets(1, 0, 0, total=0.05))

    before = whole.merge(NONE, [last, numbers(1)])
    whole.fold(last)
    after = whole.merge(NONE, [numbers(1)])
    whole.fold(numbers(1, 1))
    at_last = whole.merge(NONE, [numbers(0)])

    assert before.values[REQUESTS] == after.values[REQUESTS] == {OK: 6}
    assert before.buckets[TTFT][PAIR].counts == after.buckets[TTFT][PAIR].counts
    assert after.values[STREAMS] == {PAIR: 0}
    assert at_last.values[REQUESTS] == {OK: 6}


def test_the_base_outlives_the_process_that_merges() -> None:
    first = merging()
    first.fold(numbers(5))
    second = Merging(first.base)
    second.configure(["m"], ["a"], [])

    assert second.merge(NONE, [numbers(2)]).values[REQUESTS] == {OK: 7}


def test_what_belongs_to_the_whole_is_told_by_one_process() -> None:
    same: dict[str, dict[Labels, float]] = {
        "relay_build_info": {("1", "3"): 1},
        "relay_slow_first_token_seconds": {(): 0.8},
    }
    own = Snapshot({**same, "relay_log_dropped_total": {(): 2}}, {})
    worker = Snapshot({**same, "relay_log_dropped_total": {(): 3}}, {})

    whole = merging().merge(own, [worker, worker])

    assert {name: whole.values[name] for name in same} == same
    assert whole.values["relay_log_dropped_total"] == {(): 8}


def test_a_model_is_to_be_had_as_long_as_one_worker_has_somebody() -> None:
    name = "relay_model_available"
    # The hub calls nobody, and knows nothing.
    own = Snapshot({name: {}}, {})
    nobody, somebody = (Snapshot({name: {("m",): number}}, {}) for number in (0, 1))
    whole = merging()

    divided = whole.merge(own, [nobody, somebody, nobody])
    agreed = whole.merge(own, [nobody, nobody])

    assert divided.values[name] == {("m",): 1}
    assert agreed.values[name] == {("m",): 0}
    assert whole.merge(own, []).values[name] == {}


def test_a_reload_removes_the_series_of_what_is_gone() -> None:
    whole = merging()
    whole.fold(numbers(5, h=buckets(1, 0, 0)))

    whole.configure(["n"], ["a"], ["k"])
    found = whole.merge(NONE, [numbers(1)])

    assert found.values[REQUESTS] == {}
    assert found.buckets[TTFT] == {}


def test_edges_that_a_reload_has_changed_start_anew() -> None:
    whole = merging()
    whole.fold(numbers(h=buckets(9, 9, 9)))
    new = numbers(h=Buckets((0.1, 0.8, 1.0), [1, 2, 3, 4], 5.0, [None] * 4))

    found = whole.merge(NONE, [new]).buckets[TTFT][PAIR]

    assert list(found.counts) == [1, 2, 3, 4]


def test_keys_beyond_the_bound_share_one_label() -> None:
    names = [f"k{number}" for number in range(MAX_KEYS + 2)]
    whole = Merging()
    whole.configure([], [], names)
    parts = [Snapshot({KEYS: {(name, "ok"): 1}}, {}) for name in names]

    found = whole.merge(NONE, parts).values[KEYS]

    assert len(found) == MAX_KEYS + 1
    assert found["other", "ok"] == 2


def test_the_cpu_time_of_several_processes_never_goes_back() -> None:

    pids = [os.getpid(), os.getppid()]
    processes = Processes(lambda: pids)

    both = processes.values()["process_cpu_seconds_total"][()]
    del pids[1]
    one = processes.values()

    assert one["process_cpu_seconds_total"][()] >= both
    assert one["process_open_fds"][()] > 0


def test_a_page_of_several_processes_has_every_family_of_one() -> None:

    snapshot = Snapshot({"python_gc_collections_total": {("0",): 3}}, {})
    one = Exposition().page(NONE, openmetrics=False)
    several = Exposition(Processes(lambda: [os.getpid()])).page(snapshot, openmetrics=False)

    def families(page: bytes) -> set[bytes]:
        return {line for line in page.splitlines() if line.startswith(b"# TYPE")}

    assert families(several) == families(one)
    assert b'python_gc_collections_total{generation="0"} 3.0' in several
