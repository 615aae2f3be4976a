"""The nginx of deploy/: what its directives say, and streams through the set of files that compose.yaml mounts."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from pathlib import Path

import pytest

from relay.config.values import read_duration, read_size
from tests.authority import Authority
from tests.deployed import COMPOSE, DEPLOY, defaults
from tests.rig import End, RawClient, RelayProcess, Upstream, config, scenario, within
from tests.rig import scripts as say
from tests.rig.nginx import Nginx
from tests.rig.raw_client import chat, chat_body, get, request

FILES = DEPLOY / "nginx"
SITE = (FILES / "relay.conf").read_text("utf-8")
UPSTREAMS = ("relay-upstream.conf", "compose-upstream.conf")


def directive(text: str, name: str) -> str:
    """The value of a directive that stands there once."""
    found = re.findall(rf"^\s*{name}\s+([^;]+);", text, re.MULTILINE)
    assert len(found) == 1, (name, found)
    value: str = found[0]
    return value


def test_a_silent_stream_outlives_every_patience_of_nginx() -> None:
    config = defaults()
    upstream = config.upstreams["holysheep"].timeouts

    patience = read_duration(directive(SITE, "proxy_read_timeout"))

    # 70 s of silence is what breaks a stream behind an nginx that nobody has told.
    assert patience > 70
    assert patience > max(upstream.answer, upstream.first_token, upstream.idle)
    assert config.models["deepseek-chat"].heartbeat.interval < 60


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("proxy_http_version", "1.1"),
        ("proxy_set_header Connection", '""'),
        ("proxy_buffering", "off"),
        ("proxy_cache", "off"),
        ("gzip", "off"),
        ("proxy_next_upstream", "error timeout"),
        ("proxy_set_header X-Real-IP", "$remote_addr"),
        ("proxy_set_header X-Forwarded-For", "$proxy_add_x_forwarded_for"),
    ],
)
def test_streams_pass_as_they_come(name: str, value: str) -> None:
    assert directive(SITE, name) == value


def test_nginx_takes_the_bodies_that_the_relay_takes() -> None:
    shown = directive(SITE, "client_max_body_size")

    assert read_size(shown.replace("m", "MiB")) == defaults().server.max_body


@pytest.mark.parametrize("name", UPSTREAMS)
def test_nginx_is_the_one_that_closes_idle_connections(name: str) -> None:
    text = (FILES / name).read_text("utf-8")

    assert int(directive(text, "keepalive")) > 0
    assert (
        read_duration(directive(text, "keepalive_timeout")) < defaults().server.timeouts.keep_alive
    )


def test_both_upstreams_differ_in_nothing_but_the_address() -> None:
    said = [
        re.sub(r"(?m)^\s*#.*\n|server \S+;", "", (FILES / name).read_text("utf-8"))
        for name in UPSTREAMS
    ]

    assert said[0] == said[1]


def test_the_container_includes_what_is_mounted_and_nothing_of_its_image() -> None:
    include = directive((FILES / "nginx.conf").read_text("utf-8"), "include")
    targets = [
        volume.split(":")[1]
        for volume in COMPOSE["services"]["nginx"]["volumes"]
        if not volume.startswith("./nginx/nginx.conf:")
    ]

    assert include == "/etc/nginx/relay/*.conf"
    assert targets
    assert all(Path(target).match(include) for target in targets)


def test_the_container_may_open_what_its_connections_need() -> None:
    text = (FILES / "nginx.conf").read_text("utf-8")
    files = COMPOSE["services"]["nginx"]["ulimits"]["nofile"]["hard"]

    assert int(directive(text, "worker_rlimit_nofile")) == files
    assert int(directive(text, "worker_connections")) <= files


@scenario
async def test_streams_pass_the_nginx_of_compose_with_their_heads(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
    ):
        async with (
            Nginx(relay.address, tmp_path / "nginx", compose=True) as nginx,
            await RawClient.connect(nginx.address, source="127.0.0.9") as client,
        ):
            await client.send(request("POST", "/v1/chat/completions", chat_body()))
            await client.head()
            first = await client.event()
            rest = await client.rest()
            call = await relay.call()

        (line,) = [
            line for line in map(json.loads, nginx.said.splitlines()) if line["status"] == 200
        ]
        assert first == say.ROLE
        assert rest.end is End.CLEAN
        assert client.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert client.headers["server"] == "nginx", "no version is told"
        assert client.headers["x-request-id"] == call["request_id"] == line["id"]
        assert call["client"] == line["client"] == "127.0.0.9"


@scenario
async def test_what_nginx_of_compose_answers_itself_is_an_error_object(tmp_path: Path) -> None:
    large = request("POST", "/v1/chat/completions", headers={"Content-Length": str(40 << 20)})
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        Nginx(relay.address, tmp_path / "nginx", compose=True) as nginx,
    ):
        alive = await get(nginx.address, "/livez", key=None)
        async with await RawClient.connect(nginx.address) as client:
            too_large = await client.ask(large)
        await relay.stop()
        away = await chat(nginx.address)

        assert alive.status == 200
        assert (too_large.status, too_large.error["code"]) == (413, "request_too_large")
        assert (away.status, away.error["code"]) == (503, "relay_unavailable")


@scenario
async def test_the_lines_marked_tls_are_all_that_tls_takes(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    authority.serving("DNS:relay.test")
    (tmp_path / "tls" / "certificate").rename(tmp_path / "tls" / "fullchain.pem")
    (tmp_path / "tls" / "key").rename(tmp_path / "tls" / "privkey.pem")
    trust = ssl.create_default_context(cafile=str(authority.file))
    async with (
        Upstream() as upstream,
        RelayProcess(config({"a": upstream}), tmp_path) as relay,
        Nginx(relay.address, tmp_path / "nginx", tls=tmp_path / "tls") as nginx,
        within(),
    ):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", nginx.tls_port, ssl=trust, server_hostname="relay.test"
        )
        head = {"Connection": "close"}
        writer.write(request("POST", "/v1/chat/completions", chat_body(), headers=head))
        answer = await reader.read()
        writer.close()

        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"data: [DONE]" in answer
