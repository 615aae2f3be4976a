"""The facts of one client request, parsed once: its head, its body, who asks.

A `Head` holds only what follows from the bytes of the request head, so that equal heads share one (the
front remembers them); a `Call` adds what is true of this one request. `Client` is what the hot path may do to the
connection the call came on; the front implements it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from relay.operations import Operation
from relay.records import CallRecord
from relay.tracecontext import Parent

if TYPE_CHECKING:
    from relay.admission.principals import Principal
    from relay.errors import RelayError
    from relay.snapshot import Snapshot


class Head:
    """What a request's head says. Immutable and shared between equal requests; made by the front."""

    __slots__ = (
        "after",
        "authorization",
        "before",
        "client_request_id",
        "content_type",
        "encoded",
        "expect_continue",
        "first_token",
        "forward",
        "forwarded_for",
        "http11",
        "keep_alive",
        "method",
        "operation",
        "origin",
        "parent",
        "path",
        "preflight_headers",
        "real_ip",
        "refusal",
        "seen",
        "tail",
        "trace_id",
        "untraced",
    )

    before: bytes
    after: bytes
    """Its bytes on either side of the digits of its content-length; empty when it cannot be recognised by them."""
    method: str
    path: str
    """As sent, without the query."""
    operation: Operation | None
    tail: str | None
    """The rest of the path where the operation has one (a model's name)."""
    http11: bool
    keep_alive: bool
    authorization: bytes | None
    content_type: str
    """Lower case, parameters cut; empty when absent."""
    encoded: bool
    """The body has a content coding other than identity."""
    expect_continue: bool
    origin: bytes | None
    preflight_headers: bytes | None
    """`Access-Control-Request-Headers` of an OPTIONS request."""
    forwarded_for: str | None
    real_ip: str | None
    client_request_id: str | None
    trace_id: str | None
    parent: Parent | None
    """The span of the client's that it belongs to."""
    forward: bytes
    """Header lines that travel on to the upstream, by allow-list, each with its CR LF."""
    untraced: bytes
    """Those of them that are not of a trace."""
    first_token: float | None
    """`x-relay-first-token-ms`, in seconds."""
    seen: tuple[Snapshot, Principal] | None
    """Whose key it is, as this configuration says, where neither the client's address nor the time counts."""
    refusal: RelayError | None
    """What the head alone condemns the request to (version, expectation, loop, a junk header)."""

    def with_key(self, authorization: bytes, before: bytes, after: bytes) -> Head:
        """The same head with another key in it."""
        head = Head()
        head.before, head.after = before, after
        head.method, head.path = self.method, self.path
        head.operation, head.tail = self.operation, self.tail
        head.http11, head.keep_alive = self.http11, self.keep_alive
        head.authorization = authorization
        head.content_type, head.encoded = self.content_type, self.encoded
        head.expect_continue, head.origin = self.expect_continue, self.origin
        head.preflight_headers = self.preflight_headers
        head.forwarded_for, head.real_ip = self.forwarded_for, self.real_ip
        head.client_request_id, head.trace_id = self.client_request_id, self.trace_id
        head.parent, head.untraced = self.parent, self.untraced
        head.forward, head.first_token = self.forward, self.first_token
        head.seen = None
        head.refusal = self.refusal
        return head

    def again(self, data: bytes) -> int:
        """Where the body begins if `data` begins with this very head, be it for a body of another length; else 0."""
        before, after = self.before, self.after
        if not after or not data.startswith(before):
            return 0
        at = len(before)
        stop = data.find(b"\r", at, at + 12)
        end = stop + len(after)
        return end if data[stop:end] == after and data[at:stop].isdigit() else 0


class Client(Protocol):
    """The client's connection, as a call in progress may use it. Nothing here waits or raises."""

    def send(self, data: bytes) -> None:
        """Writes bytes; ones that come after the client left are dropped."""

    def end(self, keep_alive: bool) -> None:
        """The answer is complete: the next request may come, or the connection closes after a flush."""

    def break_off(self) -> None:
        """Closes after what was written is flushed, without an end of the body: the client sees a broken transfer."""

    def abort(self) -> None:
        """Closes at once; what was not flushed is lost."""

    choked: bool
    """More is waiting to be sent than the high-water mark allows."""


class Call:
    """One request on its way. Dies when its record is emitted."""

    __slots__ = (
        "body",
        "caller",
        "client",
        "head",
        "received",
        "record",
        "request_id",
    )

    def __init__(
        self,
        client: Client,
        head: Head,
        request_id: bytes,
        received: float,
        principal: Principal | None,
        body: bytes,
        record: CallRecord,
    ) -> None:
        self.client = client
        self.head = head
        self.request_id = request_id
        self.received = received
        """Seconds of the loop's clock."""
        self.caller = principal
        """Whose key it is; None for what needs no key."""
        self.body = body
        """The client's original bytes; dropped at the commit, since nothing can be tried again then."""
        self.record = record

    @property
    def principal(self) -> Principal:
        """Who pays. Calls that need a key have one: `Reception.screen` made sure of it."""
        assert self.caller is not None, "screened"
        return self.caller


_LAST_DIGITS: Final = [f"{number:02x}" for number in range(256)]


class RequestIds:
    """Ids of requests: unique over workers and restarts, cheap, and telling nothing."""

    __slots__ = ("_block", "_count", "_prefix")

    def __init__(self, prefix: str) -> None:
        self._prefix = f"req_{prefix}"
        self._block = f"{self._prefix}000000"
        """The id of the last call without its last two digits."""
        self._count = 0

    def next(self) -> str:
        self._count = count = self._count + 1
        if not count & 0xFF:
            self._block = f"{self._prefix}{count >> 8:06x}"
        return self._block + _LAST_DIGITS[count & 0xFF]
