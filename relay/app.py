"""Composition: makes the parts of one relay process, connects them, and takes them down in order.

`Relay.run` tells the life of the process: start → ready → serve → drain → close. A reload builds everything new before
it touches anything old, and then only swaps. A relay that is one of several workers differs in a few steps
(`workers.worker`); how many processes there are is decided in `workers.start`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable
from functools import partial
from secrets import token_hex
from socket import socket
from time import time

import uvloop
from aiohttp import web

from relay import admin, banner, notify, process, reload
from relay.admission.gate import Gate
from relay.call import RequestIds
from relay.config.model import Config
from relay.equipment import Demo, Memory
from relay.following import Following, Still
from relay.front import Front
from relay.health import BEAT, Health
from relay.listener import doors, listeners
from relay.observe import logs
from relay.observe.accesslog import AccessLog
from relay.observe.aside import Aside
from relay.observe.linewriter import LineWriter
from relay.observe.metrics import Metrics
from relay.observe.sources import Seen
from relay.overload import Overload
from relay.page.teller import Teller
from relay.port import Patience, Port
from relay.proxy import Proxy
from relay.quota.start import away, follow_policy, gate_of, make_room, store_link
from relay.reception import Reception
from relay.records import Batch
from relay.revoking import Revoking
from relay.snapshot import Snapshot
from relay.state.keeper import Keeper
from relay.state.ledger import Ledger
from relay.timers import TICK, Wheel
from relay.upstream.attempt import Tools
from relay.upstream.connections import connections_of
from relay.upstream.demo import DemoServer, new_demo_key
from relay.upstream.dial import Dialer
from relay.upstream.directory import Directory
from relay.upstream.endpoint import Endpoint
from relay.upstream.probes import Probes
from relay.watch import Watch

log = logs.get("app")

BACKLOG = 4096
"""Connections the kernel may hold for us: a rush at midnight comes within one second."""
QUIET_TURNS = 3
"""Turns of the loop without a new connection after which none waits."""
LOG_WAIT = 5.0
"""Seconds the access log gets at the end."""


class Relay:
    """One relay process."""

    def __init__(
        self,
        config: Config,
        access_log: AccessLog,
        log_dropped: Callable[[], int],
        *,
        human: bool,
        demo_key: str | None = None,
        workers: int = 1,
        watches: bool = False,
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._human = human
        """A person started it and reads along."""
        self._demo_key = demo_key or new_demo_key()
        self._config = config
        self._access_log = access_log
        self._stopping = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._pace = reload.Pace()
        self._following = Following(self, self._pace, watches=watches)
        self._wheel = Wheel(loop)
        self._dialer = Dialer(loop)
        self._probes = Probes(loop)
        self._memory = Memory(loop, self._make_directory(), process.log_bug, workers)
        self._demo_server = DemoServer()
        self._demo: Demo | None = None
        self._snapshot = Snapshot(config, self._memory)
        self._gate = self._make_gate(self._snapshot)
        self._store = store_link(config, self._gate)
        self._keeper = Keeper.of(loop, config, self._gate)
        self._metrics = Metrics()
        self._ledger = Ledger.of(loop, config)
        self._teller = Teller()
        self._aside = Aside(config)
        observing = (self._metrics, access_log, self._ledger, self._teller)
        self._batch = Batch(loop, [*(o.observe for o in observing), *self._aside.observers])
        self._proxy = Proxy(
            self._gate, Tools(self._dialer, self._wheel), self._batch.add, process.log_bug
        )
        loop.set_exception_handler(process.log_loop)
        self._health = Health(self._degraded)
        self._reception = Reception(
            self._proxy, self._snapshot, self._health.livez, self._health.readyz
        )
        ids, overload = RequestIds(token_hex(6)), Overload(process.file_limit())
        self._port = Port(self._reception, self._wheel, ids, _patience(config), overload)
        self._port.tracer = self._aside.tracer
        self._revoking = Revoking(loop, self._proxy, self._port)
        self._seen = Seen(
            *(self._proxy, self._gate, self._memory, access_log, self._ledger),
            *(lambda: self._snapshot, log_dropped, self._keeper),
            *(self._metrics, self._teller, self._aside),
        )
        self._metrics.sources = self._seen
        self._guard = admin.Guard(config.admin.secret)
        self._watch = Watch(self._port, self._metrics.observe_lag)
        self._wheel.on_lag = self._watch.lagged
        self._health.overloaded = self._watch.is_unready
        self._front_runner = web.ServerRunner(Front(self._port))
        self._admin_runner: web.AppRunner | None = None
        self._beat: asyncio.TimerHandle | None = None

    @property
    def config(self) -> Config:
        return self._config

    def _make_directory(self) -> Directory:
        return Directory(listener=log_state)

    def _make_gate(self, snapshot: Snapshot) -> Gate:
        return gate_of(snapshot.config, snapshot.principals, self._memory.workers)

    # -- the life of the process --

    async def run(self) -> None:
        """Serves until it is told to stop. Raises OSError when a port cannot be had."""
        self._keeper.start()
        await self._demo_server.start()
        self._demo = Demo(self._demo_server.port, self._demo_server.credential, self._demo_key)
        self._apply(Snapshot(self._config, self._memory, self._demo))
        try:
            self._watch_signals()
            await self._listen()
            self._tick()
            await self._stopping.wait()
            await self._drain()
        finally:
            await self._close()

    async def _listen(self) -> None:
        make_room(self._config, self._gate)
        await self._store.start()
        await self._front_runner.setup()
        address = self._config.server.listen
        await self._open(listeners(address.host, address.port, BACKLOG))
        self._admin_runner = await self._start_admin()
        self._health.phase = "ready"
        self._announce()
        process.settle_memory()

    async def _open(self, listeners: Iterable[socket]) -> None:
        for listener in listeners:
            for door in doors(listener):
                await web.SockSite(self._front_runner, door, backlog=BACKLOG).start()

    def _announce(self) -> None:
        listen, admin = _bound(self._front_runner), _bound(self._admin_runner)
        banner.announce(self._snapshot, listen, admin, self._demo_key, human=self._human)

    async def _start_admin(self) -> web.AppRunner:
        config = self._config.admin
        port = int(_bound(self._front_runner).rpartition(":")[2])
        shown = self._metrics, self._health, self._seen.status, self._guard
        app = admin.build(*shown, data_port=port, public_url=lambda: self._config.server.public_url)
        runner = admin.Runner(app)
        await runner.setup()
        await web.TCPSite(runner, config.listen.host, config.listen.port).start()
        return runner

    def _watch_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop)
        self._loop.add_signal_handler(signal.SIGHUP, self._following.ask)
        self._following.start()

    def _stop(self) -> None:
        if self._stopping.is_set():
            self._stop_now.set()
        self._stopping.set()

    async def _drain(self) -> None:
        """Not ready → delay → no new connections → calls finish, up to the limit → an honest end for the rest."""
        drain = self._config.server.drain
        self._health.phase = "draining"
        notify.tell(notify.STOPPING)
        log.info("stopping", delay_seconds=drain.delay)
        await self._pause(drain.delay)
        await self._accept_what_waits()
        for site in list(self._front_runner.sites):
            await site.stop()
        log.info("draining", active=len(self._proxy.active))
        self._proxy.draining = True
        self._proxy.on_idle = self._idle
        self._idle()
        await self._pause(drain.timeout)
        for exchange in list(self._proxy.active):
            exchange.drained()
        log.info("stopped")

    async def _accept_what_waits(self) -> None:
        """Connections that the kernel has made for us are ours to answer: a closed listener would reset them."""
        clients = self._port.clients
        before, quiet = len(clients), 0
        accepted = False
        while quiet < QUIET_TURNS:
            # The loop may take one connection at each turn.
            await asyncio.sleep(0)
            quiet = 0 if len(clients) > before else quiet + 1
            accepted = accepted or not quiet
            before = len(clients)
        if accepted:
            await self._pause(TICK)

    def _idle(self) -> None:
        """No call is under way; half a request that has come in still becomes one (its deadline is short)."""
        if self._proxy.active:
            return
        if self._port.receiving:
            self._loop.call_later(TICK, self._idle)
        else:
            self._stop_now.set()

    async def _pause(self, seconds: float) -> None:
        """Waits, unless a second signal says that it must be now."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop_now.wait()

    async def _close(self) -> None:
        if self._beat is not None:
            self._beat.cancel()
        self._pace.hurry()
        await self._following.close()
        await self._front_runner.cleanup()
        if self._admin_runner is not None:
            await self._admin_runner.cleanup()
        self._batch.flush()
        await self._store.close()
        await self._probes.close()
        await self._dialer.close()
        await self._demo_server.close()
        self._wheel.close()
        self._keeper.close()
        self._ledger.close()
        self._aside.close()
        self._access_log.close(LOG_WAIT)

    def _tick(self) -> None:
        """The loop's own beat: it proves that the loop turns, closes what idled too long, and asks who is ejected."""
        self._health.beat()
        now = self._loop.time()
        for connections in self._snapshot.connections():
            connections.trim(now)
        self._probes.look(now)
        self._watch.beat(now)
        self._seen.beat()
        self._beat = self._loop.call_later(BEAT, self._tick)

    # -- configuration --

    def _apply(self, snapshot: Snapshot) -> Callable[[reload.Breathe], None]:
        """Makes a snapshot the live one: calls that come from now on see it.

        Returns how to let go of what only the old one needed: not here, for it takes long.
        """
        config, old = snapshot.config, self._snapshot
        self._config = config
        self._snapshot = self._reception.snapshot = snapshot
        purses = self._gate.reload(snapshot.principals, config.groups)
        follow_policy(config, self._gate)
        self._catch_up()
        self._revoking.follow(old, snapshot, time())
        self._keeper.policy = config.on_store_failure.budgets
        self._port.patience = _patience(config)
        self._watch.configure(config.server)
        self._port.memo.clear()
        self._guard.change(config.admin.secret)
        self._seen.follow(snapshot)
        for endpoint in self._memory.directory.keep(
            [endpoint for group in snapshot.endpoints.values() for endpoint in group]
        ):
            # Its running calls go on; what idles is closed.
            connections_of(endpoint).close()
        self._probes.watch(snapshot.probed())
        return partial(reload.let_go, old.principals, old.config.filed, purses)

    def _catch_up(self) -> None:
        """Limits of keys that have not called since the reload follow it, some at a time."""
        if self._gate.catch_up():
            self._loop.call_later(TICK, self._catch_up)

    async def read_anew(self, still: Still) -> list[str]:
        """Reads the files anew in a thread; swaps when all of it is good, keeps the old one when not."""
        made = await asyncio.to_thread(
            reload.prepare, self._config, os.environ, self._pace, None, still
        )
        if isinstance(made, list):
            return made
        config = made.config
        faults: list[str] = []
        over: Callable[[reload.Breathe], None]
        try:
            snapshot = Snapshot(config, self._memory, self._demo, made.principals)
        except (OSError, ValueError) as error:
            faults = [f"{config.path.name}: {type(error).__name__}"]
            over = partial(reload.let_go, made.principals, config.filed, {})
        else:
            before = self._config.notices
            over = self._apply(snapshot)
            reload.tell(before, made)
            self._seen.reloaded(made.difference)
        del made
        await asyncio.to_thread(over, self._pace)
        return faults

    def reload_failed(self, faults: list[str]) -> None:
        self._seen.reload_failed(faults)

    # -- what is shown --

    def _degraded(self) -> list[str]:
        """What limps, in words: a model none of whose members is usable, and we ourselves."""
        now = self._loop.time()
        models = [
            f"model {name}: no upstream is usable"
            for name, route in self._snapshot.routes.items()
            if route.static is None and not route.pool.usable(now, ())
        ]
        return [*models, *self._keeper.degraded(), *away(self._gate), *self._watch.limps()]


def _patience(config: Config) -> Patience:
    timeouts = config.server.timeouts
    return Patience(timeouts.header, timeouts.body, timeouts.keep_alive)


def _bound(runner: web.BaseRunner | None) -> str:
    """The address that a runner's first site really has (port 0 is any)."""
    address = runner.addresses[0] if runner is not None and runner.addresses else ("", 0)
    return banner.written(address[0], address[1])


def log_state(endpoint: Endpoint, state: str, reason: str) -> None:
    log.warning("upstream_state", upstream=endpoint.label, state=state, reason=reason)


def serve(config: Config, *, human: bool | None, watches: bool) -> int:
    """Runs a relay of one process until it is told to stop. Returns the exit code."""
    streams = logs.setup(human=human)
    access_log = AccessLog(LineWriter(1), config.observability.access_log)
    failed: str | None = None
    try:
        uvloop.run(_run(config, access_log, lambda: streams.dropped, human, watches))
    except OSError as error:
        failed = f"relay: {error.strerror or error}"
    finally:
        streams.close()
    if failed is not None:
        print(failed, file=sys.stderr)
        return 1
    return 0


async def _run(
    config: Config,
    access_log: AccessLog,
    log_dropped: Callable[[], int],
    human: bool | None,
    watches: bool,
) -> None:
    process.warn_of_the_interpreter()
    process.raise_file_limit()
    for notice in config.notices:
        log.warning("notice", notice=notice)
    human = os.isatty(2) if human is None else human
    relay = Relay(config, access_log, log_dropped, human=human, watches=watches)
    await relay.run()
