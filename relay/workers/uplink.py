"""A worker's end of the link: carries what its gate and its shares have to say to the hub, and brings the answers.

When the hub is gone the worker connects to the next one at once, and tells it what it holds; running streams notice
nothing, and calls that wait for an answer ask again, as long as their patience lasts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import msgspec

from relay import process
from relay.admission.remote import RemoteGate
from relay.observe import logs
from relay.observe.exposition import Snapshot
from relay.page.telling import Telling
from relay.upstream.permits import ANSWER, GRANT, RECALL, SHED
from relay.upstream.shares import Shares
from relay.workers.link import Link
from relay.workers.messages import (
    Abandon,
    Commit,
    Committed,
    Count,
    Down,
    Hello,
    Judged,
    Numbers,
    Prepare,
    Prepared,
    Reports,
    Serving,
    Up,
    Welcome,
)

log = logs.get("worker")

BEAT = 0.05
"""Seconds between two looks at waits that may be over."""
COUNTS = 1.0
"""Seconds between two tellings of the numbers: what a scrape misses of a worker that was killed."""
RECONNECT = 0.05
"""Seconds before the next try, where even the listener is gone: the parent is ending."""

PIECE = 100_000
"""Bytes of numbers that are encoded without a pause."""

LAST_WORDS = 2.0
"""Seconds the hub has to take them."""

UpNote = Hello | Serving | Numbers | Prepared | Committed | Reports | Judged


class Subject(Protocol):
    """The worker whose link this is."""

    serving: bool

    @property
    def digest(self) -> str:
        """Of the configuration in effect."""

    async def counted(self) -> tuple[Snapshot, list[str], bool]:
        """Its numbers, what limps, and whether it refuses most of what is new. A little at a time."""

    def told(self) -> Telling:
        """What has happened since it was asked last."""

    async def welcomed(self, source: bytes | None) -> None:
        """The hub knows us; under this configuration."""

    async def prepare(self, source: bytes) -> tuple[str, list[str]]:
        """Reads a configuration to come: its digest, or its faults."""

    def commit(self) -> Callable[[], Awaitable[None]]:
        """What was prepared is in effect. Returns how to let go of what it replaces, which takes its time."""

    async def abandon(self) -> None:
        """What was prepared is not wanted."""

    def judged(self, note: Judged) -> None:
        """Another worker was told to stay away from an upstream."""


class Uplink:
    """Lives as long as the worker."""

    def __init__(
        self, index: int, address: bytes, gate: RemoteGate, shares: Shares, subject: Subject
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._index = index
        self._address = address
        self._gate = gate
        self._shares = shares
        self._subject = subject
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Down).decode
        self._link: Link | None = None
        self._flushing = False
        self._closing = False
        self._lost_last = asyncio.Event()
        self._notes: list[UpNote] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._counting = asyncio.Lock()
        self._prepared = 0
        """The reload that could be committed."""
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}
        gate.wake = shares.wake = self.wake

    async def start(self) -> None:
        await self._connect()
        self._every(BEAT, self._beat)
        self._every(COUNTS, self._count_again)

    async def close(self) -> None:
        """Says the last: settlements, and the final numbers."""
        self._closing = True
        self._lost_last.clear()
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        await self._count()
        self._flush()
        link = self._link
        if link is not None:
            link.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    await self._lost_last.wait()

    def say(self, note: UpNote) -> None:
        self._notes.append(note)
        self.wake()

    def wake(self) -> None:
        """Something is to be sent: all of it, when this turn of the loop is over."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    # -- the connection --

    async def _connect(self) -> None:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.setblocking(False)
        try:
            peer.connect(self._address)
            link = Link(self._received, self._lost)
            await self._loop.create_unix_connection(lambda: link, sock=peer)
        except OSError:
            peer.close()
            if not self._closing:
                self._loop.call_later(RECONNECT, self._run, self._connect)
            return
        self._link = link
        held, levels = self._gate.restate()
        self._shares.ask_again()
        subject = self._subject
        permits = self._shares.held()
        self._notes[:0] = [
            Hello(self._index, os.getpid(), subject.digest, held, levels, permits, subject.serving)
        ]
        self.wake()

    def _lost(self) -> None:
        self._link = None
        self._lost_last.set()
        if not self._closing:
            log.warning("hub_lost")
            self._notes = []
            self._run(self._connect)

    def _flush(self) -> None:
        self._flushing = False
        link, shares = self._link, self._shares
        if link is None:
            return
        asks, settled = self._gate.take()
        if shares.reports:
            self._notes.append(Reports(shares.reports))
            shares.reports = []
        gave, shares.gave = shares.gave, []
        wants, shares.wants = shares.wants, []
        notes, self._notes = self._notes, []
        link.send(self._encode(Up(settled, gave, asks, wants, notes)))

    # -- what comes --

    def _received(self, frame: bytes) -> None:
        down = self._decode(frame)
        gate = self._gate
        if down.levels:
            gate.follow(down.levels)
        for kind, account, permits in down.orders:
            self._order(kind, account, permits)
        if down.granted:
            gate.granted(down.granted)
        if down.refused:
            gate.refused(down.refused)
        for note in down.notes:
            self._note(note)

    def _order(self, kind: str, account: str, permits: int) -> None:
        shares = self._shares
        if kind == ANSWER:
            shares.answered(account, permits)
        elif kind == GRANT:
            shares.granted(account, permits)
        elif kind == RECALL:
            shares.recalled(account, permits)
        elif kind == SHED:
            shares.shed(account)
        else:
            shares.kept(account)

    def _note(self, note: Welcome | Prepare | Commit | Abandon | Count | Judged) -> None:
        if isinstance(note, Count):
            self._run(self._count, note.asked)
        elif isinstance(note, Judged):
            self._subject.judged(note)
        elif isinstance(note, Welcome):
            self._run(self._welcome, note)
        elif isinstance(note, Prepare):
            self._run(self._prepare, note)
        elif isinstance(note, Commit):
            if note.reload == self._prepared:
                self._run(self._commit, note)
        else:
            self._prepared = 0
            self._run(self._subject.abandon)

    async def _welcome(self, note: Welcome) -> None:
        await self._subject.welcomed(note.source)

    async def _prepare(self, note: Prepare) -> None:
        digest, faults = await self._subject.prepare(note.source)
        self._prepared = 0 if faults else note.reload
        self.say(Prepared(note.reload, digest, faults))

    async def _commit(self, note: Commit) -> None:
        let_go = self._subject.commit()
        self.say(Committed(note.reload))
        await let_go()

    # -- clocks --

    def _beat(self) -> None:
        now = self._loop.time()
        self._gate.expire(now)
        self._shares.beat(now)

    def _count_again(self) -> None:
        """Unless the last time is not over: who is starved shall not fall behind for ever."""
        if not self._counting.locked():
            self._run(self._count)

    async def _count(self, asked: int = 0) -> None:
        """One after the other, so that none overtakes an older one."""
        async with self._counting:
            with process.collections_rest():
                snapshot, degraded, overloaded = await self._subject.counted()
                packed = await self._packed(snapshot)
                del snapshot
            self.say(Numbers(packed, degraded, asked, overloaded, self._subject.told()))

    async def _packed(self, snapshot: Snapshot) -> Snapshot:
        """The same with every family encoded: of a thousand keys all at once would be ten milliseconds."""
        parts: list[dict[str, Any]] = []
        size = 0
        for families in snapshot:
            part: dict[str, Any] = {}
            for name, found in families.items():
                part[name] = msgspec.Raw(self._encode(found))
                size += len(part[name])
                if size > PIECE:
                    size = 0
                    await asyncio.sleep(0)
            parts.append(part)
        return Snapshot(*parts)

    def _every(self, seconds: float, act: Callable[[], None]) -> None:
        def again() -> None:
            self._timers[act] = self._loop.call_later(seconds, again)
            act()

        self._timers[act] = self._loop.call_later(seconds, again)

    def _run(self, act: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Runs a coroutine that nobody waits for; a bug in it is the loop's to tell."""
        task = self._loop.create_task(act(*args))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
