"""What the connections of the data port share: who judges requests, what was learnt of heads, who is there."""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING

from relay.admission.principals import Principal
from relay.call import Head, RequestIds
from relay.heads import HeadMemo
from relay.reception import Reception
from relay.records import CallRecord
from relay.timers import Wheel

if TYPE_CHECKING:
    from relay.connection import ClientConnection


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
        "memo",
        "on_empty",
        "patience",
        "receiving",
        "reception",
        "wheel",
    )

    def __init__(
        self, reception: Reception, wheel: Wheel, ids: RequestIds, patience: Patience
    ) -> None:
        self.reception = reception
        self.wheel = wheel
        self.ids = ids
        self.patience = patience
        self.memo = HeadMemo()
        self.clients: set[ClientConnection] = set()
        self.receiving: set[ClientConnection] = set()
        """Those on which a part of a request has come."""
        self.on_empty: Callable[[], None] | None = None
        """Told when the last connection has gone."""

    def gone(self, client: ClientConnection) -> None:
        self.clients.discard(client)
        self.receiving.discard(client)
        if self.on_empty is not None and not self.clients:
            self.on_empty()

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
        if head.operation is not None:
            record.operation = head.operation.name
        if principal is not None:
            record.key = principal.id
        return record
