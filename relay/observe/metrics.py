"""The metrics of this process: what calls left behind (`tallies`), and what is read elsewhere when Prometheus asks.

`observe`, `snapshot` and `copied` run on the event loop, since the sources are its own; only a page is made in another
thread. A snapshot is plain numbers, so that those of several processes can be added up.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Collection, Container, Iterable, Iterator
from itertools import islice
from typing import Protocol

from relay import __version__
from relay.gaps import GAP_EDGES, GapCounts
from relay.observe.exposition import Buckets, Exposition, Labels, Snapshot
from relay.observe.families import LAG_EDGES
from relay.observe.tallies import MAX_KEYS, STEP, Histogram, Pair, Tallies
from relay.records import CallRecord

UPSTREAM_STATES = ("closed", "open", "half_open", "paused", "parked")
HEDGE_OUTCOMES = ("won", "lost", "failed", "refused")
RESUME_OUTCOMES = ("continued", "failed")

LIMITS_A_KEY = 8
"""The limits a key can have (three rates, five budgets): bounds what a scrape reads."""


Values = dict[str, dict[Labels, float]]
Histograms = dict[str, dict[Labels, Buckets]]
"""By family."""


class Sources(Protocol):
    """What is counted elsewhere, read at each scrape on the event loop.

    Derive from it: a part that does not exist yet keeps its empty answer. A name may come several times, its numbers
    are added up. Totals are since the start of the process and never go back.
    """

    def inflight_streams(self) -> Iterable[tuple[str, str, int]]:
        """(model, upstream, streams)"""
        return ()

    def gaps(self) -> Iterable[tuple[Pair, GapCounts]]:
        """((model, upstream), gaps): `GapTable.items`"""
        return ()

    def upstream_states(self) -> Iterable[tuple[str, str, int]]:
        """(upstream, state, endpoints); states that are left out are 0."""
        return ()

    def upstream_inflight(self) -> Iterable[tuple[str, int, int | None]]:
        """(upstream, attempts, max_concurrent or None)"""
        return ()

    def models_available(self) -> Iterable[tuple[str, bool]]:
        """(model, whether somebody is expected to answer)"""
        return ()

    def queue_depth(self) -> Iterable[tuple[str, int]]:
        """(upstream, calls)"""
        return ()

    def key_ratios(self) -> Iterable[tuple[str, str, float]]:
        """(key, limit, used part), keys in the order of their first use: only the first thousand are read."""
        return ()

    def shadow_refusals(self) -> Iterable[tuple[str, str, int]]:
        """(key, limit, calls)"""
        return ()

    def key_expiries(self) -> Iterable[tuple[str, float]]:
        """(key, Unix time)"""
        return ()

    def retry_budget_empty(self) -> Iterable[tuple[str, int]]:
        """(model, retries that were not made)"""
        return ()

    def hedges(self) -> Iterable[tuple[str, int]]:
        """(won | lost | failed | refused, hedges)"""
        return ()

    def resumes(self) -> Iterable[tuple[str, int]]:
        """(continued | failed, streams)"""
        return ()

    def hedge_waste_tokens(self) -> Iterable[tuple[str, int]]:
        """(upstream, tokens)"""
        return ()

    def store_up(self) -> Iterable[tuple[str, bool]]:
        """(store, whether it answers)"""
        return ()

    def store_errors(self) -> Iterable[tuple[str, int]]:
        """(store, failed operations)"""
        return ()

    def ledger_calls(self) -> tuple[int, int]:
        """Calls written, calls lost."""
        return 0, 0

    def traces(self) -> tuple[int, int]:
        """Traced calls sent, traced calls lost."""
        return 0, 0

    def log_dropped(self) -> int:
        """Lines of both logs."""
        return 0

    def worker_restarts(self) -> int:
        return 0


class Nothing(Sources):
    """The sources of a process that has none."""


class Metrics:
    """All numbers of this process since its start. `observe` is an Observer of records."""

    def __init__(self, sources: Sources | None = None, *, version: str = __version__) -> None:
        self.sources: Sources = sources or Nothing()
        self._version = version
        self._calls = Tallies()
        self._lag = Histogram(LAG_EDGES)
        self.reload_successful = True
        """The configuration was last read without a fault."""
        self.reloaded_at = 0.0
        """When the one in effect was read, Unix time."""
        self._slow_first_token: float | None = None
        self._exposition = Exposition()

    # -- told by the application --

    def observe(self, records: list[CallRecord]) -> None:
        """Counts ended calls, about three microseconds each."""
        self._calls.observe(records)

    def configure(
        self,
        models: Collection[str],
        upstreams: Collection[str],
        keys: Container[str],
        slow_first_token: float,
    ) -> None:
        """A configuration came into effect: these are the names that may become labels from now on.

        `slow_first_token` (seconds) becomes an edge of the TTFT histogram; when it changes, that histogram starts anew.
        """
        self._calls.configure(models, upstreams, keys, slow_first_token)
        self._slow_first_token = slow_first_token

    def reloaded(self, *, successful: bool, wall: float) -> None:
        """The configuration was read, at start or later; `wall` is Unix time."""
        self.reload_successful = successful
        if successful:
            self.reloaded_at = wall

    def observe_lag(self, seconds: float) -> None:
        """How late the loop's timer ran."""
        self._lag.add(seconds)

    # -- asked by a scrape --

    def snapshot(self) -> Snapshot:
        """A copy of every number; under a millisecond for a usual configuration, fifty for a thousand keys."""
        values: Values = {}
        buckets: Histograms = {}
        for _ in self._copy(values, buckets):
            pass
        return Snapshot(values, buckets)

    async def copied(self) -> Snapshot:
        """As `snapshot`, a millisecond at a time: streams go on between. What ends meanwhile is in it, or is not."""
        values: Values = {}
        buckets: Histograms = {}
        for _ in self._copy(values, buckets):
            await asyncio.sleep(0)
        return Snapshot(values, buckets)

    def page(self, snapshot: Snapshot, openmetrics: bool) -> bytes:
        """The page of a snapshot, in any thread: some ten microseconds a line, so not on the loop."""
        return self._exposition.page(snapshot, openmetrics)

    def render(self, openmetrics: bool = False) -> bytes:
        """A page of the numbers as they are now, in one step. From another thread only if the sources allow it."""
        return self.page(self.snapshot(), openmetrics)

    def _copy(self, values: Values, buckets: Histograms) -> Iterator[None]:
        """Fills both, with a pause after each millisecond or less."""
        yield from self._calls.copy_values(values)
        yield from self._calls.copy_buckets(buckets)
        yield from self._read_keys(values)
        yield from self._read_upstreams(values)
        self._read_process(values)
        yield from self._read_gaps(buckets)
        buckets["relay_event_loop_lag_seconds"] = {(): self._lag.copy()}

    def _read_keys(self, out: Values) -> Iterator[None]:
        shown = self._calls.keys
        found: dict[Labels, float] = {}
        ratios = islice(self.sources.key_ratios(), MAX_KEYS * LIMITS_A_KEY)
        for number, (key, limit, ratio) in enumerate(ratios, 1):
            if _admit(key, shown):
                found[key, limit] = ratio
            if number % STEP == 0:
                yield
        out["relay_key_limit_ratio"] = found
        expiries = islice(self.sources.key_expiries(), MAX_KEYS)
        out["relay_key_expiry_timestamp_seconds"] = {
            (key,): at for key, at in expiries if _admit(key, shown)
        }

    def _read_upstreams(self, out: Values) -> Iterator[None]:
        sources = self.sources
        streams = out["relay_inflight_streams"] = {}
        for model, upstream, running in sources.inflight_streams():
            _add(streams, (model, upstream), running)
        yield
        states = out["relay_upstream_state"] = {}
        for upstream, state, endpoints in sources.upstream_states():
            for each in UPSTREAM_STATES:
                _add(states, (upstream, each), 0)
            _add(states, (upstream, state), endpoints)
        yield
        inflight = out["relay_upstream_inflight"] = {}
        allowed = out["relay_upstream_max_concurrent"] = {}
        for upstream, attempts, most in sources.upstream_inflight():
            _add(inflight, (upstream,), attempts)
            if most is not None:
                _add(allowed, (upstream,), most)
        yield
        out["relay_model_available"] = {
            (model,): int(available) for model, available in sources.models_available()
        }
        yield
        out["relay_shadow_refusals_total"] = {
            (key, limit): calls for key, limit, calls in sources.shadow_refusals()
        }
        out["relay_queue_depth"] = _by_name(sources.queue_depth())
        out["relay_retry_budget_empty_total"] = _by_name(sources.retry_budget_empty())
        yield
        out["relay_hedges_total"] = {(outcome,): 0 for outcome in HEDGE_OUTCOMES}
        out["relay_hedges_total"].update(_by_name(sources.hedges()))
        out["relay_resumes_total"] = {(outcome,): 0 for outcome in RESUME_OUTCOMES}
        out["relay_resumes_total"].update(_by_name(sources.resumes()))
        out["relay_hedge_waste_tokens_total"] = _by_name(sources.hedge_waste_tokens())

    def _read_process(self, out: Values) -> None:
        sources = self.sources
        out["relay_store_up"] = {(store,): int(up) for store, up in sources.store_up()}
        out["relay_store_errors_total"] = _by_name(sources.store_errors())
        written, lost = sources.ledger_calls()
        out["relay_ledger_calls_total"] = {(): written}
        out["relay_ledger_dropped_total"] = {(): lost}
        sent, lost = sources.traces()
        out["relay_traces_sent_total"] = {(): sent}
        out["relay_traces_dropped_total"] = {(): lost}
        out["relay_worker_restarts_total"] = {(): sources.worker_restarts()}
        out["relay_log_dropped_total"] = {(): sources.log_dropped()}
        if self._slow_first_token is not None:
            out["relay_slow_first_token_seconds"] = {(): self._slow_first_token}
        out["relay_config_last_reload_successful"] = {(): int(self.reload_successful)}
        out["relay_config_last_reload_success_timestamp_seconds"] = {(): self.reloaded_at}
        out["relay_build_info"] = {(self._version, platform.python_version()): 1}

    def _read_gaps(self, whole: Histograms) -> Iterator[None]:
        out: dict[Labels, Buckets] = {}
        for number, (pair, gaps) in enumerate(tuple(self.sources.gaps()), 1):
            if number % STEP == 0:
                yield
            counts, total = gaps.counts.copy(), gaps.total
            before = out.get(pair)
            if before is not None:
                counts = [a + b for a, b in zip(before.counts, counts, strict=True)]
                total += before.total
            out[pair] = Buckets(GAP_EDGES, counts, total)
        whole["relay_inter_event_seconds"] = out


def _add(out: dict[Labels, float], labels: Labels, value: float) -> None:
    out[labels] = out.get(labels, 0) + value


def _by_name(items: Iterable[tuple[str, float]]) -> dict[Labels, float]:
    out: dict[Labels, float] = {}
    for name, value in items:
        _add(out, (name,), value)
    return out


def _admit(key: str, shown: set[str]) -> bool:
    """Whether a key has a label of its own; one that is new takes a free place."""
    if key not in shown:
        if len(shown) >= MAX_KEYS:
            return False
        shown.add(key)
    return True
