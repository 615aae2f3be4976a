"""A raw HTTP/1.1 client: it writes bytes as given and says exactly how an answer ended.

`End.CLEAN` is a body complete by its framing, `End.BROKEN` a connection closed inside one,
`End.RESET` an RST, `End.EOF` a body that only the close delimits. Nothing is retried, followed or
decoded.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import re
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from tests.rig.deadlines import WAIT, within

Address = tuple[str, int]
KEY = "sk-test-0123456789abcdefghijklmnopqrstuvwxyzABCDEF"
"""The key of the default principal of every rig."""

EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class End(enum.Enum):
    CLEAN = "complete by its framing"
    BROKEN = "closed inside the body"
    RESET = "reset"
    EOF = "delimited by the close alone"


@dataclass(slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    """Lower-case names; a repeated one is joined with commas."""
    body: bytes
    end: End
    interim: list[int] = field(default_factory=list)
    """The 1xx answers before it."""
    version: str = "1.1"

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object: exactly the four keys of OpenAI's."""
        payload = self.json()
        assert list(payload) == ["error"], payload
        found: dict[str, Any] = payload["error"]
        assert sorted(found) == ["code", "message", "param", "type"], payload
        assert isinstance(found["message"], str)
        assert found["message"]
        return found

    @property
    def events(self) -> list[bytes]:
        """Whole events, each with its blank line."""
        return [item + b"\n\n" for item in self.body.split(b"\n\n") if item]

    @property
    def text(self) -> str:
        """What the streamed contents make together."""
        found = ""
        for item in self.events:
            if item.startswith(b"data: {"):
                for choice in json.loads(item[6:]).get("choices") or []:
                    found += choice["delta"].get("content") or ""
        return found


def request(
    method: str,
    path: str,
    body: bytes | None = None,
    *,
    key: str | None = KEY,
    headers: Mapping[str, str] | None = None,
    version: str = "1.1",
) -> bytes:
    """A well-formed request; a header given as "" is left out."""
    fields = {"Host": "relay.test"}
    if key is not None:
        fields["Authorization"] = f"Bearer {key}"
    if body is not None:
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    fields |= dict(headers or {})
    lines = [f"{method} {path} HTTP/{version}"]
    lines += [f"{name}: {value}" for name, value in fields.items() if value]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def chat_body(**fields: object) -> bytes:
    """A chat call's JSON: a short user message unless told otherwise; None leaves a field out."""
    whole: dict[str, object] = {
        "model": "m",
        "messages": [{"role": "user", "content": "Say hello."}],
        "stream": True,
    }
    whole |= fields
    return json.dumps({name: value for name, value in whole.items() if value is not None}).encode()


class RawClient:
    """One connection. `head()`, then `event()` or `rest()`; leaving the `async with` closes it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._held = bytearray()
        self._body = _Body()
        self.trailers = False
        """Header lines after the last chunk are read over; the relay has none, so that they are a fault of its."""
        self.interim: list[int] = []
        self.version = ""
        self.status = 0
        self.headers: dict[str, str] = {}

    @classmethod
    async def connect(
        cls, address: Address, *, receive_buffer: int | None = None, source: str = ""
    ) -> Self:
        """`receive_buffer` (bytes) bounds what the kernel takes for a reader that does not read.

        `source` is the address to come from, such as another one of the loopback's.
        """
        sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        if source:
            sock.bind((source, 0))
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            async with within():
                await asyncio.get_running_loop().sock_connect(sock, address)
            reader, writer = await asyncio.open_connection(sock=sock, limit=receive_buffer or 65536)
        except BaseException:
            sock.close()
            raise
        return cls(reader, writer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Leaves with a FIN."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def reset(self) -> None:
        """Leaves with an RST."""
        sock: socket.socket = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self.close()

    def half_close(self) -> None:
        self._writer.write_eof()

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        async with within():
            await self._writer.drain()

    async def head(self, *, to: str = "POST", timeout: float = WAIT) -> None:
        """Reads the answer's head into `status` and `headers`. EOFError when there is none."""
        async with within(timeout):
            while True:
                head = await self._until(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                version, status = lines[0].split(" ")[:2]
                if not 100 <= int(status) < 200:
                    break
                self.interim.append(int(status))
        self.version, self.status = version.removeprefix("HTTP/"), int(status)
        self.headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            name, value = name.lower(), value.strip()
            self.headers[name] = f"{self.headers[name]},{value}" if name in self.headers else value
        self._body = _Body.of(self.status, self.headers, to)
        self._body.trailers = self.trailers

    async def interim_answer(self) -> int:
        """The status of the next head, which should be a 1xx."""
        async with within():
            head = await self._until(b"\r\n\r\n")
        return int(head.split(b" ")[1])

    async def piece(self, timeout: float = WAIT) -> bytes:
        """The next bytes of the body as they arrive, framing removed; b"" at its end."""
        async with within(timeout):
            while self._body.end is None:
                found = self._body.take(self._held)
                if found:
                    return found
                if self._body.end is None:
                    await self._more()
        return b""

    async def event(self, timeout: float = WAIT) -> bytes:
        """The next whole event with its blank line; what is left at the body's end, else b""."""
        body = self._body
        while True:
            match = EVENT_END.search(body.pending)
            if match:
                event = bytes(body.pending[: match.end()])
                del body.pending[: match.end()]
                return event
            data = await self.piece(timeout)
            if not data:
                left = bytes(body.pending)
                body.pending.clear()
                return left
            body.pending += data

    async def rest(self, timeout: float = WAIT) -> Answer:
        """Everything that is still to come."""
        found = bytearray(self._body.pending)
        self._body.pending.clear()
        while data := await self.piece(timeout):
            found += data
        end = self._body.end
        assert end is not None
        return Answer(
            self.status, self.headers, bytes(found), end, list(self.interim), self.version
        )

    async def ask(self, data: bytes, timeout: float = WAIT) -> Answer:
        """One request, one answer."""
        await self.send(data)
        await self.head(to=data.split(b" ", 1)[0].decode("latin-1"), timeout=timeout)
        return await self.rest(timeout)

    async def arrived(self) -> bytes:
        """What came and was not read yet, without waiting."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                self._held += await self._reader.read(65536)
        return bytes(self._held)

    async def closed(self) -> bytes:
        """Waits for the peer's close and returns what came before it."""
        async with within():
            with contextlib.suppress(ConnectionError):
                while data := await self._reader.read(65536):
                    self._held += data
        return bytes(self._held)

    async def _until(self, mark: bytes) -> bytes:
        while (at := self._held.find(mark)) < 0:
            try:
                data = await self._reader.read(65536)
            except ConnectionError as error:
                raise EOFError(f"reset after {bytes(self._held)!r}") from error
            if not data:
                raise EOFError(f"closed after {bytes(self._held)!r}")
            self._held += data
        found = bytes(self._held[:at])
        del self._held[: at + len(mark)]
        return found

    async def _more(self) -> None:
        try:
            data = await self._reader.read(65536)
        except ConnectionError:
            self._body.end = End.RESET
            return
        if data:
            self._held += data
        else:
            self._body.closed()


class _Body:
    """Takes a body's bytes out of what arrived, by its framing."""

    def __init__(self, left: int | None = 0, *, chunked: bool = False) -> None:
        self.chunked = chunked
        self.left = left
        """Bytes until the body (or chunk) ends; None when only a close delimits it."""
        self.end: End | None = End.CLEAN if left == 0 and not chunked else None
        self.pending = bytearray()
        self.trailers = False
        self._trailer = False

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], method: str) -> _Body:
        if method == "HEAD" or status in (204, 304):
            return cls(0)
        if headers.get("transfer-encoding", "").lower() == "chunked":
            assert "content-length" not in headers, headers
            return cls(0, chunked=True)
        length = headers.get("content-length")
        return cls(None if length is None else int(length))

    def closed(self) -> None:
        whole = self.left is None and not self.chunked
        self.end = End.EOF if whole else End.BROKEN

    def take(self, held: bytearray) -> bytes:
        if not self.chunked:
            return self._cut(held, len(held) if self.left is None else self.left)
        while self.left == 0 and self.end is None:
            if not self._size_line(held):
                return b""
        found = self._cut(held, self.left or 0)
        return found

    def _cut(self, held: bytearray, most: int) -> bytes:
        found = bytes(held[:most])
        del held[:most]
        if self.left is not None:
            self.left -= len(found)
            if self.left == 0 and not self.chunked:
                self.end = End.CLEAN
            elif self.left == 0:
                self._trailer = True
        return found

    def _size_line(self, held: bytearray) -> bool:
        """Reads the line between two chunks; False when it is not there yet."""
        if self._trailer:
            if len(held) < 2:
                return False
            assert held[:2] == b"\r\n", f"bad end of a chunk: {bytes(held[:20])!r}"
            del held[:2]
            self._trailer = False
        at = held.find(b"\r\n")
        if at < 0:
            return False
        line = bytes(held[:at])
        assert re.fullmatch(rb"[0-9a-fA-F]+", line), f"bad chunk size {line!r}"
        size = int(line, 16)
        if size == 0:
            end = held.find(b"\r\n\r\n", at) if self.trailers else at
            if end < 0 or len(held) < at + 4:
                return False
            del held[at:end]
            assert held[at : at + 4] == b"\r\n\r\n", "bytes after the last chunk's size line"
            del held[: at + 4]
            self.end = End.CLEAN
            return True
        del held[: at + 2]
        self.left = size
        return True


async def chat(
    address: Address,
    *,
    key: str | None = KEY,
    headers: Mapping[str, str] | None = None,
    timeout: float = WAIT,
    source: str = "",
    **fields: object,
) -> Answer:
    """One chat call on a connection of its own, read to its end."""
    body = chat_body(**fields)
    async with await RawClient.connect(address, source=source) as client:
        head = request("POST", "/v1/chat/completions", body, key=key, headers=headers)
        return await client.ask(head, timeout)


async def get(
    address: Address,
    path: str,
    *,
    key: str | None = KEY,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One GET on a connection of its own."""
    async with await RawClient.connect(address) as client:
        return await client.ask(request("GET", path, key=key, headers=headers))
