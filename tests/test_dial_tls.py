"""Dials with TLS, over real sockets: who is trusted, what the rest is called, and sessions that are taken up again."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from relay.upstream import tls
from relay.upstream.wire import Connection
from tests.authority import Authority
from tests.dials import Dials, Target, dials, server
from tests.plane import play, turn
from tests.rig.deadlines import within

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
"""A transport of uvloop whose handshake fails is reported although it is closed."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    """Contexts, and with them sessions, are the process's."""
    tls._contexts.clear()
    yield
    tls._contexts.clear()


def target(port: int, authority: Authority, host: str = "127.0.0.1") -> Target:
    return Target(port, host=host, tls=True, ca_file=authority.file)


def spoken(found: Connection | str) -> ssl.SSLObject:
    assert isinstance(found, Connection), found
    return cast(ssl.SSLObject, found.transport.get_extra_info("ssl_object"))


# --- who is trusted -------------------------------------------------------------------------------


def test_an_authority_that_is_named_is_trusted_and_http_1_1_is_spoken(authority: Authority) -> None:
    async def scene() -> None:
        async with server(authority.serving("IP:127.0.0.1")) as (port, _), dials() as made:
            found = spoken(await made.outcome(target(port, authority)))

            assert found.selected_alpn_protocol() == "http/1.1"
            assert found.version() == "TLSv1.3"

    play(scene())


def test_the_name_is_told_to_the_server_and_checked(authority: Authority) -> None:
    asked: list[str] = []
    context = authority.serving("DNS:upstream.test")
    context.sni_callback = lambda spoken, name, context: asked.append(name)

    async def scene() -> None:
        async with server(context) as (port, _), dials() as made:
            assert spoken(await made.outcome(target(port, authority, "upstream.test"))).version()
            assert await made.outcome(target(port, authority, "other.test")) == "tls_error"
            assert await made.outcome(target(port, authority)) == "tls_error"
            assert asked[:2] == ["upstream.test", "other.test"]
            assert len(made.pool.open) == 1

    play(scene())


def test_nobody_else_is_trusted(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")

    async def scene() -> None:
        async with server(stranger.serving("IP:127.0.0.1")) as (port, _), dials() as made:
            assert await made.outcome(target(port, authority)) == "tls_error"
            assert await made.outcome(Target(port, tls=True)) == "tls_error"
            assert not made.pool.open

    play(scene())


def test_a_certificate_that_has_expired_is_a_tls_error(authority: Authority) -> None:
    async def scene() -> None:
        context = authority.serving("IP:127.0.0.1", expired=True)
        async with server(context) as (port, _), dials() as made:
            assert await made.outcome(target(port, authority)) == "tls_error"

    play(scene())


def test_a_server_that_speaks_no_tls_is_a_tls_error() -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()

        class Plain(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                cast(asyncio.Transport, transport).write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        listening = await loop.create_server(Plain, "127.0.0.1", 0)
        async with dials() as made:
            port = listening.sockets[0].getsockname()[1]

            assert await made.outcome(Target(port, tls=True)) == "tls_error"
        listening.close()

    play(scene())


def test_a_handshake_that_is_never_answered_ends_after_connect_and_leaves_nothing_open() -> None:
    async def scene() -> None:
        async with server() as (port, peers), dials() as made:
            assert await made.outcome(Target(port, tls=True, connect=0.1)) == "connect_timeout"

            async with within():
                await peers[0].gone.wait()
            assert not made.pool.open

    play(scene())


def test_a_file_of_authorities_that_was_replaced_is_read_anew(
    authority: Authority, tmp_path: Path
) -> None:
    """At the next reload, which is what `prepare` is called by."""
    stranger = Authority(tmp_path / "stranger")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(authority.file.read_bytes())
    tls.prepare(trusted)
    before = tls.context(trusted)

    tls.prepare(trusted)
    assert tls.context(trusted) is before
    trusted.write_bytes(stranger.file.read_bytes())
    os.utime(trusted, ns=(1, 1))
    tls.prepare(trusted)

    async def scene() -> None:
        async with server(stranger.serving("IP:127.0.0.1")) as (port, _), dials() as made:
            assert spoken(await made.outcome(Target(port, tls=True, ca_file=trusted))).version()

    play(scene())


# --- sessions -------------------------------------------------------------------------------------


async def visit(made: Dials, at: Target) -> bool:
    """Connects, hears a word (with it come the tickets of TLS 1.3) and leaves. Whether a session was taken up."""
    found = await made.outcome(at)
    reused = spoken(found).session_reused
    assert isinstance(found, Connection)
    found.transport.write(b"hello")
    async with within():
        while found in made.pool.open:
            await turn()
    return bool(reused)


class Greeter(asyncio.Protocol):
    """Answers a word with a word that nobody asked for, upon which the client leaves."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(b"?")


def played(context: ssl.SSLContext, *visits: Target) -> list[bool]:
    """What each visit came to; ports are filled in."""

    async def scene() -> list[bool]:
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(Greeter, "127.0.0.1", 0, ssl=context)
        try:
            async with dials() as made:
                reused = []
                for at in visits:
                    at.port = listening.sockets[0].getsockname()[1]
                    reused.append(await visit(made, at))
                return reused
        finally:
            listening.close()

    return play(scene())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_taken_up_again(authority: Authority, version: ssl.TLSVersion) -> None:
    context = authority.serving("DNS:upstream.test")
    context.maximum_version = version
    at = target(0, authority, "upstream.test")

    assert played(context, at, at, at, at) == [False, True, True, True]


def test_a_session_is_for_its_name_and_its_authorities_only(
    authority: Authority, tmp_path: Path
) -> None:
    context = authority.serving("DNS:upstream.test,DNS:other.test")
    at, another = (target(0, authority, name) for name in ("upstream.test", "other.test"))
    copy = tmp_path / "copy.pem"
    copy.write_bytes(authority.file.read_bytes())
    elsewhere = Target(0, host="upstream.test", tls=True, ca_file=copy)

    assert played(context, at, another, elsewhere, at) == [False, False, False, True]


def test_a_failed_handshake_does_not_lose_the_session(authority: Authority) -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        context = authority.serving("DNS:upstream.test")
        listening = await loop.create_server(Greeter, "127.0.0.1", 0, ssl=context)
        at = target(listening.sockets[0].getsockname()[1], authority, "upstream.test")
        async with dials() as made, server() as (deaf, _):
            assert not await visit(made, at)
            silent = target(deaf, authority, "upstream.test")
            silent.connect = 0.05
            assert await made.outcome(silent) == "connect_timeout"

            assert await visit(made, at)
        listening.close()

    play(scene())


def test_dials_side_by_side_do_not_disturb_each_other(authority: Authority) -> None:
    """While one is in the middle of its handshake it has no session that could be read."""

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        context = authority.serving("DNS:upstream.test")
        listening = await loop.create_server(Greeter, "127.0.0.1", 0, ssl=context)
        at = target(listening.sockets[0].getsockname()[1], authority, "upstream.test")
        async with dials() as made, server() as (deaf, _):
            silent = target(deaf, authority, "upstream.test")
            for _ in range(5):
                made.start(silent)
                made.start(at)
            for _ in range(5):
                await visit(made, at)

            assert await visit(made, at)
        listening.close()

    play(scene())


def test_a_certificate_is_verified_anew_after_a_while(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = authority.serving("DNS:upstream.test")
    at = target(0, authority, "upstream.test")
    clock = iter([0.0, 1.0, 3000.0, 3602.0, 3603.0])
    monkeypatch.setattr(tls, "monotonic", lambda: next(clock))

    assert played(context, at, at, at, at, at) == [False, True, True, False, True]


def test_a_server_that_forgot_the_session_is_greeted_in_full(authority: Authority) -> None:
    at = target(0, authority, "upstream.test")
    first, second = (authority.serving("DNS:upstream.test") for _ in range(2))

    assert played(first, at, at) == [False, True]
    assert played(second, at, at) == [False, True]
