"""One connection of a client: requests in, answers out, in order.

What costs most of a plain request is parsing, so a head that was accepted before, but for its content-length, is
recognised by its bytes (`heads.HeadMemo`), and what follows from it (whose key it is) is remembered with it. Rules:
- one request at a time; what is pipelined behind it waits unread in `_stash`;
- nothing is trusted that the parser has not accepted; a request that it refuses is answered as JSON, then closed;
- a head has `header` seconds, a body `body`, an idle connection `keep_alive`;
- the client closing its side, even half, means that it is gone.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final, cast

from relay import errors
from relay.admission.principals import Principal
from relay.call import Call, Head
from relay.chunked import BadFraming, Chunked
from relay.errors import RelayError
from relay.exchange import Exchange
from relay.heads import HeadParser
from relay.port import Port
from relay.timers import NEVER

MAX_STASH: Final = 65536
"""Bytes pipelined behind a running call that are held."""
MAX_DRAINED: Final = 65536
"""Bytes of an unwanted body that are read away so that the client sees the answer before the close."""
LINGER: Final = 2.0
"""Seconds in which it is read away."""
HIGH_WATER: Final = 32768
"""Bytes waiting for a slow client, beside the kernel's `listener.MAX_UNSENT`, at which its upstream is paused."""

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


_IDLE: Final = 0
_HEAD: Final = 1
_BODY: Final = 2
_BUSY: Final = 3
_DISCARD: Final = 4
_CLOSED: Final = 5


class ClientConnection(asyncio.Protocol):
    """One connection of a client. Implements `call.Client`.

    States: idle → head (a part of one) → body → busy (a call is under way) → idle …; discard (answered before its
    body was read: the rest is thrown away) → closed.
    """

    __slots__ = (
        *("_body", "_chunked", "_exchange", "_front", "_have", "_head", "_need", "_parser"),
        *("_recent", "_spilled", "_stash", "_state", "_transport", "_unread"),
        *("address", "choked", "deadline", "principal", "slot", "surplus"),
    )

    def __init__(self, front: Port) -> None:
        self._transport: asyncio.Transport | None = None
        self._front = front
        self._state = _IDLE
        self._stash = b""
        self._parser: HeadParser | None = None
        self._head: Head | None = None
        self._recent: Head | None = None
        """The last one: a client of ours says the same again and again."""
        self.principal: Principal | None = None
        """Who asks, while a request is received."""
        self._body: list[bytes] = []
        self._have = 0
        self._need = 0
        self._chunked: Chunked | None = None
        self._exchange: Exchange | None = None
        self._unread = False  # the request was answered before it was read
        self._spilled = False  # what came behind the running call was dropped
        self.address: str | None = None
        """The peer's."""
        self.choked = False
        self.surplus = False
        """There was no room for it: it is answered once, and closed."""
        self.deadline = 0.0
        self.slot = NEVER

    # -- asyncio.Protocol --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        peer = transport.get_extra_info("peername")
        self.address = peer[0] if peer else None
        # A connection that never says anything has as long as a head that never ends.
        self._expect(self._front.arrived(self, monotonic()))

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
        elif self._stash:
            asyncio.get_running_loop().call_soon(self._next)

    def data_received(self, data: bytes) -> None:
        state = self._state
        try:
            if state == _IDLE and not self._stash and not self.choked:
                self._read_head(data)
            elif state == _HEAD:
                self._read_more_head(data)
            elif state == _BODY:
                self._read_body(data)
            elif state in (_BUSY, _IDLE):
                # What is pipelined waits: for its turn, for the stash before it, for a client that does not read.
                self._stash += data
                if len(self._stash) > MAX_STASH:
                    self._too_much()
            elif state == _DISCARD:
                self._have += len(data)
                if self._have > MAX_DRAINED:
                    self.abort()
        except Exception as error:
            self._front.reception.report(error)
            self._broke()

    def _too_much(self) -> None:
        """More is pipelined than is held."""
        if self._exchange is not None:
            # Reading goes on, or nobody would notice that the client leaves; the connection ends with the answer.
            self._stash = b""
            self._spilled = True
        elif self._transport is not None:
            self._transport.pause_reading()

    # -- reading a request --

    def _read_head(self, data: bytes) -> None:
        recent = self._recent
        if recent is not None:
            end = recent.again(data)
            if end:
                length = int(data[len(recent.before) : end - len(recent.after)])
                self._screen(recent, length, data, end)
                return
        found = self._front.memo.find(data)
        if found is not None:
            head, length, end = found
            self._screen(head, length, data, end)
            return
        data = data.lstrip(b"\r\n")  # RFC 9112 §2.2: blank lines before a request are skipped
        if data:
            self._parser = HeadParser(self._front.memo)
            self._state = _HEAD
            self._front.receiving.add(self)
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
            self._refuse(error)
            return
        if request is not None:
            self._parser = None
            if request.chunked:
                self._chunked = Chunked()
            self._screen(request.head, request.length, parser.data, request.end)

    def _screen(self, head: Head, length: int, data: bytes, end: int) -> None:
        """The head is whole, the body begins at `end`: who asks, and may it go on?"""
        reception = self._front.reception
        snapshot = reception.snapshot
        self._head = self._recent = head
        self._need = length
        self._state = _BUSY
        self._front.waiting.pop(self, None)
        seen = head.seen
        try:
            if seen is not None and seen[0] is snapshot:
                self.principal = seen[1]
            else:
                self.principal = reception.screen(head, self.address)
            if length > snapshot.max_body:
                raise errors.BodyTooLarge
            if self.surplus or self._front.overload.shedding:
                self._front.admit(head, self.surplus)
        except RelayError as error:
            self._refuse(error, len(data) - end)
            return
        if len(data) - end == length and self._chunked is None:
            self._start(data[end:], b"")
            return
        rest = data[end:]
        self._state = _BODY
        self._front.receiving.add(self)
        self._have = 0
        self._expect(self._front.patience.body)
        if head.expect_continue and not rest:
            self.send(_CONTINUE)
        if rest or (not length and self._chunked is None):
            self._read_body(rest)

    def _read_body(self, data: bytes) -> None:
        if self._chunked is not None:
            self._read_chunked(self._chunked, data)
            return
        self._body.append(data)
        self._have += len(data)
        if self._have >= self._need:
            body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            self._start(body[: self._need], body[self._need :])

    def _read_chunked(self, chunked: Chunked, data: bytes) -> None:
        try:
            piece = chunked.feed(data)
        except BadFraming:
            self._refuse(errors.MalformedRequest())
            return
        self._have += len(piece)
        self._body.append(piece)
        if self._have > self._front.reception.snapshot.max_body:
            self._refuse(errors.BodyTooLarge())
        elif chunked.done:
            self._chunked = None
            self._start(b"".join(self._body), chunked.rest)

    def _start(self, body: bytes, rest: bytes) -> None:
        """The request is whole: it becomes a call."""
        head = self._head
        assert head is not None, "a body follows its head"
        self._state = _BUSY
        self._body = []
        self._stash = rest
        self._front.receiving.discard(self)
        record = self._front.record(head, self.address, self.principal)
        id, now = record.request_id.encode(), monotonic()
        call = Call(self, head, id, now, self.principal, body, record)
        exchange = self._front.reception.start(call)
        if exchange is not None:  # else it is answered, and the next one may have begun
            self._exchange = exchange

    def _refuse(self, error: RelayError, unread: int = -1) -> None:
        """Answers instead of starting a call. The connection goes on only if the whole request was read:
        `unread` bytes are there behind the head."""
        head = self._head
        whole = (
            head is not None
            and self._chunked is None
            and unread == self._need
            and head.refusal is None
            and not head.expect_continue
        )
        self._state = _BUSY
        self._body = []
        self._chunked = None
        self._front.receiving.discard(self)
        self._unread = not whole
        record = self._front.record(head, self.address, self.principal)
        self._front.reception.refuse(
            self,
            head,
            error,
            record,
            self.principal,
            keep_alive=whole and head is not None and head.keep_alive and not self.surplus,
        )

    def _broke(self) -> None:
        """A bug of ours met a request. If no call answers for it, this does."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.broke()
        elif self._state not in (_CLOSED, _DISCARD, _IDLE):
            self._refuse(errors.InternalError())

    # -- call.Client --

    def send(self, data: bytes) -> None:
        transport = self._transport
        if transport is not None:
            transport.write(data)

    def end(self, keep_alive: bool) -> None:
        self._exchange = None
        self.principal = None
        self._head = None
        if self._state == _CLOSED:
            return
        if not keep_alive or self._spilled or self.surplus or self._front.reception.draining:
            self._unread = self._unread or self._spilled
            self.break_off()
            return
        self._state = _IDLE
        self._front.waiting[self] = self._expect(self._front.patience.keep_alive)
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
        self._front.waiting.pop(self, None)
        if unread and transport.can_write_eof():
            # Closing with bytes unread resets the connection, and the reset may overtake the answer.
            self._have = 0
            transport.write_eof()
            self._expect(LINGER)
        else:
            transport.close()
            if transport.get_write_buffer_size():
                # It waits for a reader that may never read.
                self._expect(self._front.reception.snapshot.write_stall)

    def abort(self) -> None:
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def _next(self) -> None:
        if self._state == _IDLE and self._stash and not self.choked:
            data, self._stash = self._stash, b""
            if self._transport is not None:
                self._transport.resume_reading()
            self.data_received(data)

    # -- time --

    def close(self) -> None:
        """Closes once what was written is flushed, whatever is under way."""
        if self._transport is not None and self._state != _DISCARD:
            self._unread = False
            self.break_off()

    @property
    def is_idle(self) -> bool:
        return self._state == _IDLE

    def give_way(self) -> None:
        """Others need the place of this one, for which nothing runs. Who has begun to ask is answered."""
        if self._state == _IDLE and not self.surplus:
            self.break_off()
        elif self._state in (_IDLE, _HEAD):
            self._parser = None
            self._refuse(errors.Overloaded(wait=self._front.overload.turned()))
        elif self._state == _DISCARD and self._transport is not None:
            self._transport.close()

    def _expect(self, seconds: float) -> float:
        """Something must happen within `seconds` from now, which is returned. The wheel is asked only when the deadline
        moves earlier."""
        now = monotonic()
        deadline = now + seconds
        if self.slot == NEVER or deadline < self.deadline:
            self._front.wheel.drop(self)
            self._front.wheel.add(self, deadline)
        self.deadline = deadline
        return now

    def expired(self, now: float) -> None:
        if self._state in (_BUSY, _CLOSED):
            return
        if now < self.deadline:
            self._front.wheel.add(self, self.deadline)
        elif self._state == _DISCARD or self.choked:
            self.abort()
        elif self._state == _IDLE or (self._state == _HEAD and self.surplus):
            self.give_way()
        else:
            self._parser = None
            self._refuse(errors.RequestTimeout())
