"""Host names: looked up beside the loop, remembered, and served stale while the resolver fails.

Each look-up has a thread of its own, one a name at a time. The loop's own look-ups share four threads (libuv's), of
which two may be at it at once: two names whose servers say nothing would keep every other upstream's name from being
found, for the half minute that the C library waits. A thread per name bounds that to the name itself; there are never
more of them than names in the configuration, and being daemons they do not hold up the end of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from threading import Thread

import aiohappyeyeballs

NAME_TTL = 30.0
"""Seconds for which an answer is fresh."""
NAME_STALE = 3600.0
"""Seconds for which an old answer serves while the resolver fails."""
NAME_REST = 1.0
"""Seconds after a failure before the resolver is asked again behind an old answer."""

Found = list[aiohappyeyeballs.AddrInfoType]

LookUp = Callable[[str], Found]
"""Blocks, in a thread of its own. Raises OSError or UnicodeError when there is no address."""


def look_up(host: str) -> Found:
    """Asks the system, in its order of preference (RFC 6724)."""
    return [
        (family, kind, number, name, address)
        for family, kind, number, name, address in socket.getaddrinfo(
            host, 0, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
        # A Python without IPv6 gives such addresses in another shape.
        if isinstance(address[0], str)
    ]


class _Answer:
    """What a name led to."""

    __slots__ = ("addresses", "fresh_until", "stale_until")

    def __init__(self, addresses: Found, now: float) -> None:
        self.addresses = addresses
        self.fresh_until = now + NAME_TTL
        self.stale_until = now + NAME_STALE


class Names:
    """What names resolved to. Lives as long as its dialer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, look_up: LookUp = look_up) -> None:
        self._loop = loop
        self._look_up = look_up
        self._known: dict[str, _Answer] = {}
        self._asking: dict[str, asyncio.Future[Found]] = {}

    async def find(self, host: str, port: int) -> Found:
        """Addresses of the name. Raises OSError when there are none and none is remembered."""
        known = self._known.get(host)
        now = self._loop.time()
        if known is None or now >= known.fresh_until:
            asking = self._asking.get(host)
            if asking is None:
                asking = self._ask(host)
            if known is None or now >= known.stale_until:
                # A dial that is given up must not take the look-up with it: others may wait for the same name.
                return _at(await asyncio.shield(asking), port)
        return _at(known.addresses, port)

    def _ask(self, host: str) -> asyncio.Future[Found]:
        asking: asyncio.Future[Found] = self._loop.create_future()
        asking.add_done_callback(lambda future: self._answered(host, future))
        self._asking[host] = asking
        try:
            Thread(target=self._run, args=(host, asking), name="name", daemon=True).start()
        except RuntimeError:
            asking.set_exception(OSError("no thread for a look-up"))
        return asking

    def _run(self, host: str, asking: asyncio.Future[Found]) -> None:
        """In the thread."""
        found: Found = []
        fault: Exception | None = None
        try:
            found = self._look_up(host)
        except Exception as error:
            fault = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(_tell, asking, found, fault)

    def _answered(self, host: str, asking: asyncio.Future[Found]) -> None:
        del self._asking[host]
        if asking.cancelled():
            return
        now = self._loop.time()
        if asking.exception() is None:
            self._known[host] = _Answer(asking.result(), now)
        elif host in self._known:
            self._known[host].fresh_until = now + NAME_REST

    def close(self) -> None:
        """Nobody waits any more; threads that are still at it end by themselves."""
        for asking in list(self._asking.values()):
            asking.cancel()


def _tell(asking: asyncio.Future[Found], found: Found, fault: Exception | None) -> None:
    if asking.done():
        return
    if found:
        asking.set_result(found)
    else:
        asking.set_exception(fault or OSError("no address"))


def _at(addresses: Found, port: int) -> Found:
    return [
        (family, kind, number, name, (address[0], port, *address[2:]))
        for family, kind, number, name, address in addresses
    ]
