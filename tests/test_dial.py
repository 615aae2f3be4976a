"""Dials, over real sockets: each way to fail has its name, and one that is given up leaves nothing open."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from relay.upstream import dial
from relay.upstream.dial import Dialer
from relay.upstream.wire import Connection, Connections
from tests.plane import play
from tests.rig.deadlines import within


@dataclass
class Target:
    port: int
    host: str = "127.0.0.1"
    tls: bool = False
    connect: float = 5.0
    ca_file: Path | None = None


class Dials:
    """A dialer, its pool, and what its dials came to."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.bugs: list[BaseException] = []
        self.pool = Connections(loop, 4.0, 300.0, self.bugs.append)
        self.dialer = Dialer(loop)
        self.told: list[Connection | str] = []
        self._news = asyncio.Event()

    def start(self, target: Target) -> asyncio.Task[None]:
        return self.dialer.dial(target, self.pool, self._tell)

    def _tell(self, connection: Connection | None, fault: str) -> None:
        self.told.append(fault if connection is None else connection)
        self._news.set()

    async def outcome(self, target: Target) -> Connection | str:
        before = len(self.told)
        self.start(target)
        async with within():
            while len(self.told) == before:
                self._news.clear()
                await self._news.wait()
        return self.told[-1]


@asynccontextmanager
async def dials() -> AsyncIterator[Dials]:
    made = Dials()
    try:
        yield made
        assert made.bugs == []
    finally:
        for connection in list(made.pool.open):
            connection.close()
        await made.dialer.close()


class Peer(asyncio.Protocol):
    """A server's end of a connection."""

    def __init__(self, peers: list[Peer]) -> None:
        self.gone = asyncio.Event()
        peers.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()


@asynccontextmanager
async def server(
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[tuple[int, list[Peer]]]:
    """A port on 127.0.0.1 that takes connections, and those it took."""
    peers: list[Peer] = []
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Peer(peers), "127.0.0.1", 0, ssl=context)
    try:
        yield listening.sockets[0].getsockname()[1], peers
    finally:
        listening.close()


@contextmanager
def dead_port() -> Iterator[int]:
    """A port that refuses: taken, and nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port that answers no SYN: its queue is full and nobody accepts."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(listening.getsockname())
        try:
            yield listening.getsockname()[1]
        finally:
            for sock in waiting:
                sock.close()


# --- connecting -----------------------------------------------------------------------------------


def test_a_dial_gives_a_connection_that_its_pool_knows() -> None:
    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            found = await made.outcome(Target(port))

            assert isinstance(found, Connection)
            assert made.pool.open == {found}
            assert made.pool.take(asyncio.get_running_loop().time()) is None, "not idle: in use"

    play(scene())


def test_a_refused_connection_is_told_as_that() -> None:
    async def scene() -> None:
        with dead_port() as port:
            async with dials() as made:
                assert await made.outcome(Target(port)) == "connect_refused"
                assert not made.pool.open

    play(scene())


def test_silence_ends_after_connect() -> None:
    async def scene() -> None:
        with deaf_port() as port:
            async with dials() as made:
                loop = asyncio.get_running_loop()
                start = loop.time()

                assert await made.outcome(Target(port, connect=0.1)) == "connect_timeout"

                assert 0.09 <= loop.time() - start < 1.0
                assert not made.pool.open

    play(scene())


def test_a_dial_that_is_given_up_calls_nobody_and_leaves_nothing_open() -> None:
    async def scene() -> None:
        with deaf_port() as deaf:
            async with server() as (port, peers), dials() as made:
                silent, quick = made.start(Target(deaf)), made.start(Target(port))
                for task in (silent, quick):
                    task.cancel()
                await asyncio.gather(silent, quick, return_exceptions=True)
                for peer in peers:
                    async with within():
                        await peer.gone.wait()

                assert made.told == []
                assert not made.pool.open

    play(scene())


@pytest.mark.parametrize("turns", range(8))
def test_a_dial_given_up_at_any_moment_leaves_nothing_open(turns: int) -> None:
    """Whoever gives up a dial either was called, or owes it nothing."""

    async def scene() -> None:
        async with server() as (port, peers), dials() as made:
            loop = asyncio.get_running_loop()
            task = made.start(Target(port))
            for _ in range(turns):
                passed = asyncio.Event()
                loop.call_soon(passed.set)
                await passed.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

            if made.told:
                (connection,) = made.told
                assert made.pool.open == {connection}
            else:
                assert not made.pool.open
                for peer in peers:
                    async with within():
                        await peer.gone.wait()

    play(scene())


# --- names ----------------------------------------------------------------------------------------


class Names(AbstractResolver):
    """A resolver in the test's hand."""

    def __init__(self) -> None:
        self.answer: Callable[[], list[str]] = lambda: ["127.0.0.1"]
        self.asked = 0
        self.held = asyncio.Event()
        self.held.set()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        await self.held.wait()
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=0,
            )
            for address in self.answer()
        ]

    async def close(self) -> None:
        pass


def fails() -> list[str]:
    raise OSError(None, "DNS lookup failed")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> list[Names]:
    """The resolvers that dialers make from now on."""
    made: list[Names] = []

    def make() -> Names:
        made.append(Names())
        return made[-1]

    monkeypatch.setattr(dial, "DefaultResolver", make)
    return made


def named(port: int, connect: float = 5.0) -> Target:
    return Target(port, host="upstream.test", connect=connect)


def test_a_real_name_is_looked_up_and_its_other_address_tried() -> None:
    """`localhost` is ::1 too where there is IPv6; nobody listens there."""

    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            assert isinstance(await made.outcome(Target(port, host="localhost")), Connection)

    play(scene())


def test_an_address_that_refuses_is_followed_by_the_next(names: list[Names]) -> None:
    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            names[0].answer = lambda: ["127.0.0.2", "127.0.0.1"]

            assert isinstance(await made.outcome(named(port)), Connection)

    play(scene())


def test_a_name_is_looked_up_once_for_all_who_ask_and_then_remembered(names: list[Names]) -> None:
    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            names[0].held.clear()
            tasks = [made.start(named(port)) for _ in range(5)]
            names[0].held.set()
            async with within():
                await asyncio.gather(*tasks)
            await made.outcome(named(port))

            assert len(made.told) == 6
            assert names[0].asked == 1

    play(scene())


def test_a_dial_that_is_given_up_does_not_take_the_look_up_with_it(names: list[Names]) -> None:
    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            names[0].held.clear()
            first, second = made.start(named(port)), made.start(named(port))
            while not names[0].asked:
                passed = asyncio.Event()
                asyncio.get_running_loop().call_soon(passed.set)
                await passed.wait()
            first.cancel()
            names[0].held.set()
            async with within():
                await second

            assert [isinstance(told, Connection) for told in made.told] == [True]
            assert names[0].asked == 1

    play(scene())


@pytest.mark.parametrize("answer", [fails, list])
def test_a_name_without_an_address_is_a_dns_error(
    names: list[Names], answer: Callable[[], list[str]]
) -> None:
    async def scene() -> None:
        async with dials() as made:
            names[0].answer = answer

            assert await made.outcome(named(9)) == "dns_error"

    play(scene())


def test_a_name_server_that_says_nothing_is_a_dns_error_after_connect(names: list[Names]) -> None:
    async def scene() -> None:
        async with dials() as made:
            names[0].held.clear()

            assert await made.outcome(named(9, connect=0.05)) == "dns_error"

    play(scene())


def test_an_old_answer_serves_while_names_cannot_be_looked_up(
    names: list[Names], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "NAME_TTL", 0.0)

    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            await made.outcome(named(port))
            names[0].answer = fails

            found = [await made.outcome(named(port)) for _ in range(3)]

            assert all(isinstance(one, Connection) for one in found)
            assert names[0].asked > 1, "it is asked anew behind the old answer"
            monkeypatch.setattr(dial, "NAME_STALE", 0.0)
            assert await made.outcome(named(port)) == "dns_error"

    play(scene())


def test_a_changed_answer_is_followed(names: list[Names], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "NAME_TTL", 0.0)

    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            names[0].answer = lambda: ["127.0.0.2"]
            assert await made.outcome(named(port)) == "connect_refused"
            names[0].answer = lambda: ["127.0.0.1"]
            # The first of these learns of the change, and may still have used the old address.
            await made.outcome(named(port))

            assert isinstance(await made.outcome(named(port)), Connection)

    play(scene())


# --- TLS ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that no authority signed, and its key, in one file."""
    program = shutil.which("openssl")
    if program is None:
        assert not os.environ.get("CI"), "openssl is missing"
        pytest.skip("openssl is missing")
    path = tmp_path_factory.mktemp("tls") / "upstream.pem"
    key = path.with_suffix(".key")
    subprocess.run(
        [
            *(program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-keyout", str(key), "-out", str(path), "-days", "2"),
            *("-subj", "/CN=upstream.test", "-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    path.with_suffix(".both").write_bytes(path.read_bytes() + key.read_bytes())
    return path


def serving(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.with_suffix(".both"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def test_an_authority_that_is_named_is_trusted_and_http_1_1_is_spoken(certificate: Path) -> None:
    async def scene() -> None:
        async with server(serving(certificate)) as (port, _), dials() as made:
            found = await made.outcome(Target(port, tls=True, ca_file=certificate))

            assert isinstance(found, Connection)
            spoken = found.transport.get_extra_info("ssl_object")
            assert spoken.selected_alpn_protocol() == "http/1.1"
            assert spoken.version() in ("TLSv1.2", "TLSv1.3")

    play(scene())


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_nobody_else_is_trusted(certificate: Path, names: list[Names]) -> None:
    async def scene() -> None:
        async with server(serving(certificate)) as (port, _), dials() as made:
            unsigned = Target(port, tls=True)
            another_name = Target(port, host="other.test", tls=True, ca_file=certificate)

            assert await made.outcome(unsigned) == "tls_error"
            assert await made.outcome(another_name) == "tls_error"
            assert not made.pool.open

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
