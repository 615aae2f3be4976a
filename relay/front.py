"""The client side of the wire: aiohttp's server with a protocol of ours.

aiohttp gives the listening server (`web.Server` under its runner), its flow control and its C parser for request
heads; this module reads the framing around them. A request is handled in the callback that completed it: no task,
no request object, no router. What costs most of a plain request is parsing, so a head that was accepted before, but
for its content-length, is recognised by its bytes (`HeadMemo`).

Rules that hold here:
- one request at a time on a connection; what is pipelined behind it waits unread in `_stash`;
- nothing is trusted that the parser has not accepted; a request that it refuses is answered as JSON and closed;
- a head has `header` seconds, a body `body`, an idle connection `keep_alive`;
- the client closing its side, even half, means that it is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic, time
from typing import cast

from aiohttp import web

from relay import errors
from relay.admission.principals import Principal
from relay.call import Call, Head
from relay.chunked import BadFraming, Chunked
from relay.errors import RelayError
from relay.heads import HeadMemo, HeadParser, Request
from relay.proxy import Exchange
from relay.reception import Reception
from relay.records import CallRecord
from relay.timers import NEVER, Wheel

MAX_STASH = 65536
"""Bytes pipelined behind a running call that are held before reading pauses."""
MAX_DRAINED = 65536
"""Bytes of an unwanted body that are read away so that the client sees the answer before the close."""
LINGER = 2.0
"""Seconds in which it is read away."""
FLUSH = 5.0
"""Seconds the last answers get to leave at shutdown."""
HIGH_WATER = 65536
"""Bytes waiting for a slow client at which its upstream is paused."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Patience:
    """Seconds, from `server.timeouts`; replaced whole by a reload."""

    __slots__ = ("body", "header", "keep_alive")

    def __init__(self, header: float, body: float, keep_alive: float) -> None:
        self.header = header
        self.body = body
        self.keep_alive = keep_alive


class Front(web.Server):
    """The data port. Makes a `ClientConnection` for every connection it accepts."""

    def __init__(
        self, reception: Reception, wheel: Wheel, ids: RequestIds, patience: Patience
    ) -> None:
        super().__init__(_never, loop=asyncio.get_running_loop())
        self.reception = reception
        self.wheel = wheel
        self.ids = ids
        self.patience = patience
        self.memo = HeadMemo()
        self.clients: set[ClientConnection] = set()
        self._closing = False
        self._empty = asyncio.Event()

    def __call__(self) -> ClientConnection:  # type: ignore[override]  # our protocol in place of RequestHandler
        return ClientConnection(self)

    def pre_shutdown(self) -> None:
        """Closes connections on which nothing is under way; the others close after their answer."""
        for client in list(self.clients):
            client.close_if_idle()

    async def shutdown(self, timeout: float | None = None) -> None:
        """Closes every connection after a flush; what is still there after `FLUSH` seconds is cut."""
        for client in list(self.clients):
            client.close()
        self._closing = True
        if self.clients:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH):
                    await self._empty.wait()
        for client in list(self.clients):
            client.abort()

    def gone(self, client: ClientConnection) -> None:
        self.clients.discard(client)
        if self._closing and not self.clients:
            self._empty.set()


async def _never(request: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError("requests do not reach aiohttp's own handler")


class RequestIds:
    """Ids of requests: unique over workers and restarts, cheap, and telling nothing."""

    __slots__ = ("_count", "_prefix")

    def __init__(self, prefix: str) -> None:
        self._prefix = f"req_{prefix}".encode()
        self._count = 0

    def next(self) -> bytes:
        self._count += 1
        return b"%b%08x" % (self._prefix, self._count)


_IDLE, _HEAD, _BODY, _BUSY, _DISCARD, _CLOSED = range(6)


class ClientConnection(asyncio.Protocol):
    """One connection of a client. Implements `call.Client`.

    States: idle → head (a part of one) → body → busy (a call is under way) → idle …; discard (answered before its
    body was read: the rest is thrown away) → closed.
    """

    __slots__ = (
        "_body",
        "_chunked",
        "_exchange",
        "_front",
        "_have",
        "_need",
        "_parser",
        "_principal",
        "_request",
        "_stash",
        "_state",
        "_unread",
        "_transport",
        "address",
        "choked",
        "deadline",
        "slot",
    )

    def __init__(self, front: Front) -> None:
        self._transport: asyncio.Transport | None = None
        self._front = front
        self._state = _IDLE
        self._stash = b""
        self._parser: HeadParser | None = None
        self._request: Request | None = None
        self._principal: Principal | None = None
        self._body: list[bytes] = []
        self._have = 0
        self._need = 0
        self._chunked: Chunked | None = None
        self._exchange: Exchange | None = None
        self._unread = False
        """The request was answered before it was read."""
        self.address: str | None = None
        """The peer's."""
        self.choked = False
        self.deadline = 0.0
        self.slot = NEVER

    # -- asyncio.Protocol --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        peer = transport.get_extra_info("peername")
        self.address = peer[0] if peer else None
        front = self._front
        front.clients.add(self)
        # A connection that never says anything has as long as a head that never ends.
        self._expect(front.patience.header)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._state = _CLOSED
        self._transport = None
        self._front.gone(self)
        self._front.wheel.drop(self)
        self._body = []
        exchange = self._exchange
        if exchange is not None:
            self._exchange = None
            exchange.client_gone()

    def eof_received(self) -> None:
        """A half-close counts as gone; returning None lets the transport close."""

    def pause_writing(self) -> None:
        self.choked = True
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        self.choked = False
        if self._exchange is not None:
            self._exchange.resume()

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == _IDLE:
            self._read_head(data)
        elif state == _HEAD:
            self._read_more_head(data)
        elif state == _BODY:
            self._read_body(data)
        elif state == _BUSY:
            self._stash += data
            if len(self._stash) > MAX_STASH and self._transport is not None:
                self._transport.pause_reading()
        elif state == _DISCARD:
            self._have += len(data)
            if self._have > MAX_DRAINED:
                self.abort()

    # -- reading a request --

    def _read_head(self, data: bytes) -> None:
        found = self._front.memo.find(data)
        if found is not None:
            self._screen(found, data)
            return
        while data[:2] == b"\r\n":
            data = data[2:]  # RFC 9112 §2.2: blank lines before a request are skipped
        if data:
            self._parser = HeadParser(self._front.memo)
            self._state = _HEAD
            # The memory of idle connections lets a deadline move later for free, but not earlier.
            self._expect(self._front.patience.header)
            self._read_more_head(data)

    def _read_more_head(self, data: bytes) -> None:
        parser = self._parser
        assert parser is not None, "in this state there is one"
        try:
            request = parser.feed(data)
        except RelayError as error:
            self._parser = None
            self._refuse(None, error)
            return
        if request is not None:
            self._parser = None
            self._screen(request, parser.data)

    def _screen(self, request: Request, data: bytes) -> None:
        """The head is whole: who asks, and may it go on?"""
        head = request.head
        reception = self._front.reception
        self._request = request
        self._state = _BUSY
        try:
            if head.refusal is not None:
                raise head.refusal
            self._principal = reception.screen(head, self.address)
            self._need = request.length
            if request.length > reception.snapshot.max_body:
                raise errors.BodyTooLarge
        except RelayError as error:
            self._refuse(head, error, len(data) - request.end)
            return
        rest = data[request.end :]
        if request.chunked:
            self._chunked = Chunked()
        elif len(rest) == request.length:
            self._start(rest, b"")
            return
        self._state = _BODY
        self._have = 0
        self._expect(self._front.patience.body)
        if head.expect_continue and not rest:
            self.send(_CONTINUE)
        if rest or not self._need and self._chunked is None:
            self._read_body(rest)

    def _read_body(self, data: bytes) -> None:
        chunked = self._chunked
        if chunked is not None:
            try:
                piece = chunked.feed(data)
            except BadFraming:
                self._chunked = None
                self._refuse(self._head, errors.MalformedRequest(), MAX_DRAINED)
                return
            self._have += len(piece)
            self._body.append(piece)
            if self._have > self._front.reception.snapshot.max_body:
                self._chunked = None
                self._refuse(self._head, errors.BodyTooLarge(), MAX_DRAINED)
            elif chunked.done:
                self._chunked = None
                self._start(b"".join(self._body), chunked.rest)
            return
        self._body.append(data)
        self._have += len(data)
        if self._have >= self._need:
            body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            self._start(body[: self._need], body[self._need :])

    def _start(self, body: bytes, rest: bytes) -> None:
        """The request is whole: it becomes a call."""
        front, request = self._front, self._request
        assert request is not None, "a body follows its head"
        self._state = _BUSY
        self._body = []
        self._stash = rest
        record = self._record(request.head)
        call = Call(
            self,
            request.head,
            record.request_id.encode(),
            monotonic(),
            cast(Principal, self._principal),
            body,
            record,
        )
        exchange = front.reception.start(call)
        # It may be answered, and the next one begun, by now.
        if exchange is not None:
            self._exchange = exchange

    @property
    def _head(self) -> Head | None:
        return None if self._request is None else self._request.head

    def _record(self, head: Head | None) -> CallRecord:
        record = CallRecord()
        record.request_id = self._front.ids.next().decode()
        record.received = time()
        record.client = self.address
        if head is not None:
            record.client = self._front.reception.snapshot.client_address(self.address, head)
            record.client_request_id = head.client_request_id
            record.trace_id = head.trace_id
            if head.operation is not None:
                record.operation = head.operation.name
        if self._principal is not None:
            record.key = self._principal.id
        return record

    def _refuse(self, head: Head | None, error: RelayError, unread: int = MAX_DRAINED) -> None:
        """Answers instead of starting a call. The connection goes on only if the whole request was read."""
        self._state = _BUSY
        self._body = []
        request = self._request
        whole = (
            head is not None
            and request is not None
            and not request.chunked
            and head.refusal is None
            and unread == request.length
            and not head.expect_continue
        )
        self._unread = not whole
        record = self._record(head)
        keep_alive = whole and head is not None and head.keep_alive
        self._front.reception.refuse(
            self,
            head,
            error,
            record.request_id.encode(),
            record,
            self._principal,
            keep_alive=keep_alive,
        )

    # -- call.Client --

    def send(self, data: bytes) -> None:
        transport = self._transport
        if transport is not None:
            transport.write(data)

    def end(self, keep_alive: bool) -> None:
        self._exchange = None
        self._principal = None
        self._request = None
        if self._state == _CLOSED:
            return
        if not keep_alive or self._front.reception.draining:
            self.break_off()
            return
        self._state = _IDLE
        self._expect(self._front.patience.keep_alive)
        if self._stash:
            # From the loop, so that a thousand pipelined requests are not a thousand frames deep.
            asyncio.get_running_loop().call_soon(self._next)

    def break_off(self) -> None:
        """Closes once what was written is flushed."""
        self._exchange = None
        transport = self._transport
        if transport is None:
            return
        unread = self._unread
        self._stash = b""
        self._state = _DISCARD
        if unread and transport.can_write_eof():
            # Closing with bytes unread resets the connection, and the reset may overtake the answer.
            self._have = 0
            transport.write_eof()
            self._expect(LINGER)
        else:
            transport.close()

    def abort(self) -> None:
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def _next(self) -> None:
        if self._state == _IDLE and self._stash:
            data, self._stash = self._stash, b""
            if self._transport is not None:
                self._transport.resume_reading()
            self._read_head(data)

    # -- time --

    def close(self) -> None:
        """Closes once what was written is flushed, whatever is under way."""
        if self._transport is not None and self._state != _DISCARD:
            self._unread = False
            self.break_off()

    def close_if_idle(self) -> None:
        if self._state in (_IDLE, _HEAD):
            self.break_off()

    def _expect(self, seconds: float) -> None:
        """Something must happen within `seconds`. The wheel is asked only when the deadline moves earlier."""
        now = monotonic()
        deadline = now + seconds
        if self.slot == NEVER or deadline < self.deadline:
            self._front.wheel.drop(self)
            self._front.wheel.add(self, deadline)
        self.deadline = deadline

    def expired(self, now: float) -> None:
        if self._state in (_BUSY, _CLOSED):
            return
        if now < self.deadline:
            self._front.wheel.add(self, self.deadline)
        elif self._state == _DISCARD:
            self.abort()
        elif self._state == _IDLE:
            self.break_off()
        else:
            self._parser = None
            self._chunked = None
            self._refuse(self._head, errors.RequestTimeout())
