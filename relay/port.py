"""What the connections of the data port share: who judges requests, what was learnt of heads, who is there."""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING, Final

from relay import errors
from relay.admission.principals import Principal
from relay.call import Head, RequestIds
from relay.heads import HeadMemo
from relay.operations import Kind
from relay.overload import LEAST_IDLE, Overload
from relay.reception import Reception
from relay.records import CallRecord
from relay.timers import Wheel
from relay.tracecontext import Tracer

if TYPE_CHECKING:
    from relay.connection import ClientConnection

SURPLUS: Final = 2.0
"""Seconds in which a connection for which there is no room must ask, to hear just that."""
TRIMMED: Final = 1000
"""Idle connections closed at one beat, at most: closing is work, too."""


class Patience:
    """Seconds, from `server.timeouts`; replaced whole by a reload."""

    __slots__ = ("body", "header", "keep_alive")

    def __init__(self, header: float, body: float, keep_alive: float) -> None:
        self.header = header
        self.body = body
        self.keep_alive = keep_alive


class Port:
    """The data port as its connections see it; `front.Front` listens for it. Lives as long as the process."""

    __slots__ = (
        "clients",
        "ids",
        "leaving",
        "memo",
        "on_empty",
        "overload",
        "patience",
        "receiving",
        "reception",
        "tracer",
        "waiting",
        "wheel",
    )

    def __init__(
        self,
        reception: Reception,
        wheel: Wheel,
        ids: RequestIds,
        patience: Patience,
        overload: Overload | None = None,
    ) -> None:
        self.reception = reception
        self.wheel = wheel
        self.ids = ids
        self.patience = patience
        self.overload = overload or Overload()
        self.memo = HeadMemo()
        self.clients: set[ClientConnection] = set()
        self.receiving: set[ClientConnection] = set()
        """Those on which a part of a request has come."""
        self.waiting: dict[ClientConnection, float] = {}
        """Those that have no whole head to answer, the one that idles longest first: since when (seconds)."""
        self.leaving: dict[ClientConnection, None] = {}
        """Those that only wait for their end, and count no more; in the order in which they were told."""
        self.tracer: Tracer | None = None
        """Who decides which calls are traced, if any are."""
        self.on_empty: Callable[[], None] | None = None
        """Told when the last connection has gone."""

    # -- coming and going --

    def arrived(self, client: ClientConnection, now: float) -> float:
        """Returns the seconds in which it must have asked for something."""
        clients = self.clients
        clients.add(client)
        self.waiting[client] = now
        if self.overload.is_full(len(clients) - len(self.leaving)):
            return self._make_room(client, now)
        return self.patience.header

    def _make_room(self, client: ClientConnection, now: float) -> float:
        """There is one more than there is room for: the one that idles longest goes; if none idles, the new one."""
        oldest = next(iter(self.waiting))
        if now - self.waiting[oldest] >= LEAST_IDLE:
            self._dismiss(oldest)
            return self.patience.header
        if len(self.leaving) >= self.overload.most_turned:
            # They take their time, and there is no room for more of them: one is answered and closed at once.
            slowest = next(iter(self.leaving))
            del self.leaving[slowest]
            self._dismiss(slowest)
            slowest.give_way()
        del self.waiting[client]
        self.leaving[client] = None
        client.surplus = True
        return min(SURPLUS, self.patience.header)

    def _dismiss(self, client: ClientConnection) -> None:
        self.leaving[client] = None
        client.give_way()

    def trim(self, now: float) -> None:
        """Under pressure connections may not idle for as long as it is configured."""
        limit = self.overload.idle_limit
        if limit is None:
            return
        found: list[ClientConnection] = []
        for client, since in self.waiting.items():
            if now - since < limit or len(found) >= TRIMMED:
                break
            if client.is_idle:
                found.append(client)
        for client in found:
            self._dismiss(client)

    def gone(self, client: ClientConnection) -> None:
        self.clients.discard(client)
        self.receiving.discard(client)
        self.waiting.pop(client, None)
        self.leaving.pop(client, None)
        if self.on_empty is not None and not self.clients:
            self.on_empty()

    # -- requests --

    def admit(self, head: Head, surplus: bool) -> None:
        """Raises what a new request is told that finds no room. Who asks how we are is always answered."""
        operation = head.operation
        if operation is None or operation.kind == Kind.HEALTH or head.method == "OPTIONS":
            return
        overload = self.overload
        if surplus:
            raise errors.Overloaded(wait=overload.turned())
        if overload.shedding and operation.kind == Kind.CHAT:
            wait = overload.refuses(self.reception.underway)
            if wait is not None:
                raise errors.Overloaded(wait=wait)

    def record(
        self, head: Head | None, address: str | None, principal: Principal | None
    ) -> CallRecord:
        """The record of a request, with what its head says; `address` is the peer's."""
        record = CallRecord()
        record.request_id = self.ids.next()
        record.received = time()
        if head is None:
            record.client = address
            return record
        record.client = self.reception.snapshot.client_address(address, head)
        if head.client_request_id is not None:
            record.client_request_id = head.client_request_id
        if head.trace_id is not None:
            record.trace_id = head.trace_id
        if self.tracer is not None:
            record.trace = trace = self.tracer.begin(head.parent)
            if trace is not None:
                record.trace_id = trace.trace_id
        if head.operation is not None:
            record.operation = head.operation.name
        if principal is not None:
            record.key = principal.id
            if principal.group is not None:
                record.group = principal.group
        return record
