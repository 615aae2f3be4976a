"""The data port: aiohttp's server with a protocol of ours.

aiohttp gives the listening server (`web.Server` under its runner) and its C parser for request heads (`heads`); a
request is handled in the callback that completed it, by its `ClientConnection`: no task, no request object, no router.
"""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import web

from relay.call import RequestIds
from relay.connection import ClientConnection
from relay.heads import HeadMemo
from relay.port import Patience
from relay.reception import Reception
from relay.timers import Wheel

FLUSH = 5.0
"""Seconds the last answers get to leave at shutdown."""


class Front(web.Server):
    """Makes a `ClientConnection` for every connection it accepts. Implements `port.Port`."""

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
        self.receiving: set[ClientConnection] = set()
        self._closing = False
        self._empty = asyncio.Event()

    def __call__(self) -> ClientConnection:  # type: ignore[override]  # in place of RequestHandler
        return ClientConnection(self)

    def came(self, client: ClientConnection) -> None:
        self.clients.add(client)

    def gone(self, client: ClientConnection) -> None:
        self.clients.discard(client)
        self.receiving.discard(client)
        if self._closing and not self.clients:
            self._empty.set()

    def pre_shutdown(self) -> None:
        """Nothing: who is idle may be about to ask once more, and is served with `Connection: close`."""

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


async def _never(request: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError("requests do not reach aiohttp's own handler")
