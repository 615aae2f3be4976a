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
from relay.exchange import Exchange
from relay.operations import Kind, Operation
from relay.proxy import Proxy
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

    @property
    def underway(self) -> int:
        """Calls that run."""
        return len(self._proxy.active)

    def report(self, error: BaseException) -> None:
        """A bug of ours showed itself."""
        self._proxy.report(error)

    def screen(self, head: Head, peer: str | None) -> Principal | None:
        """Who asks. Raises the answer to a request that its head alone condemns."""
        if head.refusal is not None:
            raise head.refusal
        if head.method == "OPTIONS":
            # A preflight has no key, and a browser must be able to read even a 404.
            return None
        operation = head.operation
        if operation is None:
            raise errors.UnknownUrl(f"Invalid URL ({head.method} {head.path[:200]})")
        if head.method not in operation.methods:
            raise errors.MethodNotSupported(", ".join((*operation.methods, "OPTIONS")))
        if operation.kind == Kind.HEALTH:
            return None
        snapshot = self.snapshot
        address = snapshot.client_address(peer, head)
        principal = snapshot.principals.authenticate(
            head.authorization, address, time(), snapshot.is_local(peer, head)
        )
        if operation.kind == Kind.CHAT:
            if head.content_type != "application/json":
                raise errors.UnsupportedContentType
            if head.encoded:
                raise errors.UnsupportedContentEncoding
            if not principal.restricted:
                # The next request with these very bytes is judged already, until the configuration changes.
                head.seen = (snapshot, principal)
        return principal

    def start(self, call: Call) -> Exchange | None:
        """Answers the call, or starts what will. None: it is answered already."""
        head = call.head
        operation = head.operation
        if head.method == "OPTIONS":
            self._preflight(call)
            return None
        assert operation is not None, "screened"
        if operation.kind == Kind.CHAT:
            exchange = self._proxy.handle(call, self.snapshot)
            return None if exchange.over else exchange
        self._answer(call, operation)
        return None

    def refuse(
        self,
        client: Client,
        head: Head | None,
        error: RelayError,
        record: CallRecord,
        principal: Principal | None,
        *,
        keep_alive: bool,
    ) -> None:
        """Answers with an error and records it."""
        request_id = record.request_id.encode()
        lines = self._proxy.lines(self.snapshot, head, request_id, principal) + error.headers()
        body = error.body()
        http11 = head is None or head.http11
        reply = replies.whole_head(
            error.status, len(body), lines, http11=http11, keep_alive=keep_alive
        )
        bodyless = head is not None and head.method == "HEAD"
        client.send(reply if bodyless else reply + body)
        if error.key is not None:
            record.key = error.key
        record.refused(error)
        self._proxy.emit(record)
        client.end(keep_alive)

    def _preflight(self, call: Call) -> None:
        head, snapshot = call.head, self.snapshot
        lines = self._proxy.lines(snapshot, head, call.request_id, None)
        lines += snapshot.cors.preflight(head.preflight_headers)
        keep_alive = head.keep_alive and not self._proxy.draining
        call.client.send(replies.empty_head(204, lines, keep_alive=keep_alive))
        self._recorded(call.record, 204)
        call.client.end(keep_alive)

    def _answer(self, call: Call, operation: Operation) -> None:
        """The operations that the relay answers itself."""
        head, record = call.head, call.record
        status = 200
        if operation.kind == Kind.HEALTH:
            status, body = (self._livez if operation.name == "livez" else self._readyz)()
        else:
            try:
                body = self._models(head, call.principal)
            except RelayError as error:
                status, body = error.status, error.body()
                record.outcome = error.outcome
                record.error = error.code
        lines = self._proxy.lines(self.snapshot, head, call.request_id, call.caller)
        keep_alive = head.keep_alive and not self._proxy.draining
        reply = replies.whole_head(
            status, len(body), lines, http11=head.http11, keep_alive=keep_alive
        )
        call.client.send(reply if head.method == "HEAD" else reply + body)
        if operation.kind != Kind.HEALTH:
            # Probes come every second from every balancer: they are no calls.
            record.duration = monotonic() - call.received
            self._recorded(record, status)
        call.client.end(keep_alive)

    def _models(self, head: Head, principal: Principal) -> bytes:
        """What the caller's key may use: the list, or the one that the path names."""
        snapshot = self.snapshot
        name = head.tail
        if name is None:
            data = [snapshot.describe(route) for route in snapshot.allowed(principal)]
            return _encode({"object": "list", "data": data})
        return _encode(snapshot.describe(snapshot.route(name, principal)))

    def _recorded(self, record: CallRecord, status: int) -> None:
        record.code = status
        self._proxy.emit(record)
