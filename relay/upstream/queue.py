"""Where calls wait while every place of an account (its `max_concurrent`) is taken: one queue per account.

Fair by start-time fair queueing: a key's calls stand in a row of their own, first come first served, and the keys take
turns in proportion to their weights, so that a thousand calls of one key delay another key's single call by at most one
turn. A key that was silent has saved nothing up. Rules that hold here:
- a place that falls free while somebody waits is *held* for whoever's turn it is (it still counts as in flight), so
  that no newcomer takes it before the woken call runs; whoever does not use a held place gives it back;
- a call may wait at several accounts at once, and leaves all rows when one of them has a place for it;
- a wait is predicted from the turns before it and the pace at which places have been falling free.
Pure: it is told the time, and wakes callers through `soon`, never from inside somebody else's last act.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Final, Protocol

from relay.upstream.account import Account, Line
from relay.upstream.endpoint import Endpoint

LEARNING: Final = 0.1
"""Weight of the newest pause between two places in the average."""
FLOWS_KEPT: Final = 1024
"""Keys whose last turn is remembered though none of their calls waits."""


class Waiter(Protocol):
    """A call that waits."""

    def place_came(self) -> None:
        """A place is held for it: `Ticket.take` first, then begin something or not, then `Ticket.done`."""


class Ticket:
    """One call's wait, at one account or several. Dies when it got a place, or left."""

    __slots__ = ("_held", "_queues", "_waiter", "endpoints", "key", "over", "weight")

    def __init__(
        self, waiter: Waiter, key: str, weight: float, endpoints: Sequence[Endpoint]
    ) -> None:
        """`endpoints`: any of which would do, each of an account with a queue."""
        self._waiter = waiter
        self.key = key
        self.weight = weight
        self.endpoints = endpoints
        self._queues: list[Queue] = []
        self._held: Queue | None = None
        self.over = False
        """It waits no more."""

    def enter(self) -> bool:
        """Stands in line wherever there is room for one more. False if there is none."""
        for endpoint in self.endpoints:
            queue = queue_of(endpoint.account)
            if queue is not None and queue not in self._queues and queue.enter(self):
                self._queues.append(queue)
        return bool(self._queues)

    def expected(self, now: float) -> float | None:
        """Seconds until its turn at the account where that is soonest; None while no pace is known."""
        waits = [
            wait
            for endpoint in self.endpoints
            if (queue := queue_of(endpoint.account)) is not None
            and (wait := queue.expected(self.key, self.weight, now)) is not None
        ]
        return min(waits, default=None)

    def room_at(self, account: Account) -> bool:
        """Whether one of its endpoints there may begin an attempt."""
        return any(
            endpoint.account is account and account.inflight < endpoint.ceiling
            for endpoint in self.endpoints
        )

    def take(self) -> None:
        """Frees the place that was held, for this very moment: whoever picks next, which is the woken call, has it."""
        queue = self._held
        if queue is not None:
            queue.account.inflight -= 1

    def done(self) -> None:
        """What was not used of it goes to the next."""
        queue, self._held = self._held, None
        if queue is not None:
            queue.pass_on()

    def leave(self) -> None:
        """The call has ended, or waits no more. Harmless if it has left."""
        self._out()
        if self._held is not None:
            self.take()
            self.done()

    def _out(self) -> None:
        self.over = True
        queues, self._queues = self._queues, []
        for queue in queues:
            queue.drop(self)

    def _grant(self, queue: Queue) -> None:
        """A place is held for it; it hears of that when this turn of the loop is over."""
        self._out()
        self._held = queue
        queue.account.inflight += 1
        queue.soon(self._wake)

    def _wake(self) -> None:
        if self._held is not None:
            self._waiter.place_came()


class _Flow:
    """The calls of one key, in the order in which they came."""

    __slots__ = ("finish", "key", "order", "row", "start", "weight")

    def __init__(self, key: str) -> None:
        self.key = key
        self.row: dict[Ticket, None] = {}
        self.weight = 1.0
        self.start = 0.0
        """The virtual time at which its next turn begins."""
        self.finish = 0.0
        """That at which its last turn ended."""
        self.order = 0
        """Of its entry in the heap that counts: older ones are void."""


class Queue(Line):
    """All calls that wait for one account. Lives as long as the account."""

    __slots__ = (
        "_flows",
        "_freed_at",
        "_heap",
        "_order",
        "_pause",
        "_virtual",
        "account",
        "max_calls",
        "max_wait",
        "name",
        "soon",
    )

    def __init__(self, account: Account, soon: Callable[[Callable[[], None]], object]) -> None:
        """`soon` runs a function when this turn of the loop is over."""
        super().__init__()
        self.account = account
        self.soon = soon
        self.name = account.name
        """The upstream's, for the metric."""
        self.max_wait = 0.0
        """Seconds."""
        self.max_calls = 0
        self._flows: dict[str, _Flow] = {}
        self._heap: list[tuple[float, int, _Flow]] = []
        """Who has the next turn: (start, order, flow)."""
        self._order = 0
        self._virtual = 0.0
        """The start of the turn given last."""
        self._pause = 0.0
        """Seconds between two places that fall free while all are taken: moving average, 0 as long as unknown."""
        self._freed_at = 0.0
        """When the last one did; 0 if nobody waited then."""

    def enter(self, ticket: Ticket) -> bool:
        """The ticket is the last of its key's row. False if the queue is full."""
        if self.waiting >= self.max_calls:
            return False
        if not self.waiting:
            # Whatever fell free before, nobody waited for it.
            self._freed_at = 0.0
        flow = self._flows.get(ticket.key)
        if flow is None:
            if len(self._flows) >= FLOWS_KEPT:
                self._forget()
            flow = self._flows[ticket.key] = _Flow(ticket.key)
        flow.weight = ticket.weight
        if not flow.row:
            flow.start = max(self._virtual, flow.finish)
            self._schedule(flow)
        flow.row[ticket] = None
        self.waiting += 1
        return True

    def drop(self, ticket: Ticket) -> None:
        """The ticket waits here no more."""
        flow = self._flows.get(ticket.key)
        if flow is not None and ticket in flow.row:
            del flow.row[ticket]
            self.waiting -= 1
            if not flow.row:
                flow.order = 0
            if not self.waiting:
                # Nobody has a claim that somebody else would have to wait for.
                self._flows.clear()
                self._heap.clear()

    def freed(self, now: float) -> None:
        """A place has fallen free while calls wait: learns the pace, and gives the turn to the next."""
        if self._freed_at:
            pause = now - self._freed_at
            before = self._pause
            self._pause = before + (pause - before) * LEARNING if before else pause
        self._freed_at = now
        self.pass_on()

    def pass_on(self) -> None:
        """As many turns as there are places."""
        while self.waiting:
            ticket = self._next()
            if ticket is None or not ticket.room_at(self.account):
                return
            flow = self._flows[ticket.key]
            self._virtual = flow.start
            flow.finish = flow.start + 1.0 / flow.weight
            ticket._grant(self)
            if flow.row:
                flow.start = flow.finish
                self._schedule(flow)

    def expected(self, key: str, weight: float, now: float) -> float | None:
        """Seconds a call of this key that came now would wait; None while no pace is known."""
        if not self._pause:
            return None
        flow = self._flows.get(key)
        own = len(flow.row) if flow is not None else 0
        turns = own + 1
        for other in self._flows.values():
            if other is not flow and other.row:
                # Until our turn, another key has as many as its weight allows, and no more than it has calls.
                turns += min(len(other.row), int((own + 1) * other.weight / weight))
        # If places fall free less often than they did, the last one's age tells.
        stalled = now - self._freed_at if self._freed_at else 0.0
        return max(turns * self._pause - stalled, turns * self._pause / 2, stalled - self._pause)

    # -- inside --

    def _schedule(self, flow: _Flow) -> None:
        self._order += 1
        flow.order = self._order
        heappush(self._heap, (flow.start, self._order, flow))

    def _next(self) -> Ticket | None:
        """Whose turn it is; stays there until it is dropped."""
        heap = self._heap
        while heap:
            _, order, flow = heap[0]
            if order == flow.order and flow.row:
                return next(iter(flow.row))
            heappop(heap)
        return None

    def _forget(self) -> None:
        """Keys that neither wait nor have had more than their turns."""
        self._flows = {
            key: flow
            for key, flow in self._flows.items()
            if flow.row or flow.finish > self._virtual
        }


def queue_of(account: Account) -> Queue | None:
    queue = account.queue
    assert queue is None or isinstance(queue, Queue), "what `equip` put there"
    return queue
