"""The data port: aiohttp's server with a protocol of ours.

aiohttp gives the listening server (`web.Server` under its runner) and its C parser for request heads (`heads`); a
request is handled in the callback that completed it, by its `ClientConnection`: no task, no request object, no router.
"""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import web

from relay.connection import ClientConnection
from relay.port import Port

FLUSH = 5.0
"""Seconds the last answers get to leave at shutdown."""


class Front(web.Server):
    """Makes a `ClientConnection` for every connection it accepts."""

    def __init__(self, port: Port) -> None:
        super().__init__(_never, loop=asyncio.get_running_loop())
        self.port = port

    def __call__(self) -> ClientConnection:  # type: ignore[override]  # in place of RequestHandler
        return ClientConnection(self.port)

    def pre_shutdown(self) -> None:
        """Nothing: who is idle may be about to ask once more, and is served with `Connection: close`."""

    async def shutdown(self, timeout: float | None = None) -> None:
        """Closes every connection after a flush; what is still there after `FLUSH` seconds is cut."""
        empty = asyncio.Event()
        self.port.on_empty = empty.set
        for client in list(self.port.clients):
            client.close()
        if self.port.clients:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH):
                    await empty.wait()
        for client in list(self.port.clients):
            client.abort()


async def _never(request: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError("requests do not reach aiohttp's own handler")
