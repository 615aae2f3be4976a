"""Opens connections to endpoints: names, happy eyeballs, TLS.

A dial is a task that its asker may cancel; a failed one is told by the label of its fault, never raised into the
loop. Names are looked up in a thread (aiohttp's resolver), remembered for `NAME_TTL`, refreshed behind a stale
answer and served stale up to `NAME_STALE`, so that a dead resolver takes no upstream with it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import aiohappyeyeballs
from aiohttp.resolver import DefaultResolver

from relay.upstream.wire import Connection, Connections

NAME_TTL = 30.0
"""Seconds for which an answer is fresh."""
NAME_STALE = 3600.0
"""Seconds for which an old answer serves while the resolver fails."""
HAPPY_EYEBALLS_DELAY = 0.25
"""Seconds before the next address is tried beside the first (RFC 8305)."""

Fault = str
"""`dns_error`, `connect_refused`, `connect_timeout`, `tls_error`."""

Waiter = Callable[[Connection | None, Fault], None]


class Target(Protocol):
    """What a dial must know of an endpoint."""

    host: str
    port: int
    tls: bool
    connect: float
    ca_file: Path | None


@lru_cache(maxsize=64)
def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """The verifying context for endpoints with these extra authorities. Reading the system's takes long."""
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


class _Names:
    """What names resolved to. One look-up a name at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._clock = loop.time
        self._resolver = DefaultResolver()
        self._known: dict[tuple[str, int], tuple[float, list[aiohappyeyeballs.AddrInfoType]]] = {}
        self._asking: dict[tuple[str, int], asyncio.Task[list[aiohappyeyeballs.AddrInfoType]]] = {}

    async def find(self, host: str, port: int) -> list[aiohappyeyeballs.AddrInfoType]:
        """Addresses of the name. Raises OSError when there are none and none is remembered."""
        key = (host, port)
        known = self._known.get(key)
        now = self._clock()
        if known is not None and now - known[0] < NAME_TTL:
            return known[1]
        asking = self._asking.get(key)
        if asking is None:
            asking = asyncio.create_task(self._ask(host, port))
            self._asking[key] = asking
            asking.add_done_callback(lambda task: self._answered(key, task))
        if known is not None and now - known[0] < NAME_STALE:
            return known[1]
        # A dial that is given up must not take the look-up with it: others may wait for the same name.
        return await asyncio.shield(asking)

    async def _ask(self, host: str, port: int) -> list[aiohappyeyeballs.AddrInfoType]:
        found = await self._resolver.resolve(host, port, family=socket.AF_UNSPEC)
        infos: list[aiohappyeyeballs.AddrInfoType] = []
        for entry in found:
            family = entry["family"]
            address = (entry["host"], entry["port"])
            full = (*address, 0, 0) if family == socket.AF_INET6 else address
            infos.append((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", full))
        if not infos:
            raise OSError("no address")
        self._known[(host, port)] = (self._clock(), infos)
        return infos

    def _answered(
        self, key: tuple[str, int], task: asyncio.Task[list[aiohappyeyeballs.AddrInfoType]]
    ) -> None:
        del self._asking[key]
        if not task.cancelled():
            task.exception()  # looked at, so that a failed refresh behind a stale answer is not reported

    async def close(self) -> None:
        for task in list(self._asking.values()):
            task.cancel()
        await self._resolver.close()


class Dialer:
    """Lives as long as the process; owns every dial that is under way."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._names = _Names(loop)
        self._dials: set[asyncio.Task[None]] = set()

    def dial(self, target: Target, pool: Connections, waiter: Waiter) -> asyncio.Task[None]:
        """Connects; then calls `waiter` with a connection, or None and the fault. Cancelling the task calls nobody."""
        task = asyncio.create_task(self._dial(target, pool, waiter))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)
        return task

    async def _dial(self, target: Target, pool: Connections, waiter: Waiter) -> None:
        connection: Connection | None = None
        fault = ""
        stage = ["dns_error"]
        try:
            async with asyncio.timeout(target.connect):
                connection = await self._connect(target, pool, stage)
        except TimeoutError:
            # A name server that never answers is a DNS fault; everything else that hangs is the connection's.
            fault = "dns_error" if stage[0] == "dns_error" else "connect_timeout"
        except ssl.SSLError:
            fault = "tls_error"
        except (OSError, UnicodeError):
            fault = stage[0]
        waiter(connection, fault)

    async def _connect(self, target: Target, pool: Connections, stage: list[str]) -> Connection:
        now = self._loop.time()
        context = tls_context(target.ca_file) if target.tls else None
        name = target.host if target.tls else None
        if _is_address(target.host):
            stage[0] = "connect_refused"
            _, connection = await self._loop.create_connection(
                lambda: Connection(pool, now),
                target.host,
                target.port,
                ssl=context,
                server_hostname=name,
            )
        else:
            infos = await self._names.find(target.host, target.port)
            stage[0] = "connect_refused"
            sock = await aiohappyeyeballs.start_connection(
                infos, happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY, interleave=1, loop=self._loop
            )
            try:
                _, connection = await self._loop.create_connection(
                    lambda: Connection(pool, now), sock=sock, ssl=context, server_hostname=name
                )
            except BaseException:
                sock.close()
                raise
        pool.made(connection)
        return connection

    async def close(self) -> None:
        """Gives up every dial under way."""
        for task in list(self._dials):
            task.cancel()
        await asyncio.gather(*self._dials, return_exceptions=True)
        await self._names.close()


@lru_cache(maxsize=1024)
def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
