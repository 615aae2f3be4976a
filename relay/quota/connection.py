"""One connection to a Redis server, by redis-py: opening it, who is at the other end, frames, and what went wrong.

The library is imported here and nowhere else, and only when a store is configured. What goes wrong is told in a word of
ours: its own messages may quote an address.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import Any, Final

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from relay.config.storeaddress import StoreAddress
from relay.quota import script

CONNECT: Final = 1.0
"""Seconds for a connection, and for each word of the greeting."""
OLDEST: Final = 6
"""The oldest version of Redis whose scripts do what ours needs."""

STEP: Final = 0.01
"""Seconds of silence are counted in steps. One that came late does not count: this process was busy, or had no
processor, and so perhaps had the store."""
LATE: Final = 0.005
"""Seconds."""
MOST_STEPS: Final = 40
"""Late or not."""

_CODE: Final = re.compile(r"[A-Z]{3,20}")


class StoreFailed(Exception):
    """The store did not do what it should; `reason` is a word for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Line:
    """A connection. Dies with the first thing that goes wrong."""

    def __init__(self, address: StoreAddress) -> None:
        self._address = address
        self._connection = _connection(address)
        self._script = script.source()
        self._digest = script.digest(self._script)
        self._key = script.meta_key(address.prefix)
        self.mark = ""
        """Which server this is: another one after every restart and failover."""

    async def open(self) -> None:
        """Connects and looks who is there. Raises StoreFailed."""
        try:
            async with asyncio.timeout(CONNECT):
                await self._connection.connect()
                server = _fields(await self._ask("INFO", "server"))
                replication = _fields(await self._ask("INFO", "replication"))
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreFailed(_reason(error)) from None
        version = server.get("redis_version", "")
        if not version.partition(".")[0].isdecimal() or int(version.partition(".")[0]) < OLDEST:
            raise StoreFailed("version")
        if server.get("redis_mode") == "sentinel":
            raise StoreFailed("sentinel")
        if replication.get("role") != "master":
            raise StoreFailed("readonly")
        self.mark = f"{server.get('run_id')} {replication.get('master_replid')}"

    async def say(self, frame: bytes, patience: float) -> bytes:
        """The script's answer to a frame. Raises StoreFailed, also after so many seconds of silence."""
        try:
            async with _Patience(patience):
                try:
                    answer = await self._ask("EVALSHA", self._digest, 1, self._key, frame)
                except NoScriptError:
                    answer = await self._ask("EVAL", self._script, 1, self._key, frame)
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreFailed(_reason(error)) from None
        if not isinstance(answer, bytes):
            raise StoreFailed("protocol")
        return answer

    async def listen(self) -> None:
        """From now on it only listens to what the script calls out."""
        try:
            async with asyncio.timeout(CONNECT):
                await self._ask("SUBSCRIBE", script.channel(self._address.prefix))
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreFailed(_reason(error)) from None

    async def heard(self) -> bytes:
        """What is called out next."""
        try:
            message = await self._connection.read_response(disable_decoding=True)
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreFailed(_reason(error)) from None
        if not isinstance(message, list) or not isinstance(message[-1], bytes):
            raise StoreFailed("protocol")
        return message[-1]

    async def close(self) -> None:
        try:
            await self._connection.disconnect(nowait=True)
        except (RedisError, OSError, TimeoutError):
            return

    async def _ask(self, *words: Any) -> Any:
        await self._connection.send_command(*words, check_health=False)
        return await self._connection.read_response(disable_decoding=True)


class _Patience:
    """Ends what is under way after so many seconds of silence in which the loop turned."""

    def __init__(self, seconds: float) -> None:
        self._left = round(seconds / STEP)
        self._most = max(self._left, MOST_STEPS)
        self._due = 0.0
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._wait()

    async def __aexit__(self, *what: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._timeout.__aexit__(*what)

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now <= self._due + LATE:
            self._left -= 1
        self._most -= 1
        if self._left < 0 or self._most < 0:
            self._timeout.reschedule(now)
            return
        self._due = now + STEP
        self._timer = loop.call_later(STEP, self._wait)


def _connection(address: StoreAddress) -> Any:
    """Not open yet."""
    options: dict[str, Any] = {
        "db": address.database,
        "username": address.user,
        "password": address.password,
        "client_name": "relay",
        "socket_timeout": None,
        "socket_connect_timeout": CONNECT,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    if address.socket:
        return UnixDomainSocketConnection(path=address.socket, **options)
    options |= {"host": address.host, "port": address.port}
    if not address.tls:
        return Connection(**options)
    return SSLConnection(
        ssl_cert_reqs="required",
        ssl_check_hostname=True,
        ssl_ca_certs=address.ca_file,
        ssl_min_version=ssl.TLSVersion.TLSv1_2,
        **options,
    )


def _fields(info: Any) -> dict[str, str]:
    text = info.decode("utf-8", "replace") if isinstance(info, bytes) else ""
    lines = (line.partition(":") for line in text.splitlines())
    return {name: value for name, _, value in lines if value}


_REASONS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (TimeoutError, "silent"),
    (ReadOnlyError, "readonly"),
    (BusyLoadingError, "loading"),
    (OutOfMemoryError, "out_of_memory"),
    (AuthenticationError, "password"),
    (MovedError, "moved"),
    (ClusterDownError, "clusterdown"),
    (ssl.SSLError, "tls"),
)


def _reason(error: BaseException) -> str:
    """In a word: the first of an error the server has sent, else what we know of it."""
    cause: BaseException | None = error
    while cause is not None:
        for kind, reason in _REASONS:
            if isinstance(cause, kind):
                return reason
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, ResponseError):
        code = _CODE.match(str(error))
        return "error" if code is None else code[0].lower()
    return "unreachable"
