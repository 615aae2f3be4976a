"""Dials with TLS, over real sockets: who is trusted, and what the rest is called."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import cast

import pytest

from relay.upstream import dial
from relay.upstream.wire import Connection
from tests.dials import Names, Target, dials, server
from tests.plane import play


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
def test_nobody_else_is_trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "DefaultResolver", Names)

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
