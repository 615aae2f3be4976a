"""What is decided about a request before it becomes a call, and what is answered without one.

`screen` judges a head alone, so that a refusal need not wait for a body; `answer` serves the operations that
no upstream sees (models, health, preflights). Every refusal outside a call leaves by `refuse`, and is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, time

import msgspec

from relay import errors, replies
from relay.admission.principals import Principal
from relay.call import Call, Client, Head
from relay.errors import RelayError
from relay.operations import Kind, Operation
from relay.proxy import Exchange, Proxy
from relay.records import CallRecord
from relay.snapshot import Snapshot

Health = Callable[[], tuple[int, bytes]]
"""Status and JSON body of a health URL."""

_encode = msgspec.json.Encoder().encode


class Reception:
    """The front desk of one process. `snapshot` is the live configuration: what comes in next is judged by it."""

    __slots__ = ("_livez", "_proxy", "_readyz", "snapshot")

    def __init__(self, proxy: Proxy, snapshot: Snapshot, livez: Health, readyz: Health) -> None:
        self._proxy = proxy
        self.snapshot = snapshot
        self._livez = livez
        self._readyz = readyz

    @property
    def draining(self) -> bool:
        return self._proxy.draining

    def screen(self, head: Head, address: str | None) -> Principal | None:
        """Who asks. Raises the answer to a request that its head alone condemns."""
        operation = head.operation
        if operation is None:
            raise errors.UnknownUrl(f"Invalid URL ({head.method} {head.path[:200]})")
        if head.method == "OPTIONS":
            return None
        if head.method not in operation.methods:
            raise errors.MethodNotSupported(", ".join((*operation.methods, "OPTIONS")))
        if operation.kind is Kind.HEALTH:
            return None
        principal = self.snapshot.principals.authenticate(head.authorization, address, time())
        if operation.kind is Kind.CHAT:
            if head.content_type != "application/json":
                raise errors.UnsupportedContentType
            if head.encoded:
                raise errors.UnsupportedContentEncoding
        return principal

    def start(self, call: Call) -> Exchange | None:
        """Answers the call, or starts what will. None: it is answered already."""
        head = call.head
        operation = head.operation
        assert operation is not None, "screened"
        if head.method != "OPTIONS" and operation.kind is Kind.CHAT:
            exchange = self._proxy.handle(call, self.snapshot)
            return None if exchange.over else exchange
        self._answer(call, operation)
        return None

    def refuse(
        self,
        client: Client,
        head: Head | None,
        error: RelayError,
        request_id: bytes,
        record: CallRecord,
        principal: Principal | None,
        *,
        keep_alive: bool,
    ) -> None:
        """Answers with an error and records it."""
        lines = self._proxy.lines(self.snapshot, head, request_id, principal) + error.headers()
        body = error.body()
        http11 = head is None or head.http11
        reply = replies.whole_head(
            error.status, len(body), lines, http11=http11, keep_alive=keep_alive
        )
        bodyless = head is not None and head.method == "HEAD"
        client.send(reply if bodyless else reply + body)
        record.outcome = error.outcome
        record.error = error.code or error.type
        record.reason = error.reason
        self._recorded(record, error.status)
        client.end(keep_alive)

    def _answer(self, call: Call, operation: Operation) -> None:
        head, snapshot = call.head, self.snapshot
        lines = self._proxy.lines(snapshot, head, call.request_id, call.principal)
        keep_alive = head.keep_alive and not self._proxy.draining
        status = 200
        if head.method == "OPTIONS":
            status, body = 204, b""
            lines += snapshot.cors.preflight(head.preflight_headers)
            reply = replies.empty_head(status, lines, keep_alive=keep_alive)
        else:
            if operation.kind is Kind.HEALTH:
                health = self._livez if operation.name == "livez" else self._readyz
                status, body = health()
            else:
                try:
                    body = self._models(head, call.principal)
                except RelayError as error:
                    status, body = error.status, error.body()
                    call.record.outcome = error.outcome
                    call.record.error = error.code
            reply = replies.whole_head(
                status, len(body), lines, http11=head.http11, keep_alive=keep_alive
            )
        call.client.send(reply if head.method == "HEAD" else reply + body)
        if operation.kind is not Kind.HEALTH:
            call.record.duration = monotonic() - call.received
            self._recorded(call.record, status)
        call.client.end(keep_alive)

    def _models(self, head: Head, principal: Principal | None) -> bytes:
        """What the caller's key may use: the list, or the one that the path names."""
        assert principal is not None, "screened"
        snapshot = self.snapshot
        name = head.tail
        if name is None:
            data = [snapshot.describe(route) for route in snapshot.allowed(principal)]
            return _encode({"object": "list", "data": data})
        return _encode(snapshot.describe(snapshot.route(name, principal)))

    def _recorded(self, record: CallRecord, status: int) -> None:
        record.code = status
        self._proxy.emit(record)
