"""The admin port over a real socket: its URLs, what they say, and how pages of metrics are made."""

from __future__ import annotations

import asyncio
import json
import re
import threading

import pytest

from relay import admin
from relay.admin import Guard, Pages
from relay.observe.exposition import OPENMETRICS, TEXT, Snapshot
from relay.observe.metrics import Metrics
from relay.page.assets import assets, policy
from tests.admin_rig import (
    DATA_PORT,
    EVERY_URL,
    HEALTH_URLS,
    STATIC,
    Answer,
    Client,
    Process,
    get,
    with_admin,
)
from tests.observed import configured, streamed

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


@pytest.mark.parametrize("path", [*EVERY_URL, *HEALTH_URLS])
def test_head_is_get_without_the_body(path: str) -> None:
    async def both(client: Client) -> tuple[Answer, Answer]:
        return await client(path), await client(path, "HEAD")

    whole, head = with_admin(both)

    assert (whole.status, head.status) == (200, 200)
    assert head.body == b""
    assert head.headers["Content-Type"] == whole.headers["Content-Type"]


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
