"""Opens connections to endpoints: names, happy eyeballs, TLS.

A dial is a task that its asker may cancel; a failed one is told by the label of its fault, never raised into the
loop. Where names lead is `names`' business, whom TLS trusts is `tls`'.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import ssl
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final, Protocol

import aiohappyeyeballs

from relay.upstream import tls
from relay.upstream.connections import Connections
from relay.upstream.names import LookUp, Names, look_up
from relay.upstream.wire import Connection

HAPPY_EYEBALLS_DELAY = 0.25
"""Seconds before the next address is tried beside the first (RFC 8305)."""

Fault = str
"""`dns_error`, `connect_refused`, `connect_timeout`, `tls_error`, `no_descriptor`."""

_OUR_OWN: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
"""What this host is short of says nothing about an upstream."""

Waiter = Callable[[Connection | None, Fault], None]


class Target(Protocol):
    """What a dial must know of an endpoint."""

    host: str
    port: int
    tls: bool
    connect: float
    ca_file: Path | None


class Dialer:
    """Lives as long as the process; owns every dial that is under way."""

    def __init__(self, loop: asyncio.AbstractEventLoop, look_up: LookUp = look_up) -> None:
        self._loop = loop
        self._names = Names(loop, look_up)
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
        except (OSError, UnicodeError) as error:
            fault = stage[0]
            if isinstance(error, OSError) and error.errno in _OUR_OWN:
                fault = "no_descriptor"
        except Exception as error:
            # A bug of ours must not leave the asker without an answer.
            pool.report(error)
            fault = stage[0]
        waiter(connection, fault)

    async def _connect(self, target: Target, pool: Connections, stage: list[str]) -> Connection:
        now = self._loop.time()
        context = tls.context(target.ca_file) if target.tls else None
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
        self._names.close()


@lru_cache(maxsize=1024)
def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
