"""A plain answer that is too large to hold: passed on as it comes, broken off if it breaks.

There is no room for an error inside a JSON body, so the missing end of the transfer is the message: SDKs raise on it.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from relay.call import Client
from relay.chunked import LAST_CHUNK, frame, unframed
from relay.endings import BROKEN, CAUSES, Committed, Ending, Limits
from relay.records import Cause
from relay.timers import NEVER, Wheel
from relay.upstream.wire import Connection
from relay.usage import Usage, usage_at_end

TAIL: Final = 2048
"""Bytes of the end that are kept: upstreams write the usage last."""


class Passage(Committed):
    """One such answer on its way. Dies at its end."""

    __slots__ = (
        "_chunked",
        "_client",
        "_connection",
        "_keep_alive",
        "_limits",
        "_owner",
        "_stalled",
        "_tail",
        "_wheel",
        "last",
        "over",
        "slot",
        "usage",
    )

    def __init__(
        self,
        owner: Ending,
        client: Client,
        wheel: Wheel,
        limits: Limits,
        *,
        chunked: bool,
        keep_alive: bool,
    ) -> None:
        self._owner = owner
        self._client = client
        self._wheel = wheel
        self._limits = limits
        self._chunked = chunked
        self._keep_alive = keep_alive
        self._tail = b""
        self._connection: Connection | None = None
        self._stalled = 0.0
        self.last = 0.0
        self.over = False
        self.slot = NEVER
        self.usage: Usage | None = None

    def begin(self, head: bytes, body: bytes, connection: Connection, now: float) -> None:
        self._connection = connection
        self.last = now
        connection.receiver = self
        self._client.send(head)
        self.payload(body)
        if not self.over:
            self._expect()
        if self._client.choked:
            self.pause()

    def pause(self) -> None:
        if self._connection is not None and not self.over:
            self._connection.pause()
            self._stalled = monotonic()
            self._expect()

    def resume(self) -> None:
        if self._connection is not None and self._stalled:
            self._stalled = 0.0
            self.last = monotonic()
            self._expect()
            self._connection.resume()

    def cancel(self) -> None:
        self._release()

    def read_on(self, nobody: Client) -> None:
        """As a stream does."""
        self._client = nobody
        self.resume()

    def break_off(self, cause: Cause, message: str, code: str | None) -> None:
        """There is no room for an error in a JSON body: the missing rest is the message."""
        if not self.over:
            self._release()
            self._client.break_off()
            self._owner.stream_ended(cause)

    def chunks(self, data: bytes, first: int) -> None:
        self.payload(unframed(data, first))

    def payload(self, data: bytes) -> None:
        if data and not self.over:
            self.last = monotonic()
            self._tail = (self._tail + data[-TAIL:])[-TAIL:]
            self._client.send(frame(data) if self._chunked else data)

    def ended(self, by_close: bool) -> None:
        if self.over:
            return
        if by_close and not self._tail.rstrip().endswith(b"}"):
            # Without framing, the brace that closes the object is the only sign of the end.
            self.lost("truncated")
            return
        self._connection = None
        self._release()
        self.usage = usage_at_end(self._tail)
        if self._chunked:
            self._client.send(LAST_CHUNK)
        self._client.end(keep_alive=self._keep_alive)
        self._owner.stream_ended("done")

    def lost(self, fault: str) -> None:
        self.break_off(CAUSES.get(fault, "upstream_reset"), *BROKEN)

    def expired(self, now: float) -> None:
        if self.over:
            return
        limits = self._limits
        if self._stalled and now - self._stalled >= limits.write_stall:
            self._release()
            self._client.abort()
            self._owner.stream_ended("write_stall")
        elif now >= limits.total_deadline:
            self.break_off("total_timeout", *BROKEN)
        elif not self._stalled and now - self.last >= limits.idle:
            self.break_off("idle_timeout", *BROKEN)
        else:
            self._expect()

    def _expect(self) -> None:
        limits = self._limits
        since = self._stalled + limits.write_stall if self._stalled else self.last + limits.idle
        self._wheel.drop(self)
        self._wheel.add(self, min(limits.total_deadline, since))

    def _release(self) -> None:
        self.over = True
        self._wheel.drop(self)
        connection = self._connection
        self._connection = None
        if connection is not None and connection.receiver is self:
            connection.close()
