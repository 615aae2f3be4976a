"""The admin port: metrics, health, status, the page.

Rules that hold here:
- everything is GET or HEAD, and nothing changes anything;
- the whole list of URLs is in `build`; all but the health of the process ask for the token, if there is one;
- the decision to ask is made on the route that matched, never on the path as text;
- whatever takes long (a page of metrics) is made off the event loop.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable
from functools import partial
from hashlib import sha256
from typing import Protocol

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from relay import process
from relay.errors import (
    InternalError,
    InvalidKey,
    MalformedRequest,
    MethodNotSupported,
    RelayError,
    UnknownUrl,
)
from relay.observe import logs
from relay.observe.exposition import OPENMETRICS, TEXT, Snapshot, wants_openmetrics
from relay.page.assets import INDEX, assets, index, policy
from relay.page.events import Live
from relay.page.facts import Answer, StatusReport
from relay.page.verdict import headline

PAGE_AGE = 0.5
"""Seconds a page of metrics is used again: with the wait of a batch of records a scrape is never a second behind."""

_ALLOW = "GET, HEAD"
_JSON = "application/json"
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": policy(),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

log = logs.get("admin")

_encode = msgspec.json.Encoder().encode


class Scraped(Protocol):
    """Whose numbers `/metrics` shows: `metrics.Metrics`."""

    async def copied(self) -> Snapshot:
        """The numbers; on the event loop, a little at a time."""

    def page(self, snapshot: Snapshot, openmetrics: bool) -> bytes:
        """Called in another thread."""


class Readiness(Protocol):
    """Whether this process may get traffic: `health.Health`. An answer is a status and a JSON body."""

    def livez(self) -> tuple[int, bytes]:
        """The process runs."""

    def readyz(self) -> tuple[int, bytes]:
        """It may get new calls."""

    def reason(self) -> str | None:
        """Why it may not, None when it may."""

    def degraded(self) -> list[str]:
        """What is away though it serves."""


Status = Callable[[], Awaitable[StatusReport]]
"""Tells the state of things now. On the event loop, in short pieces."""


Refresh = Callable[[], Awaitable[None]]
"""Asks other processes for their numbers."""


class Guard:
    """Knows the digest of the admin's token. `change` follows a reload."""

    __slots__ = ("_digest",)

    def __init__(self, token: str | None) -> None:
        self._digest: bytes | None = None
        self.change(token)

    def change(self, token: str | None) -> None:
        """None or empty: nobody is asked."""
        self._digest = sha256(token.encode()).digest() if token else None

    def admits(self, authorization: str | None) -> bool:
        """Bearer (Prometheus), or Basic with the token as password and any name (browsers)."""
        if self._digest is None:
            return True
        given = _presented(authorization or "")
        return given is not None and hmac.compare_digest(sha256(given).digest(), self._digest)


def _presented(authorization: str) -> bytes | None:
    scheme, _, rest = authorization.encode("utf-8", "surrogateescape").partition(b" ")
    if scheme.lower() == b"bearer":
        return rest.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return None
    return None


class Pages:
    """The last page of each format, while it is fresh; scrapes that come together share one."""

    __slots__ = ("_lock", "_made", "_pages", "_refresh", "_scraped")

    def __init__(self, scraped: Scraped, refresh: Refresh | None = None) -> None:
        self._scraped = scraped
        self._refresh = refresh
        self._lock = asyncio.Lock()
        self._pages: dict[bool, bytes] = {}
        self._made: dict[bool, float] = {}

    async def get(self, openmetrics: bool) -> bytes:
        """Cancelling it leaves the page unmade; the next one makes it."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            now = loop.time()
            if now - self._made.get(openmetrics, -PAGE_AGE) >= PAGE_AGE:
                if self._refresh is not None:
                    await self._refresh()
                make = self._scraped.page
                with process.collections_rest():
                    snapshot = await self._scraped.copied()
                    page = await loop.run_in_executor(None, make, snapshot, openmetrics)
                    del snapshot
                self._pages[openmetrics] = page
                self._made[openmetrics] = now
            return self._pages[openmetrics]


def build(
    metrics: Scraped,
    readiness: Readiness,
    status: Status,
    guard: Guard,
    refresh: Refresh | None = None,
    data_port: int = 0,
    public_url: Callable[[], str | None] = lambda: None,
) -> web.Application:
    """The application of the admin port, for `Runner`. `refresh` is awaited before a snapshot is taken.

    `data_port`: where clients are served, for the playground; 0 is nowhere. `public_url`: where else, as of now.
    """
    pages = Pages(metrics, refresh)

    async def look() -> Answer:
        report = await status()
        reason = readiness.reason()
        answer = Answer(
            **msgspec.structs.asdict(report),
            ready=reason is None,
            reason=reason,
            degraded=readiness.degraded(),
            data_port=data_port,
            public_url=public_url(),
        )
        answer.headline = headline(answer)
        return answer

    live = Live(look, partial(log.crash, "admin_failed"))

    async def scrape(request: web.Request) -> web.Response:
        openmetrics = wants_openmetrics(request.headers.get("Accept", ""))
        page = await pages.get(openmetrics)
        kind = OPENMETRICS if openmetrics else TEXT
        return web.Response(body=page, headers={"Content-Type": kind, "Vary": "Accept"})

    async def livez(request: web.Request) -> web.Response:
        return _json(*readiness.livez())

    async def readyz(request: web.Request) -> web.Response:
        return _json(*readiness.readyz())

    async def report(request: web.Request) -> web.Response:
        return _json(200, _encode(await look()))

    async def close(app: web.Application) -> None:
        await live.close()

    app = web.Application(middlewares=[_boundary(guard)])
    app.router.add_get("/metrics", scrape)
    app.router.add_get("/livez", livez, name="livez")
    app.router.add_get("/readyz", readyz, name="readyz")
    app.router.add_get("/status.json", report)
    app.router.add_get("/events", live.serve)
    for name, (kind, body) in assets().items():
        if name == INDEX:
            app.router.add_get("/", _index(kind, body, data_port, public_url))
        else:
            app.router.add_get(f"/static/{name}", _asset(kind, body))
    app.on_response_prepare.append(_dress)
    app.on_shutdown.append(close)
    return app


class Runner(web.AppRunner):
    """Runs the application of `build`, and answers what is no HTTP with an error of ours.

    aiohttp's own repeats the line it could not read, which may hold a token, to client and log, and tells its version.
    """

    def __init__(self, app: web.Application) -> None:
        super().__init__(app, access_log=None)

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(made.request_handler, request_factory=made.request_factory, access_log=None)


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        error: RelayError = MalformedRequest()
        if status >= 500:
            error = InternalError()
            if exc is not None:
                log.crash("admin_failed", exc)
        response = _refusal(error)
        response.headers["Server"] = "relay"
        response.force_close()
        return response


def _asset(kind: str, body: bytes) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return answer


def _index(kind: str, body: bytes, port: int, public_url: Callable[[], str | None]) -> Handler:
    """The page itself may call the API beside this port."""

    async def answer(request: web.Request) -> web.Response:
        url = public_url()
        allowed = {"Content-Security-Policy": policy(request.host, port, url)}
        page = index(body, url)
        return web.Response(body=page, content_type=kind, charset="utf-8", headers=allowed)

    return answer


def _boundary(guard: Guard) -> Middleware:
    """Asks for the token, and turns every failure into an error of ours."""

    @web.middleware
    async def boundary(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            open_to_all = request.match_info.route.name in ("livez", "readyz")
            if not open_to_all and not guard.admits(request.headers.get("Authorization")):
                response = _refusal(InvalidKey("This port asks for the admin token."))
                response.headers["WWW-Authenticate"] = 'Basic realm="relay", charset="UTF-8"'
            else:
                response = await handler(request)
        except web.HTTPMethodNotAllowed:
            response = _refusal(MethodNotSupported(_ALLOW))
            response.headers["Allow"] = _ALLOW
        except web.HTTPException:
            response = _refusal(UnknownUrl())
        except RelayError as error:
            response = _refusal(error)
        except Exception as error:
            log.crash("admin_failed", error)
            response = _refusal(InternalError())
        return response

    return boundary


async def _dress(request: web.Request, response: web.StreamResponse) -> None:
    """What all answers carry; and aiohttp tells its version and Python's to everybody."""
    response.headers.pop("Server", None)
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


def _json(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, content_type=_JSON)


def _refusal(error: RelayError) -> web.StreamResponse:
    return _json(error.status, error.body())
