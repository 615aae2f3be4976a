"""The upstream side of the wire: connections that send one request at a time and read its answer.

The one place where the project writes what a library offers, because a call through a client library costs
several times what a whole call may. Decides nothing: it reads strictly, reports to a `Receiver`, and either goes
back into the pool clean or is closed. Rules that hold here:
- a connection is reused only when the answer ended by its own framing, nothing followed it, and the request had left;
- bytes on an idle connection mean that it is broken;
- `Receiver.chunks` is the splice: it gets the upstream's bytes as they came.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, cast

from relay.chunked import SIZES, BadFraming, Chunked, size_of, whole_events
from relay.upstream.headers import MAX_HEAD, ResponseHead, parse_head
from relay.upstream.sips import SIP, Sips

if TYPE_CHECKING:
    from relay.upstream.connections import Connections

MAX_INFORMATIONAL: Final = 16
"""1xx heads before the answer."""
STALE_WITHIN: Final = 2.0
"""Seconds after a request in which a kept connection that breaks without a byte was closed before the request: round
trips of a far upstream, and a lost packet. Any later, the upstream had the request and may have worked on it."""
ONE_WRITE: Final = 65536
"""Bytes up to which head and body are joined for one write."""

_AT_ONCE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: what was not sent is thrown away, and the peer is told of the end now."""

_HEAD: Final = 0
_CHUNKED: Final = 1
_LENGTH: Final = 2
_UNTIL_CLOSE: Final = 3
_IDLE: Final = 4
_CLOSED: Final = 5


class Receiver(Protocol):
    """Who is told of the answer. After `ended` or `lost` nothing more comes."""

    def headed(self, head: ResponseHead) -> None: ...

    def whole(self, head: ResponseHead, body: bytes) -> None:
        """In place of `headed`, `payload` and `ended`: the whole answer came at once, as short ones do."""

    def chunks(self, data: bytes, first: int) -> None:
        """One chunk, or several of whole events, exactly as they came; the first payload begins at `first`."""

    def payload(self, data: bytes) -> None:
        """A piece of the body without its framing; never empty."""

    def ended(self, by_close: bool) -> None:
        """The body is complete, as far as its framing can tell (`by_close`: it had none)."""

    def lost(self, fault: str) -> None:
        """The connection broke: `reset_before_headers`, `stale_conn`, `reset`, `truncated` or `bad_framing`."""


class Connection(asyncio.Protocol):
    """One connection to one endpoint."""

    __slots__ = (
        "_buffer",
        "_chunked",
        "_informational",
        "_left",
        "_sipping",
        "_state",
        "born",
        "early",
        "idle_since",
        "keep_alive",
        "paused",
        "pool",
        "receiver",
        "transport",
        "used",
    )

    def __init__(self, pool: Connections, now: float) -> None:
        self.pool = pool
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.receiver: Receiver | None = None
        self._state = _IDLE
        self._buffer = b""
        self._chunked: Chunked | None = None
        self._left = 0
        self._informational = 0
        self._sipping = False
        self.keep_alive = False
        self.early = False
        """The last answer was whole before its request had left."""
        self.paused = False
        self.used = 0
        self.born = now
        self.idle_since = now
        """Or, while it is in use, since when it was."""

    def send(self, receiver: Receiver, head: bytes, body: bytes) -> None:
        """Sends one request. The answer is reported to `receiver`."""
        if self._state == _CLOSED:
            # Lost between the dial and the request. Told later, since the asker is not ready to hear it yet.
            asyncio.get_running_loop().call_soon(receiver.lost, "reset_before_headers")
            return
        self.receiver = receiver
        self._state = _HEAD
        self._informational = 0
        if len(body) <= ONE_WRITE:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)

    @property
    def idle(self) -> bool:
        """Ready for a request."""
        return self._state == _IDLE

    def close(self) -> None:
        """Cancels whatever is running: the upstream sees the connection go, the receiver hears nothing."""
        self.receiver = None
        if self._state != _CLOSED:
            self._state = _CLOSED
            self.pool.forget(self)
            if self.transport is not None:
                _forget_unsent(self.transport)
                self.transport.abort()

    def pause(self) -> None:
        """Stops reading: the upstream is slowed by its own socket buffer."""
        if self._state != _CLOSED and not self.paused:
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._state != _CLOSED and self.paused:
            self.paused = False
            self.transport.resume_reading()

    # -- asyncio.Protocol --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            receiver = self.receiver
            if self._state == _CHUNKED and self._chunked is None and receiver is not None:
                # One whole chunk a segment is what nearly every event of nearly every upstream is.
                if data[3:5] == b"\r\n":
                    eol = 3
                elif data[2:4] == b"\r\n":
                    eol = 2
                else:
                    eol = data.find(b"\r\n", 0, 10)
                line = data[:eol]
                size = SIZES.get(line) or size_of(line)
                fits = size and size <= SIP and len(data) == eol + 4 + size
                if fits and data.endswith(b"\r\n"):
                    receiver.chunks(data, eol + 2)
                    return
            self._take(data)
        except Exception as error:
            self.pool.report(error)
            self._fail("reset")

    def _take(self, data: bytes) -> None:
        receiver = self.receiver
        if self._state == _CHUNKED and receiver is not None:
            if len(data) > SIP and not self._sipping:
                self._sipping = True
                self.transport.set_protocol(Sips(self))
            if self._chunked is None:
                first = whole_events(data)
                if first > 0:
                    receiver.chunks(data, first)
                    return
                self._chunked = Chunked()
            self._feed_chunked(data)
        elif self._state == _HEAD:
            self._feed_head(data)
        elif self._state == _LENGTH:
            self._feed_length(data)
        elif self._state == _UNTIL_CLOSE:
            if receiver is not None:
                receiver.payload(data)
        else:
            self.close()

    def eof_received(self) -> None:
        """Half-close: nothing more can come, so it is a close to us (None closes the transport)."""

    def connection_lost(self, exc: Exception | None) -> None:
        state, receiver = self._state, self.receiver
        self._state = _CLOSED
        self.receiver = None
        self.pool.forget(self)
        if receiver is None:
            return
        if state == _HEAD:
            answered = self._buffer or self._informational
            stale = self.used and not answered and self.pool.since(self.idle_since) < STALE_WITHIN
            receiver.lost("stale_conn" if stale else "reset_before_headers")
        elif state == _UNTIL_CLOSE and exc is None:
            receiver.ended(True)
        elif state in (_CHUNKED, _LENGTH, _UNTIL_CLOSE):
            receiver.lost("truncated" if exc is None else "reset")

    # -- reading --

    def _fail(self, fault: str) -> None:
        receiver = self.receiver
        self.close()
        if receiver is not None:
            receiver.lost(fault)

    def _feed_head(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0 or end > MAX_HEAD:
                if len(data) > MAX_HEAD or (len(data) >= 5 and data[:5] != b"HTTP/"):
                    self._fail("bad_framing")
                else:
                    self._buffer = data
                return
            try:
                head = parse_head(data[:end])
            except BadFraming:
                self._fail("bad_framing")
                return
            data = data[end + 4 :]
            if head.status >= 200:
                break
            self._informational += 1
            if head.status == 101 or self._informational > MAX_INFORMATIONAL:
                self._fail("bad_framing")
                return
        self._begin_body(head, data)

    def _begin_body(self, head: ResponseHead, data: bytes) -> None:
        receiver = self.receiver
        assert receiver is not None, "a head is read only for a receiver"
        self.keep_alive = head.keep_alive
        if head.chunked:
            self._state = _CHUNKED
            self._chunked = None
        elif head.length is None:
            self._state = _UNTIL_CLOSE
            self.keep_alive = False
        elif head.length == len(data) and head.content_type != b"text/event-stream":
            self._free(b"")
            receiver.whole(head, data)
            return
        else:
            self._state = _LENGTH
            self._left = head.length
        receiver.headed(head)
        # The receiver may have closed us in answer to the head.
        if self._state == _LENGTH:
            if self._left:
                if data:
                    self._feed_length(data)
            else:
                self._complete(data)
        elif data and self._state != _CLOSED:
            self._take(data)

    def _feed_length(self, data: bytes) -> None:
        receiver = self.receiver
        if receiver is None:
            return
        left = self._left - len(data)
        if left > 0:
            self._left = left
            receiver.payload(data)
            return
        self._left = 0
        if left < 0:
            receiver.payload(data[:left])
            rest = data[left:]
        else:
            receiver.payload(data)
            rest = b""
        if self._state == _LENGTH:
            self._complete(rest)

    def _feed_chunked(self, data: bytes) -> None:
        chunked = self._chunked
        receiver = self.receiver
        if chunked is None or receiver is None:
            return
        try:
            payload = chunked.feed(data)
        except BadFraming as bad:
            if bad.payload:
                receiver.payload(bad.payload)
            self._fail("bad_framing")
            return
        if payload:
            receiver.payload(payload)
        if self._state != _CHUNKED:
            return
        if chunked.done:
            self._complete(chunked.rest)
        elif chunked.at_boundary:
            self._chunked = None

    def _complete(self, rest: bytes) -> None:
        """The answer is whole: the connection is free (or closed) before the receiver hears of it."""
        receiver = self.receiver
        self._free(rest)
        if receiver is not None:
            receiver.ended(False)

    def _free(self, rest: bytes) -> None:
        self.receiver = None
        self._chunked = None
        self.used += 1
        self.early = self.transport.get_write_buffer_size() > 0
        if rest or self.early or not self.keep_alive:
            self.close()
        else:
            self._state = _IDLE
            if self._sipping:
                self._sipping = False
                self.transport.set_protocol(self)
            self.pool.put(self)


def _forget_unsent(transport: asyncio.Transport) -> None:
    """Makes the end a reset where something was not sent.

    Else the kernel keeps what it has of a request, and offers it for minutes to a peer that reads nothing.
    """
    # One that closes by itself has given its descriptor back: it may be another connection's by now.
    if transport.is_closing() or not transport.get_write_buffer_size():
        return
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
