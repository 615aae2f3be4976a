"""What the page remembers (`window`, `spend`), and a whole report made of it and of the state of things now.

One for each process that has an admin port: of one process's own calls, or of all workers'.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from heapq import nlargest
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Final

from relay.page.expiry import Ending, Expiry
from relay.page.facts import (
    FAULTS,
    KEYS,
    NEAR,
    KeyUse,
    Reload,
    StatusReport,
    Totals,
    UpstreamStatus,
)
from relay.page.spend import Spend
from relay.page.sums import later_than, percentile
from relay.page.telling import Telling
from relay.page.window import ALL, WINDOW, Window

RATIOS: Final = 4000
"""Limits that are looked at."""
TURN: Final = 100
"""Of these, what one turn of the event loop looks at: some three microseconds each."""
FILLED: Final = 20
"""Upstreams whose figures are made in one turn: some thirty microseconds each."""
LONGEST_FAULT: Final = 300
"""Characters."""

Use = tuple[str, str, float]
"""Key, limit, used part."""


class Recent:
    """`now` is a clock that only goes forward, `wall` Unix time; both in seconds."""

    def __init__(self, store: Path, wall: float) -> None:
        """`store`: the ledger's file."""
        self._window = Window()
        self._spend = Spend(store, wall)
        self._expiry = Expiry()
        self._target = 0.0
        self._reload: Reload | None = None

    def configure(self, upstreams: Iterable[str], target: float) -> None:
        """A configuration came into effect. `target`: seconds until a first token should be there."""
        self._window.keep(list(upstreams))
        self._target = target

    def add(self, told: Telling, now: float, wall: float) -> None:
        """A process has told what happened there."""
        self._window.add(told, now, wall)
        self._spend.add(told, wall)

    def reloaded(self, changes: dict[str, list[str]], wall: float) -> None:
        """The configuration was read anew, and is in effect."""
        self._reload = Reload(wall, True, changes)

    def reload_failed(self, faults: Sequence[str], folder: Path, wall: float) -> None:
        """It was read anew, and cannot be used. `folder` is the configuration's: told elsewhere, and long."""
        told = [fault.replace(f"{folder}/", "", 1)[:LONGEST_FAULT] for fault in faults[:FAULTS]]
        self._reload = Reload(wall, False, {}, told, len(faults) - len(told))

    async def complete(
        self,
        report: StatusReport,
        ratios: Iterable[Use],
        keys: Ending,
        waiting: Mapping[str, int],
        now: float,
        wall: float,
    ) -> StatusReport:
        """Adds to a report what is remembered, some of it at each turn of the loop. `waiting`: calls by upstream."""
        await self._expiry.look(keys, wall)
        uses = await _gathered(ratios)
        window = self._window
        window.advance(now)
        self._spend.recall(wall)
        for number, upstream in enumerate(report.upstreams, 1):
            self._fill(upstream, wall)
            upstream.waiting = waiting.get(upstream.name, 0)
            if not number % FILLED:
                await asyncio.sleep(0)
        report.at, report.window_seconds, report.ttft_target = wall, WINDOW, self._target
        report.totals = self._totals(wall)
        report.totals.waiting = sum(waiting.values())
        tightest = nlargest(KEYS, uses, key=itemgetter(2))
        report.keys = [KeyUse(key, limit, round(ratio, 4)) for key, limit, ratio in tightest]
        report.keys_near = sum(ratio >= NEAR for _, _, ratio in uses)
        ends = self._expiry.told(wall)
        report.expiring, report.keys_expiring = ends.soon, ends.soon_count
        report.expired, report.keys_expired = ends.past, ends.past_count
        report.reload = self._reload
        report.history = window.history([upstream.name for upstream in report.upstreams])
        report.failures = list(window.failures)[::-1]
        report.refusals = list(window.refusals)[::-1]
        report.served = list(window.served)[::-1]
        report.latest = window.latest[::-1]
        # What is made of it comes in a turn of its own.
        await asyncio.sleep(0)
        return report

    def _fill(self, upstream: UpstreamStatus, wall: float) -> None:
        name = upstream.name
        sums = self._window.sums(name)
        upstream.attempts, upstream.failed = sums.calls, sums.failed
        upstream.throttled = sums.refused
        if name in self._window.errors:
            upstream.last_error, upstream.last_error_at = self._window.errors[name]
        upstream.ttft_p50 = percentile(sums.ttft, 0.5)
        upstream.ttft_p95 = percentile(sums.ttft, 0.95)
        upstream.tokens_per_second = self._window.rates(name)[1]
        upstream.speed = sums.written / sums.writing if sums.writing > 0 else None
        upstream.spend_today = self._spend.today(name, wall)

    def _totals(self, wall: float) -> Totals:
        sums = self._window.sums()
        calls, tokens = self._window.rates()
        return Totals(
            sums.calls,
            sums.failed,
            sums.refused,
            sums.cancelled,
            calls,
            tokens,
            percentile(sums.ttft, 0.5),
            percentile(sums.ttft, 0.95),
            later_than(sums.ttft, self._target),
            0,
            self._spend.today(ALL, wall),
            self._spend.since(wall),
        )


async def _gathered(ratios: Iterable[Use]) -> list[Use]:
    uses: list[Use] = []
    for use in islice(ratios, RATIOS):
        uses.append(use)
        if not len(uses) % TURN:
            await asyncio.sleep(0)
    return uses
