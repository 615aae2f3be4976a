"""What a call may have to wait for before an upstream is asked, and how it goes on: the base of `Opening`.

A rest before the last member is tried again; a place at an upstream that is full; and where several workers serve, the
answer of the quota authority and permits that idle in another worker. Nobody waits in a task: whoever knows the answer
calls one of these methods. A call that has ended meanwhile (`over`) is told nothing, or does not listen.
"""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from relay.call import Call
from relay.chatbody import ChatBody
from relay.errors import RelayError
from relay.routes import Route
from relay.timers import NEVER
from relay.upstream.endpoint import Endpoint
from relay.upstream.failover import Failover
from relay.upstream.pool import Member
from relay.upstream.queue import Ticket, queue_of

if TYPE_CHECKING:
    from relay.proxy import Proxy


class Waits:
    """Implements `timers.Timed`, `gate.Applicant`, `shares.Caller` and `queue.Waiter`."""

    __slots__ = (
        "_beat",
        "_failover",
        "_proxy",
        "_queued",
        "_route",
        "_ticket",
        "_wake",
        "call",
        "chat",
        "over",
        "slot",
    )

    _failover: Failover
    _route: Route
    chat: ChatBody

    def __init__(self, proxy: Proxy, call: Call) -> None:
        self._proxy = proxy
        self.call = call
        self.over = False
        self.slot = NEVER
        self._wake = inf
        """When a rest, a wait for a place, or the patience with a silent attempt is over."""
        self._beat = inf
        """When the client is due a sign of life."""
        self._ticket: Ticket | None = None
        """It stands in line."""
        self._queued = 0.0
        """Since when."""

    # -- the story's next chapters, told by `Opening` and `Exchange` --

    def _run(self, route: Route) -> None:
        """The call is admitted."""
        raise NotImplementedError

    def _open(self, since: float, asked_around: bool) -> None:
        raise NotImplementedError

    def _refuse(self, error: RelayError, *, spent: bool = False) -> None:
        raise NotImplementedError

    def broke(self) -> None:
        raise NotImplementedError

    def _silent(self, now: float) -> None:
        """An attempt is under way, and has been silent for long."""
        raise NotImplementedError

    def _sign_of_life(self, now: float) -> None:
        raise NotImplementedError

    def _under_way(self) -> bool:
        """Whether there is an attempt."""
        raise NotImplementedError

    # -- what it is told --

    def admitted(self) -> None:
        """The authority, another process, says yes."""
        try:
            self._run(self._route)
        except Exception as error:
            self._proxy.report(error)
            self.broke()

    def refused(self, error: RelayError) -> None:
        """The authority says no."""
        self._refuse(error)

    def permits_came(self) -> None:
        """The other workers have given what idled there: pick again, with what there is."""
        if not self.over:
            self._go_on(monotonic(), asked_around=True)

    def place_came(self) -> None:
        """A place fell free, and it is this call's turn."""
        ticket, self._ticket = self._ticket, None
        if ticket is None:
            return
        now = monotonic()
        self._waited(now)
        self._wake = inf
        ticket.take()
        self._go_on(now, asked_around=True)
        ticket.done()

    def expired(self, now: float) -> None:
        if self.over:
            return
        try:
            if now >= self._beat:
                self._sign_of_life(now)
            if now >= self._wake:
                self._wake = inf
                self._woken(now)
            if not self.over:
                self._expect()
        except Exception as error:
            self._proxy.report(error)
            self.broke()

    def _woken(self, now: float) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            # It has waited for a place as long as it may.
            self._waited(now)
            self._failover.impatient = True
            self._failover.expected = ticket.expected(now)
            ticket.leave()
        elif self._under_way():
            self._silent(now)
            return
        self._go_on(now, asked_around=False)

    def _go_on(self, now: float, asked_around: bool) -> None:
        """On to the next attempt. The first one's silence is counted from the receipt of the call."""
        first = not self.call.record.attempts
        try:
            self._open(self.call.received if first else now, asked_around)
        except Exception as error:
            self._proxy.report(error)
            self.broke()

    def _expect(self) -> None:
        """Sets the one timer to whatever is due first."""
        wheel = self._proxy.tools.wheel
        wheel.drop(self)
        due = min(self._wake, self._beat)
        if due < inf:
            wheel.add(self, due)

    def _waits_for_permit(self, picked: Member | None, now: float) -> bool:
        """Whether a better member than this one is full here only, and the other workers are asked."""
        shares = self._proxy.shares
        short = self._failover.short(now, picked)
        return shares is not None and bool(short) and shares.wait(short, self, now)

    # -- the queue --

    def _queues(self, since: float, now: float) -> bool:
        """Whether the call stands in line now; `since`: when the silence began that its next attempt is charged with.

        It does not where it would wait longer than it may: better a refusal now than the same one later.
        """
        failover = self._failover
        crowded = failover.crowded(now)
        if not crowded:
            return False
        payer = self.call.principal
        ticket = Ticket(self, payer.id, payer.weight, crowded)
        expected = ticket.expected(now)
        latest = self._latest_start(crowded, since, now)
        if now + (expected or 0.0) >= latest or not ticket.enter():
            failover.impatient = True
            failover.expected = expected
            return False
        failover.waits(now)
        self._ticket = ticket
        self._queued = now
        self.call.record.queued_at = crowded[0].name
        self._wake = latest
        self._expect()
        return True

    def _latest_start(self, crowded: list[Endpoint], since: float, now: float) -> float:
        """When an attempt has to begin at the latest, to bring its first token in time as it usually does."""
        latest = 0.0
        for endpoint in crowded:
            queue = queue_of(endpoint.account)
            ends = now if queue is None else now + queue.max_wait
            if self.chat.stream:
                patience = self._patience(endpoint)
                ends = min(ends, since + patience - min(endpoint.ttft, patience / 2))
            latest = max(latest, ends)
        return latest

    def _patience(self, endpoint: Endpoint) -> float:
        """Seconds of silence that an attempt there is allowed before the first token of a stream."""
        patience = self._route.first_token or endpoint.first_token
        asked = self.call.head.first_token
        return patience if asked is None else min(patience, asked)

    def _hurried(self, endpoint: Endpoint) -> bool:
        """Whether this call's own patience is the shorter one."""
        asked = self.call.head.first_token
        return asked is not None and asked < (self._route.first_token or endpoint.first_token)

    def _waited(self, now: float) -> None:
        record = self.call.record
        lasted = now - self._queued
        record.queue = (record.queue or 0.0) + lasted
        record.waits = (*record.waits, (self._queued - self.call.received, lasted))
