"""The hub: what must hold for all workers is decided here, and the admin port speaks for the whole.

It has no clients, so that it is never busy with streams. If it dies, the parent starts the next one, and the workers
tell that one what they hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

import uvloop
from aiohttp import web

from relay import admin, banner, process, reload
from relay.admission.authority import Authority
from relay.admission.budgets import Budgets
from relay.admission.principals import Principals
from relay.config.model import Config
from relay.equipment import Demo, Memory
from relay.following import Following, Still
from relay.health import BEAT
from relay.observe import logs
from relay.snapshot import Snapshot
from relay.state.keeper import Keeper
from relay.timers import TICK
from relay.upstream.directory import Directory
from relay.upstream.shares import limits_of
from relay.workers import child
from relay.workers.members import Members
from relay.workers.overview import Overview
from relay.workers.reloading import Reloading
from relay.workers.seat import Seat

log = logs.get("hub")

HUB: Final = -1
"""Its number among the workers'."""
NO_PORT: Final = 1
"""The demo's, as far as the hub is concerned: it calls nobody."""


class Hub:
    """The parts of the hub's process. Implements `reloading.Subject`."""

    def __init__(self, seat: Seat, config: Config, log_dropped: Callable[[], int]) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._seat = seat
        self._log_dropped = log_dropped
        self._memory = Memory(loop, Directory(), process.log_bug)
        self._demo = Demo(NO_PORT, "", seat.demo_key)
        self._snapshot = snapshot = self.compile(config)
        budgets = Budgets(kept=True, patient=True)
        self._authority = Authority(snapshot.principals, config.groups, budgets)
        self._keeper = Keeper.of(loop, config, self._authority.gate)
        self.members = Members(self._authority, seat.board)
        self.members.on_serving = self._announce
        self.members.on_heard = self._charge
        self._overview = Overview(self.members, seat.board, snapshot, self._keeper)
        self.metrics = self._overview.metrics
        self._guard = admin.Guard(None)
        self._pace = reload.Pace()
        self._reloading = Reloading(self, self._pace)
        self._following = Following(self, self._pace, watches=seat.watches)
        self._stop = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._beat: asyncio.TimerHandle | None = None
        loop.set_exception_handler(process.log_loop)
        self._follow(seat.board.accepted())

    @property
    def config(self) -> Config:
        return self._snapshot.config

    async def run(self) -> None:
        """Until the parent says that it is over: when no worker is left."""
        try:
            self._keeper.start()
            await self._open_admin()
            await self.members.start(self._seat.link)
            self._loop.add_signal_handler(child.RELOAD, self._following.ask)
            self._loop.add_signal_handler(child.STOP, self._stop.set)
            child.listen_to_orders()
            self._following.start()
            self._tick()
            process.settle_memory()
            await self._stop.wait()
        finally:
            await self._close()

    async def _open_admin(self) -> None:
        shown = self._overview
        port = int(self._seat.listen.rpartition(":")[2])
        app = admin.build(
            *(shown, shown, shown.status, self._guard, shown.refresh, port),
            public_url=lambda: self.config.server.public_url,
        )
        self._runner = admin.Runner(app)
        await self._runner.setup()
        for listener in self._seat.listeners:
            await web.SockSite(self._runner, listener).start()

    async def _close(self) -> None:
        if self._beat is not None:
            self._beat.cancel()
        self._pace.hurry()
        await self._following.close()
        self.members.close()
        self._keeper.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def _tick(self) -> None:
        self._overview.beat()
        self._overview.log_lost = self._log_dropped()
        self._beat = self._loop.call_later(BEAT, self._tick)

    def _charge(self) -> None:
        """Every worker that runs has told what it holds: what else was reserved belongs to nobody any more."""
        self._keeper.say_charged(self._authority.gate.budgets.charge())

    def _announce(self) -> None:
        """All workers serve: the relay says so, once in its life."""
        seat = self._seat
        if seat.board.announced:
            return
        seat.board.announce()
        assert self._runner is not None, "opened before anybody can join"
        host, port = self._runner.addresses[0][:2]
        admin_at = banner.written(host, port)
        banner.announce(self._snapshot, seat.listen, admin_at, seat.demo_key, human=seat.human)

    # -- configuration --

    async def read_anew(self, still: Still) -> list[str]:
        return await self._reloading.reload(still)

    def reload_failed(self, faults: list[str]) -> None:
        self._overview.reload_failed(faults)

    def reloaded(self, changes: dict[str, list[str]]) -> None:
        self._overview.reloaded(changes)

    def compile(self, config: Config, principals: Principals | None = None) -> Snapshot:
        return Snapshot(config, self._memory, self._demo, principals)

    def apply(self, snapshot: Snapshot, source: bytes | None) -> Callable[[reload.Breathe], None]:
        """Makes a new configuration the one in force here; `source` is its text where a reload has brought it."""
        old, self._snapshot = self._snapshot, snapshot
        purses = self._authority.reload(snapshot.principals, snapshot.config.groups)
        self._catch_up()
        self._keeper.policy = snapshot.config.on_store_failure.budgets
        if source is not None:
            self._seat.board.accept(source)
        self._follow(source)
        return partial(reload.let_go, old.principals, old.config.filed, purses)

    def _catch_up(self) -> None:
        """Limits of keys that have not called since the reload follow it, some at a time."""
        if self._authority.gate.catch_up():
            self._loop.call_later(TICK, self._catch_up)

    def _follow(self, source: bytes | None) -> None:
        """Everything here is as the configuration in force says."""
        snapshot = self._snapshot
        config = snapshot.config
        endpoints = [e for group in snapshot.endpoints.values() for e in group]
        self._memory.directory.keep(endpoints)
        self.members.follow(config.digest, source)
        self.members.obey(self.members.ledger.configure(limits_of(endpoints)))
        self._overview.configure(snapshot)
        self._guard.change(config.admin.secret)


def run(config: Config, seat: Seat) -> int:
    """The hub's process. Returns its exit code."""
    streams = logs.setup(human=seat.human)
    try:
        uvloop.run(_serve(seat, seat.config(config), lambda: streams.dropped))
    except BaseException as error:
        log.crash("hub_failed", error)
        return 1
    finally:
        streams.close()
    return 0


async def _serve(seat: Seat, config: Config, log_dropped: Callable[[], int]) -> None:
    await Hub(seat, config, log_dropped).run()
