"""What metrics and the status page read of the running parts, at the moment they ask.

Nothing is counted here: health, load, limits and queues live where they are decided, and this is the view of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic, time

from relay import __version__
from relay.admission.gate import Gate
from relay.admission.remote import RemoteGate
from relay.admission.store import StoreGate
from relay.equipment import Memory
from relay.gaps import GapCounts
from relay.observe.accesslog import AccessLog
from relay.observe.aside import Aside
from relay.observe.metrics import Metrics, Sources
from relay.page.facts import StatusReport, UpstreamStatus
from relay.page.recent import Recent
from relay.page.teller import Teller
from relay.proxy import Proxy
from relay.snapshot import Snapshot
from relay.state import database
from relay.state.keeper import Keeper
from relay.state.ledger import Ledger
from relay.upstream.queue import queue_of


class Seen(Sources):
    """The parts of this process, seen from outside."""

    def __init__(
        self,
        proxy: Proxy,
        gate: Gate,
        memory: Memory,
        access_log: AccessLog,
        ledger: Ledger,
        snapshot: Callable[[], Snapshot],
        log_dropped: Callable[[], int],
        keeper: Keeper,
        metrics: Metrics,
        teller: Teller,
        aside: Aside,
    ) -> None:
        self._proxy = proxy
        self._gate = gate
        self._memory = memory
        self._access_log = access_log
        self._ledger = ledger
        self._snapshot = snapshot
        self._log_dropped = log_dropped
        self._keeper = keeper
        self._metrics = metrics
        self._teller = teller
        self._aside = aside
        self._recent = Recent(snapshot().config.state.path / database.FILE, time())
        self._started = monotonic()
        self.shows = True
        """The page is ours. Where the hub shows it, a worker tells the hub."""

    def follow(self, snapshot: Snapshot) -> None:
        """This configuration is in effect: its names are the ones to show."""
        config = snapshot.config
        models, upstreams = list(snapshot.routes), list(config.upstreams)
        target = config.observability.slow_first_token
        self._access_log.format = config.observability.access_log
        self._ledger.retention = config.state.retention
        self._aside.follow(config)
        self._metrics.configure(models, upstreams, snapshot.principals, target)
        self._metrics.reloaded(successful=True, wall=time())
        self._teller.configure(models, upstreams)
        self._recent.configure(upstreams, target)

    def beat(self) -> None:
        """Some times a second: what has happened belongs to now."""
        if self.shows:
            self._recent.add(self._teller.take(), monotonic(), time())

    def inflight_streams(self) -> Iterable[tuple[str, str, int]]:
        streams = self._proxy.streams
        return [(model, upstream, count) for (model, upstream), count in streams.items()]

    def gaps(self) -> Iterable[tuple[tuple[str, str], GapCounts]]:
        return self._memory.gaps.items()

    def upstream_states(self) -> Iterable[tuple[str, str, int]]:
        now = monotonic()
        return [
            (name, endpoint.state(now), 1)
            for name, endpoints in self._snapshot().endpoints.items()
            for endpoint in endpoints
        ]

    def upstream_inflight(self) -> Iterable[tuple[str, int, int | None]]:
        """Per upstream; the limit is the account's, which several keys of one upstream share."""
        found = []
        for name, endpoints in self._snapshot().endpoints.items():
            limit = endpoints[0].max_concurrent if endpoints else None
            found.append((name, sum(endpoint.inflight for endpoint in endpoints), limit))
        return found

    def models_available(self) -> Iterable[tuple[str, bool]]:
        now = monotonic()
        return [(name, route.available(now)) for name, route in self._snapshot().routes.items()]

    def queue_depth(self) -> Iterable[tuple[str, int]]:
        """By the upstream that opened the queue: an account of several has one."""
        queues = {
            queue
            for endpoints in self._snapshot().endpoints.values()
            for endpoint in endpoints
            if (queue := queue_of(endpoint.account)) is not None
        }
        return [(queue.name, queue.waiting) for queue in queues]

    def key_ratios(self) -> Iterable[tuple[str, str, float]]:
        return self._gate.iter_ratios(monotonic(), time())

    def shadow_refusals(self) -> Iterable[tuple[str, str, int]]:
        return [(*which, calls) for which, calls in self._gate.shadowed.items()]

    def key_expiries(self) -> Iterable[tuple[str, float]]:
        return self._snapshot().principals.expiries()

    def retry_budget_empty(self) -> Iterable[tuple[str, int]]:
        return [(name, memory.budget_empty) for name, memory in self._memory.routes.items()]

    def hedges(self) -> Iterable[tuple[str, int]]:
        return [item for memory in self._memory.routes.values() for item in memory.hedges.items()]

    def hedge_waste_tokens(self) -> Iterable[tuple[str, int]]:
        known = self._snapshot().endpoints
        return [
            (upstream, tokens)
            for memory in self._memory.routes.values()
            for upstream, tokens in memory.waste.items()
            if upstream in known
        ]

    def resumes(self) -> Iterable[tuple[str, int]]:
        return [item for memory in self._memory.routes.values() for item in memory.resumes.items()]

    def store_up(self) -> Iterable[tuple[str, bool]]:
        gate = self._gate
        if isinstance(gate, StoreGate):
            return [("redis", not gate.away)]
        return [("memory", True), *self._keeper.store_up()]

    def store_errors(self) -> Iterable[tuple[str, int]]:
        gate = self._gate
        if isinstance(gate, StoreGate):
            return [("redis", gate.failures)]
        asked = [("memory", gate.failures)] if isinstance(gate, RemoteGate) else []
        return [*asked, *self._keeper.store_errors()]

    def ledger_calls(self) -> tuple[int, int]:
        return self._ledger.recorded, self._ledger.dropped

    def traces(self) -> tuple[int, int]:
        return self._aside.traces

    def reloaded(self, changes: dict[str, list[str]]) -> None:
        """The files were read anew, and are in effect."""
        self._recent.reloaded(changes, time())

    def reload_failed(self, faults: list[str]) -> None:
        """They were, and cannot be used."""
        wall = time()
        self._metrics.reloaded(successful=False, wall=wall)
        self._recent.reload_failed(faults, self._snapshot().config.path.parent, wall)

    async def status(self) -> StatusReport:
        """The state of things for the status page."""
        self.beat()
        snapshot = self._snapshot()
        config = snapshot.config
        now, wall = monotonic(), time()
        states: dict[str, dict[str, int]] = {}
        for upstream, state, count in self.upstream_states():
            found = states.setdefault(upstream, {})
            found[state] = found.get(state, 0) + count
        report = StatusReport(
            __version__,
            now - self._started,
            str(config.path),
            config.digest,
            sum(count for _, _, count in self.inflight_streams()),
            [
                UpstreamStatus(name, states.get(name, {}), inflight, limit)
                for name, inflight, limit in self.upstream_inflight()
            ],
            reload_successful=self._metrics.reload_successful,
            reloaded_at=self._metrics.reloaded_at,
        )
        ratios, waiting = self._gate.iter_ratios(now, wall), dict(self.queue_depth())
        return await self._recent.complete(report, ratios, snapshot.principals, waiting, now, wall)

    def log_dropped(self) -> int:
        return self._access_log.dropped + self._log_dropped()
