"""An admin port of its own over a real socket, and a relay as it sees one: nothing here asserts a behaviour."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TypeVar

import aiohttp
from aiohttp import web

from relay import admin
from relay.admin import Guard
from relay.page.assets import assets
from relay.page.facts import StatusReport, UpstreamStatus
from tests.observed import configured

DATA_PORT = 8080

STATIC = ["/" if name == "index.html" else f"/static/{name}" for name in assets()]
EVERY_URL = [*STATIC, "/status.json", "/metrics", "/events"]
HEALTH_URLS = ["/livez", "/readyz"]

T = TypeVar("T")


class Process:
    """A relay as the admin port sees it."""

    def __init__(self) -> None:
        self.metrics: admin.Scraped = configured()
        self.stopped: str | None = None
        self.away: list[str] = []

    def livez(self) -> tuple[int, bytes]:
        return 200, b'{"status":"alive"}'

    def readyz(self) -> tuple[int, bytes]:
        if self.stopped is not None:
            return 503, json.dumps({"status": "not ready", "reason": self.stopped}).encode()
        return 200, json.dumps({"status": "ready", "degraded": self.away}).encode()

    def reason(self) -> str | None:
        return self.stopped

    def degraded(self) -> list[str]:
        return self.away

    async def status(self) -> StatusReport:
        return StatusReport(
            version="1.2.3",
            uptime_seconds=61.5,
            config_path="config.yaml",
            config_digest="ab" * 32,
            inflight_streams=3,
            upstreams=[UpstreamStatus("main", {"closed": 2}, 3, 100)],
        )


class Answer:
    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = body

    @property
    def error(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.body)["error"]
        return found


class Client:
    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self.port = port

    async def __call__(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """An answer that has no end is read as far as its first event."""
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self._session.request(
            method, url, headers=headers, allow_redirects=False
        ) as response:
            if response.content_type == "text/event-stream" and method == "GET":
                return Answer(response, await response.content.readuntil(b"\n\n"))
            return Answer(response, await response.read())


def with_admin(
    test: Callable[[Client], Awaitable[T]], process: Process | None = None, token: str | None = None
) -> T:
    """Runs a test against an admin port of its own."""
    process = process or Process()

    async def run() -> T:
        app = admin.build(
            process.metrics, process, process.status, Guard(token), data_port=DATA_PORT
        )
        runner = admin.Runner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            async with aiohttp.ClientSession() as session:
                return await test(Client(session, runner.addresses[0][1]))
        finally:
            await runner.cleanup()

    return asyncio.run(run())


def get(path: str, process: Process | None = None, **headers: str) -> Answer:
    return with_admin(lambda client: client(path, **headers), process)
