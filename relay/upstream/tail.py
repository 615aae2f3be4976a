"""The end of an upstream's answer after its last event has been passed on.

`[DONE]` came and the client has its answer; what is missing is the end of the framing, after which the connection can
be used again.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from relay.timers import NEVER, Wheel
from relay.upstream.wire import Connection

TAIL_WAIT: Final = 2.0
"""Seconds in which the framing may end."""


class Tail:
    """Waits for the end of the framing after `[DONE]`; anything else closes the connection."""

    __slots__ = ("_connection", "_wheel", "slot")

    def __init__(self, connection: Connection, wheel: Wheel) -> None:
        self._connection = connection
        self._wheel = wheel
        self.slot = NEVER
        wheel.add(self, monotonic() + TAIL_WAIT)

    def headed(self, head: object) -> None: ...

    def whole(self, head: object, body: bytes) -> None: ...

    def chunks(self, data: bytes, first: int) -> None:
        self._close()

    def payload(self, data: bytes) -> None:
        if data.strip():
            self._close()

    def ended(self, by_close: bool) -> None:
        self._wheel.drop(self)

    def lost(self, fault: str) -> None:
        self._wheel.drop(self)

    def expired(self, now: float) -> None:
        self._close()

    def _close(self) -> None:
        self._wheel.drop(self)
        self._connection.close()
