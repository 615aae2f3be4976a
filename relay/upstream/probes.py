"""Asks ejected endpoints whether they are back, so that no call has to find out.

While an endpoint with a `probe` is ejected, no call is its half-open probe: a `GET` with its credential is. The first
is sent when the ejection is over, so that an upstream whose `/models` answers while its models fail is left alone as
long as ever, and longer each time; then they go on, at the probe's own pace, which does not become slower.

- 2xx, and its body, close the breaker.
- No connection, no answer in time, 5xx, 408, 425, 429 eject for longer.
- Any other answer (a 404 where there is no such path, a 403 of a key that may only chat) says nothing about calls: the
  next call is the probe, as without this module, until the endpoint is ejected anew.

Nothing is asked of an endpoint that serves: its calls say more of it than any `/models`, a dead one costs them a dial
that is free and not seen by the client, and an error of `/models` alone would take a good upstream away. Nor of one
that is parked: a bill or a key has to be seen to first.

This is control plane, and runs beside the calls on `aiohttp.ClientSession`: on fresh connections, which prove the dial,
too; without redirects, proxies of the environment, netrc or cookies. aiohttp-retry asks once more, and only where the
connection broke (a backend that has just come up resets its first ones): a retried answer would be left unread. Its own
log would tell the text of exceptions, so it has none. Not compiled: it is no part of any call.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from math import inf
from random import Random
from typing import Any, Final

import aiohttp
from aiohttp_retry import ExponentialRetry, RetryClient
from yarl import URL

from relay import __version__
from relay.upstream import tls
from relay.upstream.breaker import State
from relay.upstream.endpoint import Endpoint

ANSWER: Final = 5.0
"""Seconds for an answer, beside those to connect."""
AT_ONCE: Final = 32
"""Probes of one process under way; the others wait for a look."""
TRIES: Final = 2
"""Of one probe, where the connection breaks."""
REST: Final = 0.1
"""Seconds, half of what lies between these."""

ENOUGH: Final = 65536
"""Bytes of an answer. It has to come: a front may send its head while what is behind it hangs."""

_ASK_LATER: Final = frozenset((408, 425, 429))
"""Statuses under 500 that say: not now."""


class _Watch:
    """One endpoint. Lives as long as a configuration wants it probed."""

    __slots__ = ("due", "endpoint", "interval", "task", "ticket", "tripped_at", "url")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.interval = 0.0
        self.url = URL()
        self.due = 0.0
        self.tripped_at = -inf
        """The ejection that `due` belongs to."""
        self.ticket = 0
        self.task: asyncio.Task[None] | None = None


class Probes:
    """Lives as long as the process; owns every probe that is under way."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, rng: Random | None = None, answer: float = ANSWER
    ) -> None:
        self._loop = loop
        self._rng = rng or Random()  # noqa: S311  jitter is no secret
        self._answer = answer
        self._watches: dict[Endpoint, _Watch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None

    def watch(self, endpoints: Iterable[tuple[Endpoint, float, str]]) -> None:
        """From now on these, each with its interval (seconds) and path, and no others."""
        before, self._watches = self._watches, {}
        for endpoint, interval, path in endpoints:
            watch = before.pop(endpoint) if endpoint in before else _Watch(endpoint)
            self._watches[endpoint] = watch
            watch.interval = interval
            watch.url = _url(endpoint, path)
            endpoint.breaker.watched = True
        for watch in before.values():
            watch.endpoint.breaker.watched = False
            if watch.task is not None:
                watch.task.cancel()
                # Not in the task: one that has not begun yet is not told.
                self._nothing_learnt(watch, "the probe was given up")

    def look(self, now: float) -> None:
        """A clock's regular look: whoever is ejected and due is asked."""
        for watch in self._watches.values():
            breaker = watch.endpoint.breaker
            if breaker.state is State.CLOSED:
                continue
            if watch.tripped_at != breaker.tripped_at:
                watch.tripped_at = breaker.tripped_at
                watch.due = breaker.until
                breaker.watched = True
            due = breaker.watched and breaker.state is State.OPEN and now >= watch.due
            if due and not _parked(watch.endpoint, now) and len(self._tasks) < AT_ONCE:
                self._begin(watch)

    async def close(self) -> None:
        """Gives up every probe under way."""
        self.watch(())
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _begin(self, watch: _Watch) -> None:
        endpoint = watch.endpoint
        account = endpoint.account
        account.begun = watch.ticket = account.begun + 1
        endpoint.breaker.ask(watch.ticket, f"is asked for {watch.url.raw_path}")
        endpoint.moved()
        watch.task = task = asyncio.create_task(self._probe(watch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _probe(self, watch: _Watch) -> None:
        status, fault = 0, ""
        try:
            async with asyncio.timeout(watch.endpoint.connect + self._answer):
                status = await self._ask(watch)
        except TimeoutError:
            fault = "timeout"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Its text may tell the request, and the credential with it.
            fault = type(error).__name__
        watch.task = None
        if status >= 500 or status in _ASK_LATER:
            fault = str(status)
        if fault or 200 <= status < 300:
            self._learnt(watch, fault)
        else:
            watch.endpoint.breaker.watched = False
            self._nothing_learnt(watch, f"a probe says nothing: {status}")

    def _learnt(self, watch: _Watch, fault: str) -> None:
        now = self._loop.time()
        endpoint = watch.endpoint
        watch.due = now + watch.interval * (1 + self._rng.random()) / 2
        if endpoint.breaker.answered(now, watch.ticket, endpoint.account.begun, fault):
            endpoint.moved()

    def _nothing_learnt(self, watch: _Watch, reason: str) -> None:
        endpoint = watch.endpoint
        if endpoint.breaker.given_back(self._loop.time(), watch.ticket, reason):
            endpoint.moved()

    async def _ask(self, watch: _Watch) -> int:
        """The status that it answers. Raises what aiohttp raises, with the credential in its depths."""
        endpoint = watch.endpoint
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        if endpoint.credential is not None:
            headers["authorization"] = f"Bearer {endpoint.credential}"
        context: ssl.SSLContext | bool = tls.context(endpoint.ca_file) if endpoint.tls else True
        client = RetryClient(
            client_session=self._sessions(),
            logger=_Silent(),
            retry_options=ExponentialRetry(
                attempts=TRIES,
                start_timeout=REST,
                exceptions={aiohttp.ClientConnectionError},
                retry_all_server_errors=False,
            ),
        )
        asked = client.get(
            watch.url,
            headers=headers,
            ssl=context,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=endpoint.connect),
        )
        async with asked as response:
            read = 0
            async for piece in response.content.iter_any():
                read += len(piece)
                if read >= ENOUGH:
                    break
            return response.status

    def _sessions(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"user-agent": f"relay/{__version__}"},
                trust_env=False,
                auto_decompress=False,
            )
        return self._session


def _url(endpoint: Endpoint, path: str) -> URL:
    scheme = "https" if endpoint.tls else "http"
    place = (endpoint.authority + endpoint.base_path).decode("ascii")
    return URL(f"{scheme}://{place}{path}", encoded=True)


def _parked(endpoint: Endpoint, now: float) -> bool:
    return endpoint.park.until > now or endpoint.account.park.until > now


class _Silent:
    """What aiohttp-retry has for a log."""

    def debug(self, msg: str, *args: Any, **kwargs: Any) -> None:
        pass

    warning = exception = debug
