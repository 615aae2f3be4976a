"""Counts ended calls in plain numbers.

Rules that hold here:
- per call there are look-ups and additions: no objects of a metrics library, no lock, no clock;
- a label value is from the configuration or from a closed list, never from a client: what is neither is `other`;
- all writing is done on the event loop; copies are made of whole containers, so that another thread may read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Container, Iterator
from typing import Final

from relay.observe.exposition import Buckets, Labels, Seen
from relay.observe.families import (
    DURATION_EDGES,
    MAX_GAP_EDGES,
    OVERHEAD_EDGES,
    QUEUE_EDGES,
    TTFT_EDGES,
)
from relay.records import CallRecord

OTHER = "other"
NO_UPSTREAM = "none"
STATIC = "static"

MAX_KEYS: Final = 1000
"""Keys that get a label of their own: those seen first. 100,000 would be a million series."""

STEP: Final = 100
"""Histograms, or keys, that are copied without a pause: half a millisecond."""

NANO_DOLLARS: Final = 1_000_000_000
"""A dollar's."""

Pair = tuple[str, str]


class Histogram:
    """Observations of one series by bucket, with the last call of each bucket. Not cumulative."""

    __slots__ = ("counts", "edges", "seen", "total")

    def __init__(self, edges: tuple[float, ...]) -> None:
        self.edges = edges
        self.counts = [0] * (len(edges) + 1)
        self.seen: list[Seen | None] = [None] * (len(edges) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.edges, value)] += 1
        self.total += value

    def add_seen(self, value: float, record: CallRecord) -> None:
        """As `add`, and remembers which call it was."""
        at = bisect_left(self.edges, value)
        self.counts[at] += 1
        self.total += value
        self.seen[at] = (record.request_id, value, record.received)

    def copy(self) -> Buckets:
        return Buckets(self.edges, self.counts.copy(), self.total, self.seen.copy())


class PairTally:
    """The numbers of one (model, upstream). Lives until a reload removes either."""

    __slots__ = ("cached", "cost", "duration", "gap", "overhead", "reasoning", "tokens", "ttft")

    def __init__(self, ttft_edges: tuple[float, ...]) -> None:
        self.duration = Histogram(DURATION_EDGES)
        self.ttft = Histogram(ttft_edges)
        self.gap = Histogram(MAX_GAP_EDGES)
        self.overhead = Histogram(OVERHEAD_EDGES)
        self.tokens: dict[str, list[int]] = {}
        """By source: input, output."""
        self.cached = 0
        self.reasoning = 0
        self.cost = 0
        """Nano-dollars."""

    def add(self, record: CallRecord) -> None:
        self.duration.add_seen(record.duration, record)
        ttft = record.ttft
        if ttft is not None:
            self.ttft.add_seen(ttft, record)
        gap = record.max_gap
        if gap is not None:
            self.gap.add(gap)
        overhead = record.overhead
        if overhead is not None:
            self.overhead.add(overhead)
        usage = record.usage
        if usage is not None:
            tokens = self.tokens.get(usage.source)
            if tokens is None:
                tokens = self.tokens[usage.source] = [0, 0]
            tokens[0] += usage.input
            tokens[1] += usage.output
            self.cached += usage.cached
            self.reasoning += usage.reasoning
            self.cost += record.cost


class KeyTally:
    """The numbers of one key. Lives until a reload removes the key."""

    __slots__ = ("input", "outcomes", "output")

    def __init__(self) -> None:
        self.outcomes: defaultdict[str, int] = defaultdict(int)
        self.input = 0
        self.output = 0


class Tallies:
    """All numbers of this process that follow from its calls, since its start."""

    def __init__(self) -> None:
        self._models: frozenset[str] = frozenset()
        self._upstreams: frozenset[str] = frozenset((NO_UPSTREAM, STATIC))
        self._ttft_edges: tuple[float, ...] = TTFT_EDGES
        self._requests: defaultdict[tuple[str, str, str, str, int], int] = defaultdict(int)
        self._pairs: dict[Pair, PairTally] = {}
        self._keys: dict[str, KeyTally] = {}
        self._attempts: defaultdict[Pair, int] = defaultdict(int)
        self._queues: dict[str, Histogram] = {}
        self._causes: defaultdict[str, int] = defaultdict(int)
        self._refused: defaultdict[str, int] = defaultdict(int)
        self._fallbacks: defaultdict[Pair, int] = defaultdict(int)

    def observe(self, records: list[CallRecord]) -> None:
        models, upstreams, pairs = self._models, self._upstreams, self._pairs
        for record in records:
            model = record.served_model or record.model
            if model is None or model not in models:
                model = OTHER
            upstream = record.upstream
            if upstream not in upstreams:
                upstream = OTHER
            outcome = record.outcome
            self._requests[record.operation, model, upstream, outcome, record.code] += 1
            pair = pairs.get((model, upstream))
            if pair is None:
                pair = pairs[model, upstream] = PairTally(self._ttft_edges)
            pair.add(record)
            key = record.key
            if key is not None:
                tally = self._keys.get(key) or self._key(key)
                tally.outcomes[outcome] += 1
                usage = record.usage
                if usage is not None:
                    tally.input += usage.input
                    tally.output += usage.output
            for attempt in record.attempts:
                self._attempts[attempt.upstream, attempt.result] += 1
            cause = record.cause
            # A plain answer is no stream; only one that broke off is worth counting among them.
            if cause is not None and (record.stream or cause != "done"):
                self._causes[cause] += 1
            if record.reason or record.fallback is not None or record.queue is not None:
                self._observe_rare(record, upstream)

    def _observe_rare(self, record: CallRecord, upstream: str) -> None:
        if record.reason:
            self._refused[record.reason] += 1
        if record.queue is not None:
            # Whoever waited in vain was answered by nobody, and waited for somebody.
            if upstream in (NO_UPSTREAM, STATIC) and record.queued_at in self._upstreams:
                upstream = record.queued_at or upstream
            queue = self._queues.get(upstream)
            if queue is None:
                queue = self._queues[upstream] = Histogram(QUEUE_EDGES)
            queue.add(record.queue)
        if record.fallback is not None:
            self._fallbacks[self._known(record.model), self._known(record.fallback)] += 1

    def _known(self, model: str | None) -> str:
        return model if model is not None and model in self._models else OTHER

    def _key(self, key: str) -> KeyTally:
        """The numbers of a key that has none yet: its own, or the shared ones when there are too many."""
        if len(self._keys) >= MAX_KEYS:
            key = OTHER
        return self._keys.setdefault(key, KeyTally())

    def configure(
        self,
        models: Collection[str],
        upstreams: Collection[str],
        keys: Container[str],
        slow_first_token: float,
    ) -> None:
        """What the configuration no longer names is forgotten; new edges start the TTFT histograms anew."""
        self._models = frozenset(models)
        self._upstreams = frozenset(upstreams) | {NO_UPSTREAM, STATIC}
        self._forget(self._models | {OTHER}, self._upstreams | {OTHER}, keys)
        edges = tuple(sorted({*TTFT_EDGES, slow_first_token}))
        if edges != self._ttft_edges:
            self._ttft_edges = edges
            for tally in self._pairs.values():
                tally.ttft = Histogram(edges)

    def _forget(
        self, models: frozenset[str], upstreams: frozenset[str], keys: Container[str]
    ) -> None:
        """Keeps what is about the names given."""
        requests, pairs, attempts = self._requests, self._pairs, self._attempts
        for call in [c for c in requests if not (c[1] in models and c[2] in upstreams)]:
            del requests[call]
        for pair in [p for p in pairs if not (p[0] in models and p[1] in upstreams)]:
            del pairs[pair]
        for attempt in [a for a in attempts if a[0] not in upstreams]:
            del attempts[attempt]
        for step in [f for f in self._fallbacks if not models.issuperset(f)]:
            del self._fallbacks[step]
        for upstream in [u for u in self._queues if u not in upstreams]:
            del self._queues[upstream]
        for key in [k for k in self._keys if k != OTHER and k not in keys]:
            del self._keys[key]

    # -- asked by a scrape --

    @property
    def keys(self) -> set[str]:
        """Those with a label of their own."""
        return set(self._keys)

    def copy_values(self, out: dict[str, dict[Labels, float]]) -> Iterator[None]:
        """Adds every counter to `out`, by family and labels, with pauses."""
        out["relay_requests_total"] = {
            (operation, model, upstream, outcome, str(code)): count
            for (operation, model, upstream, outcome, code), count in self._requests.copy().items()
        }
        out["relay_stream_end_total"] = {(c,): count for c, count in self._causes.copy().items()}
        out["relay_refused_total"] = {(r,): count for r, count in self._refused.copy().items()}
        out["relay_fallbacks_total"] = {
            step: count for step, count in self._fallbacks.copy().items()
        }
        attempts = out["relay_upstream_attempts_total"] = {}
        for (upstream, result), count in self._attempts.copy().items():
            # Their names are the endpoints', so an old one can come up once more after a reload.
            labels = (upstream if upstream in self._upstreams else OTHER, result)
            attempts[labels] = attempts.get(labels, 0) + count
        yield
        self._copy_tokens(out)
        yield
        yield from self._copy_keys(out)

    def _copy_tokens(self, out: dict[str, dict[Labels, float]]) -> None:
        tokens: dict[Labels, float] = {}
        # A pair that never had a usage says nothing rather than zero.
        paid = {pair: tally for pair, tally in self._pairs.copy().items() if tally.tokens}
        for (model, upstream), tally in paid.items():
            for source, (read, written) in tally.tokens.copy().items():
                tokens[model, upstream, "input", source] = read
                tokens[model, upstream, "output", source] = written
        out["relay_tokens_total"] = tokens
        out["relay_cached_tokens_total"] = {pair: tally.cached for pair, tally in paid.items()}
        out["relay_reasoning_tokens_total"] = {
            pair: tally.reasoning for pair, tally in paid.items()
        }
        out["relay_cost_usd_total"] = {pair: t.cost / NANO_DOLLARS for pair, t in paid.items()}

    def _copy_keys(self, out: dict[str, dict[Labels, float]]) -> Iterator[None]:
        requests: dict[Labels, float] = {}
        tokens: dict[Labels, float] = {}
        for number, (key, tally) in enumerate(self._keys.copy().items(), 1):
            if number % STEP == 0:
                yield
            for outcome, count in tally.outcomes.copy().items():
                requests[key, outcome] = count
            tokens[key, "input"] = tally.input
            tokens[key, "output"] = tally.output
        out["relay_key_requests_total"] = requests
        out["relay_key_tokens_total"] = tokens

    def copy_buckets(self, out: dict[str, dict[Labels, Buckets]]) -> Iterator[None]:
        """Adds every histogram to `out`, by family and labels, with pauses."""
        pairs = self._pairs.copy()
        for name, histograms in (
            ("relay_request_duration_seconds", {p: t.duration for p, t in pairs.items()}),
            ("relay_time_to_first_token_seconds", {p: t.ttft for p, t in pairs.items()}),
            ("relay_stream_max_gap_seconds", {p: t.gap for p, t in pairs.items()}),
            ("relay_overhead_seconds", {p: t.overhead for p, t in pairs.items()}),
        ):
            found: dict[Labels, Buckets] = {}
            for number, (pair, histogram) in enumerate(histograms.items(), 1):
                # Refused and plain calls have none of most: an empty histogram would be 20 lines of zeros.
                if any(histogram.counts):
                    found[pair] = histogram.copy()
                if number % STEP == 0:
                    yield
            out[name] = found
        out["relay_queue_seconds"] = {
            (u,): queue.copy() for u, queue in self._queues.copy().items()
        }
