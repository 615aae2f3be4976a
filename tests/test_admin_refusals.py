"""What the admin port refuses: other URLs, changes, what is no HTTP, one page too many, and who has no token."""

from __future__ import annotations

import asyncio
import base64
import json
import logging

import pytest

from relay.admin import Guard
from relay.observe.exposition import Snapshot
from relay.observe.metrics import Metrics
from relay.page import events
from tests.admin_rig import EVERY_URL, HEALTH_URLS, Answer, Client, Process, get, with_admin

TOKEN = "admin-token-0123456789"


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


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
