"""The two ends of a call with transports that the test holds, and answers read strictly by their framing.

The test plays the peers: it decides which bytes come together and in which order, and sees at once what they caused.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from relay.upstream.wire import Connection
from tests.rig.deadlines import within
from tests.rig.raw_client import KEY, chat_body, request

CHAT = "/v1/chat/completions"


class Tap(asyncio.Protocol):
    """Passes everything on to a protocol and tells when its connection is gone."""

    def __init__(self, inner: asyncio.Protocol) -> None:
        self._inner = inner
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)
        self.lost.set()


class Wire(asyncio.Transport):
    """A transport in the test's hand: remembers what was written and done, delivers nothing."""

    def __init__(self, protocol: asyncio.Protocol, peer: str) -> None:
        super().__init__({"peername": (peer, 40000)})
        self._protocol = protocol
        self.sent = bytearray()
        self.too_late = bytearray()
        """Written after it was closed."""
        self.closed = False
        self.aborted = False
        self.half_closed = False
        self.paused = False
        self.lost = False
        self.stuck = False
        """The peer reads nothing: a close waits for its flush for ever."""
        self.news = asyncio.Event()
        """Something was written, or it was lost."""

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self.closed or self.half_closed:
            self.too_late += data
        else:
            self.sent += data
        self.news.set()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast(asyncio.Protocol, protocol)

    def write_eof(self) -> None:
        self.half_closed = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            if not self.stuck:
                asyncio.get_running_loop().call_soon(self.lose, None)

    def abort(self) -> None:
        self.aborted = self.closed = True
        asyncio.get_running_loop().call_soon(self.lose, None)

    def lose(self, error: Exception | None) -> None:
        self.closed = True
        if not self.lost:
            self.lost = True
            self._protocol.connection_lost(error)
            self.news.set()

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_reading(self) -> bool:
        return not self.paused

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 1 if self.stuck else 0


class End:
    """One end of a wire: the test plays the peer."""

    def __init__(self, protocol: asyncio.Protocol, peer: str = "127.0.0.1") -> None:
        self.protocol = protocol
        self.wire = Wire(protocol, peer)
        protocol.connection_made(self.wire)

    @property
    def got(self) -> bytes:
        """Everything that was sent to the peer."""
        return bytes(self.wire.sent)

    def say(self, *pieces: bytes) -> None:
        """What the peer sends, one segment each. What it sends after the close reaches nobody."""
        for piece in pieces:
            if not self.wire.closed:
                self.protocol.data_received(piece)

    def leave(self, error: Exception | None = None) -> None:
        """The peer closes, or resets."""
        self.wire.lose(error)

    def choke(self) -> None:
        """The peer reads no more, and what waits for it has passed the high-water mark."""
        self.wire.stuck = True
        self.protocol.pause_writing()

    def drain(self) -> None:
        """It has read everything."""
        self.wire.stuck = False
        self.protocol.resume_writing()

    async def hears(self, words: bytes, times: int = 1) -> None:
        """Returns when the peer was sent these bytes."""
        await self._until(lambda: self.wire.sent.count(words) >= times)

    async def lost(self) -> None:
        """Returns when the connection is gone."""
        await self._until(lambda: self.wire.lost)

    async def _until(self, met: Callable[[], bool]) -> None:
        async with within():
            while not met():
                self.wire.news.clear()
                await self.wire.news.wait()


class Caller(End):
    """A client on a wire of its own."""

    def ask(self, **body: object) -> None:
        """A whole chat call in one segment."""
        self.say(asked(body))

    @property
    def answers(self) -> Answers:
        return Answers(self.got)


class Provider(End):
    """An upstream on a kept connection."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.connection = connection

    def body(self) -> Any:
        """The JSON of the request it was sent."""
        return json.loads(self.got.partition(b"\r\n\r\n")[2])


def asked(
    body: Mapping[str, object] | None = None,
    *,
    key: str = KEY,
    headers: Mapping[str, str] | None = None,
    version: str = "1.1",
) -> bytes:
    """The bytes of a chat call."""
    whole = chat_body(**(body or {}))
    return request("POST", CHAT, whole, key=key, headers=headers, version=version)


class Answers:
    """What a client was sent, read strictly by its framing. `rest` are bytes that belong to no answer."""

    def __init__(self, data: bytes) -> None:
        self.all: list[Reply] = []
        self.rest = data
        while self.rest.startswith(b"HTTP/1."):
            reply = Reply.of(self.rest)
            if reply is None:
                break
            self.all.append(reply)
            self.rest = self.rest[reply.size :]
            if not reply.whole:
                break

    @property
    def only(self) -> Reply:
        assert len(self.all) == 1, self.all
        assert not self.rest, self.rest
        return self.all[0]

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, number: int) -> Reply:
        return self.all[number]


_SIZE_LINE = re.compile(rb"([0-9a-fA-F]+)\r\n")


class Reply:
    """One answer, as far as it is there."""

    def __init__(self, head: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        self.headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:])
        }
        self.body = b""
        self.whole = False
        """Complete by its framing; never, where only a close delimits it."""
        self.size = len(head) + 4

    @classmethod
    def of(cls, data: bytes) -> Reply | None:
        head, found, rest = data.partition(b"\r\n\r\n")
        if not found:
            return None
        reply = cls(head)
        reply._read(rest)
        return reply

    def _read(self, rest: bytes) -> None:
        length = self.headers.get("content-length")
        if self.status < 200 or self.status in (204, 304):
            self.whole = True
        elif "transfer-encoding" in self.headers:
            assert length is None
            self._read_chunks(rest)
        elif length is not None:
            self.body = rest[: int(length)]
            self.whole = len(self.body) == int(length)
            self.size += len(self.body)
        else:
            self.body = rest
            self.size += len(rest)

    def _read_chunks(self, rest: bytes) -> None:
        at = 0
        while match := _SIZE_LINE.match(rest, at):
            size, start = int(match[1], 16), match.end()
            assert rest[start + size : start + size + 2] in (b"\r\n", b""), rest[at : at + 80]
            if not size:
                assert rest[start : start + 2] == b"\r\n"
                self.whole = True
                at = start + 2
                break
            self.body += rest[start : start + size]
            at = start + size + 2
        else:
            assert at == len(rest), f"not a chunk: {rest[at : at + 80]!r}"
        self.size += at

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The code of the error that the answer is."""
        return cast("str | None", self.json()["error"]["code"])
