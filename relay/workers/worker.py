"""One worker: the relay of `app`, with a listener of its own, no admin port, and the hub as its authority."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial

import uvloop

from relay import process, reload
from relay.admission.gate import Gate
from relay.admission.remote import RemoteGate
from relay.app import Relay, log_state
from relay.config.model import Config
from relay.observe import logs
from relay.observe.accesslog import AccessLog
from relay.observe.exposition import Snapshot as Numbers
from relay.observe.exposition import gc_values
from relay.observe.linewriter import LineWriter
from relay.page.telling import Telling
from relay.quota.start import store_gate
from relay.snapshot import Snapshot
from relay.upstream.directory import Directory
from relay.upstream.endpoint import PARKED, PAUSED, Endpoint
from relay.upstream.shares import Shares
from relay.workers import child
from relay.workers.messages import Judged, Serving
from relay.workers.seat import Seat
from relay.workers.uplink import Uplink

log = logs.get("worker")


class Worker(Relay):
    """One of several relay processes. Implements `uplink.Subject`."""

    def __init__(
        self,
        seat: Seat,
        config: Config,
        access_log: AccessLog,
        log_dropped: Callable[[], int],
    ) -> None:
        super().__init__(
            config,
            access_log,
            log_dropped,
            human=False,
            demo_key=seat.demo_key,
            workers=seat.board.workers,
        )
        self._seat = seat
        self._health.draining = seat.board.is_draining
        self._seen.shows = False
        self._shares = self._proxy.shares = Shares()
        self._next: reload.Prepared | None = None
        """Prepared, and not in effect yet."""
        self._admitted = asyncio.Event()
        self.serving = False
        gate = self._gate
        if not isinstance(gate, RemoteGate):
            # Its limits are counted in a store, the hub is not asked.
            gate = RemoteGate(self._snapshot.principals, config.groups)
        self._uplink = Uplink(seat.worker, seat.link.getsockname(), gate, self._shares, self)

    def _make_directory(self) -> Directory:
        return Directory(listener=self._log_state, shared_out=True)

    def _make_gate(self, snapshot: Snapshot) -> Gate:
        principals, config = snapshot.principals, snapshot.config
        shared = store_gate(config, principals, self._memory.workers)
        return shared or RemoteGate(principals, config.groups)

    @property
    def digest(self) -> str:
        return self._config.digest

    # -- the life of the process, where it differs --

    async def _listen(self) -> None:
        await self._uplink.start()
        await self._admitted.wait()
        await self._store.start()
        await self._front_runner.setup()
        await self._open(self._seat.listeners)
        self._health.phase = "ready"
        self.serving = True
        self._uplink.say(Serving())
        process.settle_memory()

    def _watch_signals(self) -> None:
        self._loop.add_signal_handler(child.DRAIN, self._stop)
        self._loop.add_signal_handler(child.STOP, self._stop_at_once)
        child.listen_to_orders()

    def _stop_at_once(self) -> None:
        self._stop_now.set()
        self._stopping.set()

    async def _close(self) -> None:
        self._pace.hurry()
        await super()._close()
        await self._uplink.close()

    def _apply(self, snapshot: Snapshot) -> Callable[[reload.Breathe], None]:
        over = super()._apply(snapshot)
        self._shares.configure([e for group in snapshot.endpoints.values() for e in group])
        return over

    # -- what the hub says --

    async def welcomed(self, source: bytes | None) -> None:
        if source is not None:
            await self.prepare(source)
            await self.commit()()
        self._admitted.set()

    async def prepare(self, source: bytes) -> tuple[str, list[str]]:
        made = await asyncio.to_thread(reload.prepare, self._config, os.environ, self._pace, source)
        if isinstance(made, list):
            return "", made
        self._next = made
        return made.config.digest, []

    def commit(self) -> Callable[[], Awaitable[None]]:
        made, self._next = self._next, None
        if made is None:
            return partial(asyncio.sleep, 0)
        snapshot = Snapshot(made.config, self._memory, self._demo, made.principals)
        return partial(asyncio.to_thread, self._apply(snapshot), self._pace)

    async def abandon(self) -> None:
        made, self._next = self._next, None
        if made is not None:
            await asyncio.to_thread(
                reload.let_go, made.principals, made.config.filed, {}, self._pace
            )

    def told(self) -> Telling:
        return self._teller.take()

    async def counted(self) -> tuple[Numbers, list[str], bool]:
        self._batch.flush()
        values, buckets = await self._metrics.copied()
        numbers = Numbers({**values, **gc_values()}, buckets)
        return numbers, self._degraded(), self._watch.is_unready()

    def judged(self, note: Judged) -> None:
        """What one worker was told by an upstream holds for all."""
        endpoints = [e for group in self._snapshot.endpoints.values() for e in group]
        accounts = {endpoint.account.name: endpoint.account for endpoint in endpoints}
        for name, model, end in note.pauses:
            if name in accounts:
                account = accounts[name]
                account.paused[model] = max(end, account.paused.get(model, 0.0))
                account.survey()
        for name, end in note.accounts:
            if name in accounts:
                account = accounts[name]
                account.park.until = max(end, account.park.until)
                account.survey()
        ends = dict(note.credentials)
        for endpoint in endpoints:
            if endpoint.seed in ends:
                endpoint.learn_park(ends[endpoint.seed])

    def _log_state(self, endpoint: Endpoint, state: str, reason: str) -> None:
        log_state(endpoint, state, reason)
        account = endpoint.account
        now = self._loop.time()
        note = Judged()
        if state == PAUSED:
            note.pauses = [(account.name, m, end) for m, end in account.paused.items() if end > now]
        elif state == PARKED:
            if account.park.until > now:
                note.accounts = [(account.name, account.park.until)]
            if endpoint.park.until > now:
                note.credentials = [(endpoint.seed, endpoint.park.until)]
        else:
            return
        self._uplink.say(note)


def run(config: Config, seat: Seat) -> int:
    """A worker's process. Returns its exit code."""
    streams = logs.setup(human=seat.human, origin={"worker": seat.worker})
    try:
        config = seat.config(config)
        access_log = AccessLog(LineWriter(1), config.observability.access_log)
        uvloop.run(_serve(config, seat, access_log, lambda: streams.dropped))
    except BaseException as error:
        log.crash("worker_failed", error)
        return 1
    finally:
        streams.close()
    return 0


async def _serve(
    config: Config, seat: Seat, access_log: AccessLog, log_dropped: Callable[[], int]
) -> None:
    await Worker(seat, config, access_log, log_dropped).run()
