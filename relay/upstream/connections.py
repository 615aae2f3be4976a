"""The connections of one endpoint that wait for their next request."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from relay.upstream.endpoint import Endpoint
    from relay.upstream.wire import Connection

MAX_KEPT: Final = 1000
"""Idle connections of one endpoint."""


class Connections:
    """The connections of one endpoint: those that are idle, freshest last. Lives as long as its endpoint."""

    __slots__ = ("_clock", "_idle", "max_age", "max_idle", "max_kept", "open", "report")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        max_idle: float,
        max_age: float,
        report: Callable[[BaseException], None],
    ) -> None:
        self.report = report
        """Is told of bugs of ours that a receiver ran into; its call fails, the others go on."""
        self._clock = loop.time
        self._idle: deque[Connection] = deque()
        self.max_idle = max_idle
        """Seconds; below the upstream's own, so that we are the one who closes (uvicorn: 5 s)."""
        self.max_age = max_age
        """Seconds; so that a changed DNS answer is found."""
        self.max_kept = MAX_KEPT
        """Idle ones."""
        self.open: set[Connection] = set()

    def limit(self, max_idle: float, max_age: float, max_kept: int) -> None:
        """The limits from now on, as a reload may change them."""
        self.max_idle = max_idle
        self.max_age = max_age
        self.max_kept = max_kept

    def take(self, now: float) -> Connection | None:
        """The freshest idle connection that is still good, or None."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if not connection.idle:
                continue
            transport = connection.transport
            if (
                now - connection.idle_since > self.max_idle
                or now - connection.born > self.max_age
                or transport.is_closing()
            ):
                connection.close()
                continue
            connection.idle_since = now
            return connection
        return None

    def since(self, then: float) -> float:
        """Seconds gone by."""
        return self._clock() - then

    def made(self, connection: Connection) -> None:
        self.open.add(connection)

    def put(self, connection: Connection) -> None:
        """Takes back a connection that is ready for another request."""
        connection.idle_since = self._clock()
        connection.resume()
        idle = self._idle
        idle.append(connection)
        while len(idle) > self.max_kept:
            oldest = idle.popleft()
            if oldest.idle:
                oldest.close()

    def forget(self, connection: Connection) -> None:
        self.open.discard(connection)

    def trim(self, now: float) -> None:
        """Closes what has been idle or alive too long; the oldest stand first."""
        idle = self._idle
        while idle:
            oldest = idle[0]
            if oldest.idle and now - oldest.idle_since <= self.max_idle:
                return
            idle.popleft()
            if oldest.idle:
                oldest.close()

    def close(self) -> None:
        """Closes the idle ones; those in use end with their calls."""
        while self._idle:
            self._idle.pop().close()


def connections_of(endpoint: Endpoint) -> Connections:
    """The connections of an endpoint, which the snapshot gave it."""
    connections = endpoint.connections
    assert isinstance(connections, Connections), "the snapshot gives every endpoint its connections"
    return connections
