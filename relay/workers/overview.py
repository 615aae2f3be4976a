"""What the admin port shows of several workers: their numbers as one, their health as one.

Implements `admin.Scraped` and `admin.Readiness`; the numbers that belong to the whole (limits, reloads, restarts) are
the hub's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic, time

import msgspec

from relay import __version__
from relay.health import Health
from relay.observe.exposition import Exposition, Processes, Snapshot
from relay.observe.merging import Merging, totals
from relay.observe.metrics import Metrics, Sources
from relay.page.facts import StatusReport, UpstreamStatus
from relay.page.recent import Recent
from relay.page.telling import Telling
from relay.snapshot import Snapshot as Configuration
from relay.state import database
from relay.state.keeper import Keeper
from relay.workers import child
from relay.workers.board import Board
from relay.workers.members import Members
from relay.workers.messages import Count

SCRAPE_WAIT = 0.3
"""Seconds a scrape waits for a worker's numbers; one that is too busy is shown as it was a second ago."""


class Overview(Sources):
    """Lives as long as the hub."""

    def __init__(
        self, members: Members, board: Board, configuration: Configuration, keeper: Keeper
    ) -> None:
        self._members = members
        self._keeper = keeper
        self._board = board
        self._configuration = configuration
        self._started = monotonic()
        kept = board.counted()
        base = None if kept is None else msgspec.msgpack.decode(kept, type=Snapshot)
        self._merging = Merging(base)
        self._exposition = Exposition(Processes(self._pids))
        self._health = Health()
        self._health.phase = "ready"
        self._health.draining = board.is_draining
        self._live: list[Snapshot] = []
        """The workers' numbers for the next page."""
        self._questions = 0
        self.metrics = Metrics(self)
        self.log_lost = 0
        self._recent = Recent(configuration.config.state.path / database.FILE, time())
        members.on_death = self._died
        members.on_told = self._told

    def configure(self, configuration: Configuration) -> None:
        """This configuration is in effect."""
        self._configuration = configuration
        config = configuration.config
        models, upstreams = list(configuration.routes), list(config.upstreams)
        keys = configuration.principals
        target = config.observability.slow_first_token
        self.metrics.configure(models, upstreams, keys, target)
        self._recent.configure(upstreams, target)
        self.metrics.reloaded(successful=True, wall=time())
        self._merging.configure(models, upstreams, keys)

    def reloaded(self, changes: dict[str, list[str]]) -> None:
        """The files were read anew, and are in effect in all processes."""
        self._recent.reloaded(changes, time())

    def reload_failed(self, faults: list[str]) -> None:
        """They were, and cannot be used."""
        wall = time()
        self.metrics.reloaded(successful=False, wall=wall)
        folder = self._configuration.config.path.parent
        self._recent.reload_failed(faults, folder, wall)

    def beat(self) -> None:
        """The hub's loop turns."""
        self._health.beat()

    def _died(self, last: Snapshot) -> None:
        self._merging.fold(last)
        self._board.count(msgspec.msgpack.encode(self._merging.base))

    def _told(self, told: Telling) -> None:
        self._recent.add(told, monotonic(), time())

    def _pids(self) -> list[int]:
        return [*child.own_pids(), *(pid for pid in self._board.pids() if pid)]

    # -- admin.Scraped --

    async def refresh(self) -> None:
        """Asks the workers for their numbers."""
        self._questions += 1
        asked = self._questions
        self._members.tell(Count(asked))

        def all_answered() -> bool:
            return all(member.answered >= asked for member in self._members.present())

        await self._members.until(all_answered, SCRAPE_WAIT)

    async def copied(self) -> Snapshot:
        """The hub's own; the workers' are added to it with the page, which takes tens of milliseconds for many keys."""
        self._live = [member.numbers for member in self._members.present()]
        return await self.metrics.copied()

    def page(self, snapshot: Snapshot, openmetrics: bool) -> bytes:
        return self._exposition.page(self._merging.merge(snapshot, self._live), openmetrics)

    async def status(self) -> StatusReport:
        """The state of things for the status page, as told within the last second."""
        live = [member.numbers for member in self._members.present()]
        config = self._configuration.config
        now, wall = monotonic(), time()
        report = StatusReport(
            __version__,
            now - self._started,
            str(config.path),
            config.digest,
            int(sum(totals("relay_inflight_streams", live).values())),
            self._upstreams(live),
            reload_successful=self.metrics.reload_successful,
            reloaded_at=self.metrics.reloaded_at,
        )
        depths = totals("relay_queue_depth", live).items()
        waiting = {upstream: int(calls) for (upstream,), calls in depths}
        ratios, keys = self._ratios(live), self._configuration.principals
        return await self._recent.complete(report, ratios, keys, waiting, now, wall)

    def _upstreams(self, live: list[Snapshot]) -> list[UpstreamStatus]:
        states: dict[str, dict[str, int]] = {}
        for (upstream, state), count in totals("relay_upstream_state", live).items():
            if count:
                states.setdefault(upstream, {})[state] = int(count)
        inflight = totals("relay_upstream_inflight", live)
        return [
            UpstreamStatus(
                name, states.get(name, {}), int(inflight.get((name,), 0)), self._limit(name)
            )
            for name in self._configuration.endpoints
        ]

    def _ratios(self, live: list[Snapshot]) -> Iterable[tuple[str, str, float]]:
        """Where every worker asks a store of its own accord, the one that saw most is right."""
        if not self._shared:
            return self.key_ratios()
        found: dict[tuple[str, ...], float] = {}
        for snapshot in live:
            for labels, ratio in snapshot.values.get("relay_key_limit_ratio", {}).items():
                found[labels] = max(ratio, found.get(labels, 0.0))
        return [(labels[0], labels[1], ratio) for labels, ratio in found.items()]

    # -- admin.Readiness --

    def livez(self) -> tuple[int, bytes]:
        return self._health.livez()

    def readyz(self) -> tuple[int, bytes]:
        """As one process tells it."""
        reason = self.reason()
        if reason is not None:
            return 503, msgspec.json.encode({"status": "not ready", "reason": reason})
        return 200, msgspec.json.encode({"status": "ready", "degraded": self.degraded()})

    def reason(self) -> str | None:
        """New calls are welcome as long as one worker serves."""
        if not self._board.is_draining() and len(self._members.missing()) == self._board.workers:
            return "starting"
        return self._health.reason() or self._overloaded()

    def _overloaded(self) -> str | None:
        """Nobody takes what is new, as told within the last second."""
        present = self._members.present()
        return "overloaded" if present and all(member.overloaded for member in present) else None

    def degraded(self) -> list[str]:
        limping = {each: None for m in self._members.present() for each in m.degraded}
        full = [f"worker {m.worker} is overloaded" for m in self._members.present() if m.overloaded]
        away = [f"worker {number} is away" for number in self._members.missing()]
        return [*limping, *self._keeper.degraded(), *full, *away]

    # -- metrics.Sources: what belongs to the whole --

    def key_ratios(self) -> Iterable[tuple[str, str, float]]:
        if self._shared:
            return ()
        return self._members.authority.gate.iter_ratios(monotonic(), time())

    def shadow_refusals(self) -> Iterable[tuple[str, str, int]]:
        return [(*which, calls) for which, calls in self._members.authority.gate.shadowed.items()]

    def key_expiries(self) -> Iterable[tuple[str, float]]:
        return self._configuration.principals.expiries()

    def upstream_inflight(self) -> Iterable[tuple[str, int, int | None]]:
        return [(name, 0, self._limit(name)) for name in self._configuration.endpoints]

    def store_up(self) -> Iterable[tuple[str, bool]]:
        kept = self._keeper.store_up()
        return kept if self._shared else [("memory", True), *kept]

    def store_errors(self) -> Iterable[tuple[str, int]]:
        return self._keeper.store_errors()

    @property
    def _shared(self) -> bool:
        """Limits are counted in a store that every worker asks itself: they know."""
        return self._configuration.config.store_address is not None

    def log_dropped(self) -> int:
        return self.log_lost

    def worker_restarts(self) -> int:
        return self._board.restarts

    def _limit(self, upstream: str) -> int | None:
        endpoints = self._configuration.endpoints[upstream]
        return endpoints[0].max_concurrent if endpoints else None
