"""What open pages are told, by server-sent events: everything at once, then each second what has changed.

Rules that hold here:
- what is told is made once a second for all pages, and only while there is one;
- nothing queues up: a page that reads slowly skips what it missed, one that reads nothing is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from aiohttp import web

from relay.errors import Overloaded
from relay.page.facts import Answer

PERIOD: Final = 1.0
"""Seconds between two tellings."""
PATIENCE: Final = 10.0
"""Seconds a page may take nothing while its buffers are full."""
MOST: Final = 200
"""Pages at once."""
FULL: Final = 64 * 1024
"""Bytes that may wait for one page beyond what the kernel takes."""
RETRY: Final = b"retry: 2000\n\n"
"""Milliseconds until a page whose connection broke comes again."""

_PARTS: Final[dict[str, tuple[str, ...]]] = {
    "history": ("history",),
    "calls": ("failures", "refusals"),
    "served": ("served",),
    "latest": ("latest",),
    "reload": ("reload",),
}
"""What is told apart from `now`, because it seldom changes: events by name, and the fields of each."""

_ASKED: Final = frozenset({"latest"})
"""Told to pages that ask for it (`/events?latest`): much, and new each second, for a table that is mostly folded."""

_APART: Final = frozenset(name for names in _PARTS.values() for name in names)
_NOW: Final = tuple(name for name in Answer.__struct_fields__ if name not in _APART)

_encode = msgspec.json.Encoder().encode


def frame(event: str, data: bytes) -> bytes:
    """One event. JSON has no line breaks of its own, so that one line of data is enough."""
    return b"event: %b\ndata: %b\n\n" % (event.encode("ascii"), data)


def frames(answer: Answer) -> dict[str, bytes]:
    """The whole of an answer, by event."""
    parts = {"now": _NOW} | _PARTS
    return {
        event: frame(event, _encode({name: getattr(answer, name) for name in names}))
        for event, names in parts.items()
    }


class Live:
    """The open pages. Lives as long as the admin port."""

    def __init__(
        self, look: Callable[[], Awaitable[Answer]], failed: Callable[[Exception], None]
    ) -> None:
        """`look` is called on the event loop; `failed` is told what it raised."""
        self._look = look
        self._failed = failed
        self._frames: dict[str, bytes] = {}
        self._turn = asyncio.Event()
        """Set when there is something new."""
        self._telling: asyncio.Task[None] | None = None
        self._closed = False
        self.pages = 0

    async def close(self) -> None:
        """The end of the port: all pages are let go."""
        self._closed = True
        telling = self._telling
        self._stop()
        self._turn.set()
        if telling is not None:
            await asyncio.wait([telling])

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Tells one page until it leaves. Raises `Overloaded`."""
        if self.pages >= MOST or self._closed:
            raise Overloaded
        self.pages += 1
        try:
            if self._telling is None:
                self._telling = asyncio.get_running_loop().create_task(self._tell_on())
            return await self._stream(request)
        finally:
            self.pages -= 1
            if not self.pages:
                self._stop()

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"X-Accel-Buffering": "no"})
        response.content_type = "text/event-stream"
        await response.prepare(request)
        transport = request.transport
        if request.method == "HEAD" or transport is None:
            return response
        transport.set_write_buffer_limits(high=FULL)
        told: dict[str, bytes] = {}
        asked = request.query
        news = [RETRY]
        try:
            while not self._closed:
                turn = self._turn
                news += [
                    each
                    for event, each in self._frames.items()
                    if told.get(event) != each and (event not in _ASKED or event in asked)
                ]
                told = self._frames
                async with asyncio.timeout(PATIENCE):
                    await response.write(b"".join(news))
                news = []
                await turn.wait()
        except TimeoutError:
            transport.abort()
        except ConnectionError:
            pass
        return response

    async def _tell_on(self) -> None:
        while True:
            try:
                self._frames = frames(await self._look())
            except Exception as error:
                self._failed(error)
            turn, self._turn = self._turn, asyncio.Event()
            turn.set()
            await asyncio.sleep(PERIOD)

    def _stop(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        # They are of the past when somebody comes again.
        self._frames = {}
