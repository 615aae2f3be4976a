"""The admin port over a real socket: its URLs, who may see them, and what they say."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import aiohttp
import pytest
from aiohttp import web

from relay import admin
from relay.admin import Guard, Pages
from relay.observe.exposition import OPENMETRICS, TEXT, Snapshot
from relay.observe.metrics import Metrics
from relay.page import events
from relay.page.assets import assets, policy
from relay.page.facts import StatusReport, UpstreamStatus
from tests.observed import configured, streamed

TOKEN = "admin-token-0123456789"
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


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# -- what it serves --


def test_the_urls_are_those_of_the_list_and_no_others() -> None:
    process = Process()
    app = admin.build(process.metrics, process, process.status, Guard(None))

    served = {
        (route.method, resource.canonical)
        for resource in app.router.resources()
        for route in resource
    }

    assert served == {(m, url) for m in ("GET", "HEAD") for url in EVERY_URL + HEALTH_URLS}


def test_metrics_come_in_the_text_format() -> None:
    process = Process()
    metrics = configured()
    metrics.observe([streamed()])
    process.metrics = metrics

    answer = get("/metrics", process)

    assert answer.status == 200
    assert answer.headers["Content-Type"] == TEXT
    assert b'relay_key_requests_total{key="shop",outcome="ok"} 1.0\n' in answer.body


def test_metrics_come_as_openmetrics_to_those_who_ask() -> None:
    answer = get("/metrics", Accept="application/openmetrics-text; version=1.0.0, text/plain;q=0.5")

    assert answer.headers["Content-Type"] == OPENMETRICS
    assert answer.body.endswith(b"# EOF\n")


def test_readiness_and_life_are_told_as_the_process_tells_them() -> None:
    process = Process()
    process.away = ["main"]

    assert json.loads(get("/readyz", process).body) == {"status": "ready", "degraded": ["main"]}

    process.stopped = "draining"
    answer = get("/readyz", process)

    assert (answer.status, json.loads(answer.body)["reason"]) == (503, "draining")
    assert answer.headers["Content-Type"].startswith("application/json")
    assert get("/livez", process).status == 200


def test_the_status_is_one_object() -> None:
    process = Process()
    process.away = ["model chat"]

    answer = get("/status.json", process)

    told = json.loads(answer.body)
    first = ("version", "uptime_seconds", "config_path", "config_digest", "inflight_streams")
    assert [told[name] for name in first] == ["1.2.3", 61.5, "config.yaml", "ab" * 32, 3]
    (upstream,) = told["upstreams"]
    state = {"name": "main", "states": {"closed": 2}, "inflight": 3, "max_concurrent": 100}
    assert state.items() <= upstream.items()
    assert (told["ready"], told["reason"], told["degraded"]) == (True, None, ["model chat"])
    assert told["data_port"] == DATA_PORT


@pytest.mark.parametrize("path", STATIC)
def test_the_page_needs_nothing_from_elsewhere(path: str) -> None:
    answer = get(path)

    kinds = {"": "html", "css": "css", "js": "javascript", "svg": "svg+xml"}
    kind = kinds[path.rpartition(".")[2].strip("/")]
    assert re.fullmatch(rf"\w+/{re.escape(kind)}; charset=utf-8", answer.headers["Content-Type"])
    names = b"http://www.w3.org/2000/svg", b"http://127.0.0.1"
    for address in re.findall(rb"https?://[^\s\"'`]+", answer.body):
        assert address in names
    assert not re.search(rb"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", answer.body)
    # The policy forbids anything inline.
    assert not re.search(rb"<script(?![^>]* src=)|<style|\son\w+=\"|\sstyle=", answer.body)


def test_the_page_may_call_the_data_port_of_its_host_and_nothing_else() -> None:
    page = get("/", Host="relay.example:9000").headers["Content-Security-Policy"]
    other = get("/status.json").headers["Content-Security-Policy"]

    assert (
        f"connect-src 'self' http://relay.example:{DATA_PORT} https://relay.example:{DATA_PORT};"
        in page
    )
    assert "connect-src 'self';" in other
    assert all("default-src 'none'" in each and "unsafe" not in each for each in (page, other))


@pytest.mark.parametrize("host", ["[::1]:8081", "", "a; script-src *", "a b:1", "a'b", "-.x"])
def test_a_host_that_is_no_name_adds_no_words_to_the_policy(host: str) -> None:
    made = policy(host, 8080)

    assert "connect-src 'self' http://*:8080 https://*:8080; base-uri" in made


@pytest.mark.parametrize(
    ("url", "source"),
    [
        ("https://relay.example.com", "https://relay.example.com"),
        ("https://relay.example.com/team", "https://relay.example.com"),
        ("http://10.0.0.7:8080", "http://10.0.0.7:8080"),
        ("http://[::1]:8080", "http://*:8080"),
    ],
)
def test_with_a_public_address_the_page_may_call_that_one_only(url: str, source: str) -> None:
    made = policy("relay.internal:8081", 8080, url)

    assert f"connect-src 'self' {source}; base-uri" in made


def test_both_languages_have_the_same_words() -> None:
    words = {name: body.decode() for name, (_, body) in assets().items()}
    entry = re.compile(r'^  (\w+): "(.*)",$', re.M)
    english = dict(entry.findall(words["words-en.js"]))
    chinese = dict(entry.findall(words["words-zh.js"]))

    assert set(english) == set(chinese)
    for key, text in english.items():
        assert set(re.findall(r"{\w+}", text)) == set(re.findall(r"{\w+}", chinese[key])), key


def test_every_word_that_the_page_wants_is_there() -> None:
    files = {name: body.decode() for name, (_, body) in assets().items()}
    known = set(re.findall(r"^  (\w+): ", files["words-en.js"], re.M))

    wanted = set(re.findall(r'data-say(?:-label)?="(\w+)"', files["index.html"]))
    for name, text in files.items():
        if name.endswith(".js"):
            wanted |= set(re.findall(r'\b(?:say|tell)\("(\w+[a-z])"', text))

    assert wanted <= known, wanted - known


# -- what it refuses --


@pytest.mark.parametrize(
    "path",
    ["/nowhere", "/metrics/", "//metrics", "/static/", "/static/../admin.py", "/static/%2e%2e/x"],
)
def test_another_url_is_an_error_in_json(path: str) -> None:
    answer = get(path)

    assert answer.status == 404
    assert answer.error["type"] == "invalid_request_error"
    assert answer.headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", [*EVERY_URL, *HEALTH_URLS])
def test_nothing_can_be_changed(path: str, method: str) -> None:
    answer = with_admin(lambda client: client(path, method))

    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"
    assert answer.error["code"] == "method_not_supported"


@pytest.mark.parametrize("path", [*EVERY_URL, *HEALTH_URLS])
def test_head_is_get_without_the_body(path: str) -> None:
    async def both(client: Client) -> tuple[Answer, Answer]:
        return await client(path), await client(path, "HEAD")

    whole, head = with_admin(both)

    assert (whole.status, head.status) == (200, 200)
    assert head.body == b""
    assert head.headers["Content-Type"] == whole.headers["Content-Type"]


@pytest.mark.parametrize("path", [*EVERY_URL, *HEALTH_URLS, "/nowhere"])
def test_no_answer_tells_what_software_this_is_or_may_be_framed(path: str) -> None:
    answer = get(path)

    assert "Server" not in answer.headers
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_bug_is_an_error_in_json_and_its_words_stay_inside(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Metrics):
        async def copied(self) -> Snapshot:
            raise ValueError("sk-canary")

    process = Process()
    process.metrics = Broken()

    with caplog.at_level(logging.ERROR, "relay.admin"):
        answer = get("/metrics", process)

    assert answer.status == 500
    assert answer.error["code"] == "internal_error"
    assert b"canary" not in answer.body
    assert [record.getMessage() for record in caplog.records] == ["admin_failed"]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-canary\x01\r\n\r\n",
        b"GET /sk-canary\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01sk-canary\r\n\r\n",
    ],
)
def test_what_is_no_http_is_not_repeated(
    request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def send(client: Client) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(request_bytes)
        answer = await asyncio.wait_for(reader.read(), 10.0)
        writer.close()
        await writer.wait_closed()
        return answer

    head, _, body = with_admin(send).partition(b"\r\n\r\n")

    assert head.split(b" ", 2)[1] == b"400"
    assert json.loads(body)["error"]["code"] == "bad_request"
    assert b"canary" not in head + body
    assert b"aiohttp" not in head
    assert "canary" not in caplog.text


def test_there_are_so_many_pages_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST", 0)

    answer = get("/events")

    assert answer.status == 503
    assert answer.error["code"] == "server_is_overloaded"


# -- who may see it --


@pytest.mark.parametrize("path", [*EVERY_URL, "/nowhere"])
def test_a_token_is_asked_for_everywhere_but_at_health(path: str) -> None:
    async def visit(client: Client) -> list[Answer]:
        return [await client(path), await client("/livez"), await client("/readyz")]

    asked, live, ready = with_admin(visit, token=TOKEN)

    assert asked.status == 401
    assert asked.headers["WWW-Authenticate"].startswith("Basic ")
    assert "Server" not in asked.headers
    assert (live.status, ready.status) == (200, 200)


@pytest.mark.parametrize(
    "authorization",
    [f"Bearer {TOKEN}", f"bearer {TOKEN}", basic("anyone", TOKEN), basic("", TOKEN)],
)
def test_the_token_opens_as_bearer_and_as_password(authorization: str) -> None:
    async def visit(client: Client) -> list[int]:
        return [(await client(path, Authorization=authorization)).status for path in EVERY_URL]

    assert with_admin(visit, token=TOKEN) == [200] * len(EVERY_URL)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        TOKEN,
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Token {TOKEN}",
        basic(TOKEN, ""),
        basic(TOKEN, "other"),
        "Basic " + base64.b64encode(TOKEN.encode()).decode(),
        "Basic =",
        "Basic ####",
        "Basic \udcff",
        "Bearer \udcff\u6a21",
    ],
)
def test_anything_else_does_not(authorization: str | None) -> None:
    assert not Guard(TOKEN).admits(authorization)


@pytest.mark.parametrize("token", [None, ""])
def test_without_a_token_nobody_is_asked(token: str | None) -> None:
    assert Guard(token).admits(None)
    assert Guard(token).admits("Bearer whatever")


def test_a_password_may_hold_colons() -> None:
    assert Guard("a:b:c").admits(basic("admin", "a:b:c"))


def test_a_reload_can_change_the_token() -> None:
    guard = Guard(TOKEN)

    guard.change("another")

    assert not guard.admits(f"Bearer {TOKEN}")
    assert guard.admits("Bearer another")


# -- how pages are made --


class Counting(Metrics):
    """Notes where its pages are made."""

    def __init__(self) -> None:
        super().__init__()
        self.snapshots: list[int] = []
        self.pages: list[int] = []

    async def copied(self) -> Snapshot:
        self.snapshots.append(threading.get_ident())
        return await super().copied()

    def page(self, snapshot: Snapshot, openmetrics: bool) -> bytes:
        self.pages.append(threading.get_ident())
        return super().page(snapshot, openmetrics)


def test_a_page_is_made_off_the_loop_from_numbers_copied_on_it() -> None:
    metrics = Counting()

    asyncio.run(Pages(metrics).get(openmetrics=False))

    assert metrics.snapshots == [threading.get_ident()]
    assert threading.get_ident() not in metrics.pages


def test_scrapes_that_come_together_share_a_page() -> None:
    metrics = Counting()

    async def scrape() -> list[bytes]:
        pages = Pages(metrics)
        return await asyncio.gather(*(pages.get(openmetrics=False) for _ in range(20)))

    pages = asyncio.run(scrape())

    assert len(set(pages)) == 1
    assert len(metrics.pages) == 1


def test_each_format_has_a_page_of_its_own() -> None:
    async def scrape() -> tuple[bytes, bytes]:
        pages = Pages(Metrics())
        return await pages.get(openmetrics=False), await pages.get(openmetrics=True)

    text, openmetrics = asyncio.run(scrape())

    assert not text.endswith(b"# EOF\n")
    assert openmetrics.endswith(b"# EOF\n")


def test_a_page_is_made_anew_when_it_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "PAGE_AGE", 0.0)
    metrics = Counting()

    async def scrape() -> None:
        pages = Pages(metrics)
        await pages.get(openmetrics=False)
        await pages.get(openmetrics=False)

    asyncio.run(scrape())

    assert len(metrics.pages) == 2
