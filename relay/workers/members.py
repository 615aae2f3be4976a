"""The hub's ends of the links: who is there, what each asks of the authority, and what it is told.

All answers of one turn of the loop go to a worker in one frame. After the death of a hub the next one waits until
every worker that runs has told what it holds, before it grants anything; calls wait meanwhile, and their workers refuse
them when that takes too long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from time import time

import msgspec

from relay.admission.authority import Ask, Authority, Holder, Refusal
from relay.admission.windows import Level
from relay.observe import logs
from relay.observe.exposition import Snapshot
from relay.page.telling import Telling
from relay.upstream.permits import Ledger, Order
from relay.workers.board import Board
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

log = logs.get("hub")

LOOK = 0.05
"""Seconds between two looks at whom we wait for."""
SECOND_LOOK = 0.01
"""Seconds until a call is refused by `concurrent`: as long as the news of an end may take, and more."""
FRESH = 0.9
"""Seconds between two tellings of what has been used through other workers: headers are never older than a second."""
CONCURRENT = "concurrent"
GRACE = 5.0
"""Seconds a new hub waits for a worker that runs and says nothing."""

DownNote = Welcome | Prepare | Commit | Abandon | Count | Judged


class Member:
    """One worker that is connected, and what it is to be told in the next frame."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self.link = Link(self._received, self._lost)
        self.worker = -1
        """Its number; unknown before its first word."""
        self.pid = 0
        self.holder = Holder()
        self.serving = False
        self.digest = ""
        self.numbers = Snapshot({}, {})
        self.degraded: list[str] = []
        self.overloaded = False
        self.answered = 0
        """The last question for numbers that it answered."""
        self.vote: Prepared | None = None
        self.committed = 0
        self.keys: set[str] = set()
        self.granted: list[int] = []
        self.refused: list[Refusal] = []
        self.orders: list[tuple[str, str, int]] = []
        self.notes: list[DownNote] = []
        self.levels: dict[str, list[Level]] = {}
        """What others have used."""

    def _received(self, frame: bytes) -> None:
        self._members.received(self, frame)

    def _lost(self) -> None:
        self._members.lost(self)

    def take(self, authority: Authority) -> Down | None:
        """What it is to be told, once."""
        if not (self.granted or self.refused or self.orders or self.notes or self.levels):
            return None
        levels, self.levels = self.levels, {}
        levels = levels | {key: authority.levels(key) for key in self.keys}
        down = Down(levels, self.granted, self.refused, self.orders, self.notes)
        self.keys = set()
        self.granted, self.refused, self.orders, self.notes = [], [], [], []
        return down


class Members:
    """All of them. Lives as long as the hub."""

    def __init__(self, authority: Authority, board: Board) -> None:
        self._loop = asyncio.get_running_loop()
        self.authority = authority
        self._board = board
        self._decode = msgspec.msgpack.Decoder(Up).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._members: dict[int, Member] = {}
        self._expected = {worker: pid for worker, pid in enumerate(board.pids()) if pid}
        """Workers that outlived the last hub, and have not said what they hold."""
        self._patient_until = self._loop.time() + GRACE
        self._held_back: list[tuple[Member, list[Ask]]] = []
        self._doubted: list[tuple[Member, Ask]] = []
        """Refused by `concurrent`, if that is still so in a moment."""
        self._flushing = False
        self._server: asyncio.Server | None = None
        self._look: asyncio.TimerHandle | None = None
        self._refresh: asyncio.TimerHandle | None = None
        self.ledger = Ledger(board.workers, self._expected)
        self._source: bytes | None = None
        self._digest = ""
        self._changes: set[asyncio.Event] = set()
        self.on_serving: Callable[[], None] = _nothing
        """All workers accept connections."""
        self.on_heard: Callable[[], None] = _nothing
        """Those who outlived the last hub have told what they hold, or will not."""
        self.on_death: Callable[[Snapshot], None] = _ignore
        """A worker has gone, and these were its last numbers."""
        self.on_told: Callable[[Telling], None] = _ignore
        """A worker tells what has happened there."""

    async def start(self, listener: object) -> None:
        self._server = await self._loop.create_unix_server(
            lambda: Member(self).link,
            sock=listener,  # type: ignore[arg-type]
        )
        if not self._expected:
            self.on_heard()
        self._watch()
        self._tell_levels()

    def close(self) -> None:
        if self._refresh is not None:
            self._refresh.cancel()
        if self._look is not None:
            self._look.cancel()
        if self._server is not None:
            self._server.close()

    def present(self) -> list[Member]:
        return [self._members[worker] for worker in sorted(self._members)]

    def missing(self) -> list[int]:
        """Workers that do not serve."""
        serving = {member.worker for member in self._members.values() if member.serving}
        return [worker for worker in range(self._board.workers) if worker not in serving]

    def tell(self, note: DownNote, members: Iterable[Member] | None = None) -> None:
        for member in self.present() if members is None else members:
            member.notes.append(note)
        self._wake()

    def obey(self, orders: Iterable[Order]) -> None:
        """Carries the ledger's orders out."""
        for worker, kind, account, permits in orders:
            member = self._members.get(worker)
            if member is not None:
                member.orders.append((kind, account, permits))
        self._wake()

    def follow(self, digest: str, source: bytes | None) -> None:
        """This configuration is in force: who comes with another gets its text, if a reload has brought it."""
        self._digest, self._source = digest, source

    async def until(self, fits: Callable[[], bool], seconds: float) -> bool:
        """Waits for something that the members bring; whether it came in time."""
        change = asyncio.Event()
        self._changes.add(change)
        try:
            async with asyncio.timeout(seconds):
                while not fits():
                    change.clear()
                    await change.wait()
        except TimeoutError:
            return False
        finally:
            self._changes.discard(change)
        return True

    def _changed(self) -> None:
        for change in self._changes:
            change.set()

    # -- what comes --

    def received(self, member: Member, frame: bytes) -> None:
        up = self._decode(frame)
        now, wall = self._loop.time(), time()
        if member.worker < 0:
            hello = up.notes[0] if up.notes else None
            if not isinstance(hello, Hello):
                member.link.abort()
                return
            self._join(member, hello, now, wall)
        authority, holder, ledger = self.authority, member.holder, self.ledger
        for number, tokens, cost in up.settled:
            authority.settle(holder, number, tokens, cost, now)
        for account, permits in up.gave:
            self.obey(ledger.gave(member.worker, account, permits))
        if up.asks:
            if self._expected:
                self._held_back.append((member, up.asks))
            else:
                self._ask(member, up.asks, now, wall)
        for account, permits in up.wants:
            self.obey(ledger.want(member.worker, account, permits))
        for note in up.notes:
            self._note(member, note)

    def _ask(
        self, member: Member, asks: list[Ask], now: float, wall: float, last: bool = False
    ) -> None:
        """`last`: its refusal by `concurrent` has been doubted once."""
        ask, holder = self.authority.ask, member.holder
        granted, refused, keys = member.granted, member.refused, member.keys
        for each in asks:
            refusal = ask(holder, each, now, wall)
            if refusal is None:
                granted.append(each[0])
            elif refusal[2] == CONCURRENT and not last:
                self._doubt(member, each)
                continue
            else:
                refused.append(refusal)
            keys.add(each[1])
        self._wake()

    def _doubt(self, member: Member, ask: Ask) -> None:
        """A call that waits for another one's end may have seen that end before we have: on another worker's link."""
        if not self._doubted:
            self._loop.call_later(SECOND_LOOK, self._look_again)
        self._doubted.append((member, ask))

    def _look_again(self) -> None:
        doubted, self._doubted = self._doubted, []
        now, wall = self._loop.time(), time()
        for member, ask in doubted:
            if self._members.get(member.worker) is member:
                self._ask(member, [ask], now, wall, last=True)

    def _tell_levels(self) -> None:
        """Everybody is told how much of their limits the keys have used that have called anybody."""
        self._refresh = self._loop.call_later(FRESH, self._tell_levels)
        moved = self.authority.moved()
        if len(self._members) > 1 and moved:
            for member in self._members.values():
                member.levels = moved
            self._wake()

    def _note(
        self,
        member: Member,
        note: Hello | Serving | Numbers | Prepared | Committed | Reports | Judged,
    ) -> None:
        if isinstance(note, Numbers):
            member.numbers, member.degraded = note.snapshot, note.degraded
            member.overloaded = note.overloaded
            member.answered = max(member.answered, note.asked)
            self.on_told(note.told)
        elif isinstance(note, Judged):
            self.tell(note, [other for other in self.present() if other is not member])
            return
        elif isinstance(note, Reports):
            for account, permits in note.permits:
                self.obey(self.ledger.report(member.worker, account, permits))
            return
        elif isinstance(note, Serving):
            member.serving = True
            if not self.missing():
                self.on_serving()
        elif isinstance(note, Prepared):
            member.vote = note
        elif isinstance(note, Committed):
            member.committed = note.reload
        self._changed()

    # -- who comes and goes --

    def _join(self, member: Member, hello: Hello, now: float, wall: float) -> None:
        before = self._members.get(hello.worker)
        if before is not None:
            # Its end is not read yet.
            self.lost(before)
            before.link.abort()
        member.worker, member.pid = hello.worker, hello.pid
        member.serving, member.digest = hello.serving, hello.digest
        self._members[hello.worker] = member
        self.authority.restore(member.holder, hello.leases, now, wall)
        self.authority.adopt(hello.levels)
        self.obey(self.ledger.joined(member.worker, hello.permits))
        other = member.digest != self._digest
        self.tell(Welcome(self._source if other else None), [member])
        self._heard(hello.worker)

    def lost(self, member: Member) -> None:
        if self._members.get(member.worker) is not member:
            return
        del self._members[member.worker]
        self.authority.died(member.holder, self._loop.time())
        self._held_back = [held for held in self._held_back if held[0] is not member]
        self.obey(self.ledger.lost(member.worker))
        self.on_death(member.numbers)
        self._changed()

    def _heard(self, worker: int) -> None:
        """One less to wait for; after the last one the calls that waited are judged."""
        self._expected.pop(worker, None)
        if self._expected:
            return
        self.on_heard()
        held_back, self._held_back = self._held_back, []
        now, wall = self._loop.time(), time()
        for member, asks in held_back:
            self._ask(member, asks, now, wall)

    def _watch(self) -> None:
        """Gives up waiting for workers that have died, or answer nothing."""
        self._look = self._loop.call_later(LOOK, self._watch)
        self.obey(self.ledger.impatient())
        if not self._expected:
            return
        pids = self._board.pids()
        late = self._loop.time() > self._patient_until
        for worker, pid in list(self._expected.items()):
            if late or pids[worker] != pid:
                self.obey(self.ledger.lost(worker))
                self._heard(worker)

    # -- what goes --

    def _wake(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        for member in self._members.values():
            down = member.take(self.authority)
            if down is not None:
                member.link.send(self._encode(down))


def _nothing() -> None:
    pass


def _ignore(last: object) -> None:
    pass
