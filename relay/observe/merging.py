"""Makes one snapshot of those of several processes: what `/metrics` shows where several workers serve.

Counters and histograms add up, and so do gauges. What a dead process had counted stays in a base, so that no counter
goes back because of it. Labels are those of the live configuration, as in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Sequence
from typing import Final

from relay.observe.exposition import Buckets, Labels, Seen, Snapshot
from relay.observe.families import FAMILIES, PROCESS_FAMILIES, Family
from relay.observe.tallies import MAX_KEYS, NO_UPSTREAM, OTHER, STATIC

Values = dict[str, dict[Labels, float]]
Histograms = dict[str, dict[Labels, Buckets]]
_Label = Callable[[Family, Labels], Labels | None]

OF_THE_WHOLE = frozenset(
    {
        "relay_key_limit_ratio",
        "relay_key_expiry_timestamp_seconds",
        "relay_upstream_max_concurrent",
        "relay_model_available",
        "relay_store_up",
        "relay_worker_restarts_total",
        "relay_config_last_reload_successful",
        "relay_config_last_reload_success_timestamp_seconds",
        "relay_slow_first_token_seconds",
        "relay_build_info",
    }
)
"""Known to one process for all: a worker's own number says nothing."""

SEEN_BY_ALL: Final[dict[str, Callable[[float, float], float]]] = {
    "relay_key_limit_ratio": max,
    "relay_store_up": min,
    "relay_model_available": max,
}
"""Where that process does not know, the one who says more, or that it is down, is right. A model is to be had as long
as one worker has somebody: each has breakers of its own, and one that has not asked since an outage knows least."""

_FAMILIES = {family.name: family for family in (*FAMILIES, *PROCESS_FAMILIES)}


class Merging:
    """What dead processes left, and which labels are known. Lives as long as the process that merges."""

    def __init__(self, base: Snapshot | None = None) -> None:
        self._base = base or Snapshot({}, {})
        self._models: frozenset[str] = frozenset()
        self._upstreams: frozenset[str] = frozenset()
        self._keys: Container[str] = ()
        self._shown: set[str] = set()
        """Keys with a label of their own: those seen first."""

    @property
    def base(self) -> Snapshot:
        """To be kept where it outlives this process."""
        return self._base

    def configure(
        self, models: Collection[str], upstreams: Collection[str], keys: Container[str]
    ) -> None:
        """These are the names that labels may have from now on."""
        self._models = frozenset({*models, OTHER})
        self._upstreams = frozenset({*upstreams, OTHER, NO_UPSTREAM, STATIC})
        self._keys = keys
        self._shown = {key for key in self._shown if key in keys}

    def fold(self, last: Snapshot) -> None:
        """A process has died: its counters stay, its gauges go with it."""
        values: Values = {}
        buckets: Histograms = {}
        counters = {name: found for name, found in last.values.items() if _counts(name)}
        for snapshot in (Snapshot(counters, last.buckets), self._base):
            self._add(values, buckets, snapshot, self._known)
        self._base = Snapshot(values, buckets)

    def merge(self, own: Snapshot, live: Sequence[Snapshot]) -> Snapshot:
        """The whole: the numbers of this process, of those that live, and of those that died.

        In any thread, one at a time: a millisecond for some twenty keys.
        """
        values: Values = {}
        buckets: Histograms = {}
        for snapshot in live:
            self._add(values, buckets, snapshot, self._shown_as)
        self._add(values, buckets, self._base, self._shown_as)
        for name, found in own.values.items():
            if name in OF_THE_WHOLE:
                values[name] = self._seen(name, live) if name in SEEN_BY_ALL else {}
                values[name].update(found)
            else:
                _add_values(values.setdefault(name, {}), found.items())
        return Snapshot(values, buckets)

    def _add(
        self,
        values: Values,
        buckets: Histograms,
        snapshot: Snapshot,
        label: _Label,
    ) -> None:
        for name, found in snapshot.values.items():
            if name not in OF_THE_WHOLE:
                named = ((label(_FAMILIES[name], each), value) for each, value in found.items())
                _add_values(
                    values.setdefault(name, {}),
                    ((each, value) for each, value in named if each is not None),
                )
        for name, histograms in snapshot.buckets.items():
            out = buckets.setdefault(name, {})
            for each, histogram in histograms.items():
                labels = label(_FAMILIES[name], each)
                if labels is not None:
                    out[labels] = _sum(out.get(labels), histogram)

    def _seen(self, name: str, live: Iterable[Snapshot]) -> dict[Labels, float]:
        """What the others see of something that is one for all."""
        out: dict[Labels, float] = {}
        pick = SEEN_BY_ALL[name]
        for snapshot in live:
            for labels, value in snapshot.values.get(name, {}).items():
                shown = self._shown_as(_FAMILIES[name], labels)
                if shown is not None:
                    out[shown] = pick(out.get(shown, value), value)
        return out

    def _known(self, family: Family, labels: Labels) -> Labels | None:
        """The labels if a reload has not removed what they name."""
        for name, value in zip(family.labels, labels, strict=True):
            if name in ("model", "to"):
                known = value in self._models
            elif name == "upstream":
                known = value in self._upstreams
            else:
                known = name != "key" or value == OTHER or value in self._keys
            if not known:
                return None
        return labels

    def _shown_as(self, family: Family, labels: Labels) -> Labels | None:
        """As `_known`, with the label `other` for the keys beyond the bound."""
        known = self._known(family, labels)
        if known is None or family.labels[:1] != ("key",):
            return known
        key = labels[0]
        if key in self._shown or key == OTHER:
            return labels
        if len(self._shown) >= MAX_KEYS:
            return (OTHER, *labels[1:])
        self._shown.add(key)
        return labels


def totals(name: str, live: Iterable[Snapshot]) -> dict[Labels, float]:
    """One family of several processes."""
    out: dict[Labels, float] = {}
    for snapshot in live:
        _add_values(out, snapshot.values.get(name, {}).items())
    return out


def _counts(name: str) -> bool:
    return _FAMILIES[name].kind == "counter"


def _add_values(out: dict[Labels, float], found: Iterable[tuple[Labels, float]]) -> None:
    for labels, value in found:
        out[labels] = out.get(labels, 0) + value


def _sum(first: Buckets | None, second: Buckets) -> Buckets:
    """Of two histograms of one series. Where the edges differ (a reload changed them) the first one counts."""
    if first is None:
        return second
    if list(first.edges) != list(second.edges):
        return first
    counts = [a + b for a, b in zip(first.counts, second.counts, strict=True)]
    return Buckets(
        first.edges,
        counts,
        first.total + second.total,
        _latest(first.exemplars, second.exemplars),
    )


def _latest(first: Sequence[Seen | None], second: Sequence[Seen | None]) -> Sequence[Seen | None]:
    if not first or not second:
        return first or second
    return [
        a if b is None or (a is not None and a[1] + a[2] >= b[1] + b[2]) else b
        for a, b in zip(first, second, strict=True)
    ]
