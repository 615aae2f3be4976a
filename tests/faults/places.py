"""Where a faulty upstream can be: the sockets that answer by a script, and those that never do."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import warnings
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.authority import Authority
from tests.rig.relay_process import Fields
from tests.rig.upstream import Upstream

HOST = "upstream.test"
"""What the certificates are made out to, beside the address."""
BACKLOG = 4
"""Connections that fill a listener which takes none."""


def listening(stack: ExitStack, backlog: int) -> int:
    """The port of a listener that never accepts."""
    sock = stack.enter_context(socket.socket())
    sock.bind(("127.0.0.1", 0))
    sock.listen(backlog)
    port: int = sock.getsockname()[1]
    return port


def full(stack: ExitStack) -> int:
    """A port whose backlog is full: a hello to it is never answered."""
    port = listening(stack, 0)
    for _ in range(BACKLOG):
        filler = stack.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.1", port))
    return port


def closed(stack: ExitStack) -> int:
    """A port that nobody listens at, and nobody else can take."""
    sock = stack.enter_context(socket.socket())
    sock.bind(("127.0.0.1", 0))
    port: int = sock.getsockname()[1]
    return port


@asynccontextmanager
async def answering(words: bytes) -> AsyncIterator[int]:
    """A port that says these words to whoever comes, or resets the connection when there are none."""

    def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if words:
            writer.write(words)
            writer.close()
            return
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def old(context: ssl.SSLContext) -> ssl.SSLContext:
    """TLS 1.1 and nothing newer."""
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


@dataclass(frozen=True, slots=True)
class Places:
    fields: dict[str, Fields]
    """Name → the fields of an upstream that is there."""
    authority: Authority
    """Whom they trust."""


@asynccontextmanager
async def places(folder: Path) -> AsyncIterator[Places]:
    """`folder` keeps the certificates."""
    authority = Authority(folder)
    here = f"IP:127.0.0.1,DNS:{HOST}"
    contexts = {
        "expired": authority.serving(here, expired=True),
        "stranger": authority.serving("DNS:another.test"),
        "untrusted": Authority(folder / "other").serving(here),
        "old tls": old(authority.serving(here)),
    }
    trusted = {"ca_file": str(authority.file)}
    with ExitStack() as sockets:
        found: dict[str, Fields] = {
            "closed": {"base_url": f"http://127.0.0.1:{closed(sockets)}/v1"},
            "full": {"base_url": f"http://127.0.0.1:{full(sockets)}/v1"},
            "unknown": {"base_url": "http://no-such-host.invalid/v1"},
            "mute": {"base_url": f"https://127.0.0.1:{listening(sockets, 1000)}/v1"},
        }
        async with AsyncExitStack() as stack:
            for name, context in contexts.items():
                upstream = await stack.enter_async_context(Upstream(tls=context))
                found[name] = {"base_url": upstream.base_url} | trusted
            for name, words in (("no tls", b"no TLS here\r\n"), ("rude", b"")):
                port = await stack.enter_async_context(answering(words))
                found[name] = {"base_url": f"https://127.0.0.1:{port}/v1"} | trusted
            yield Places(found, authority)
