"""Request heads: aiohttp's C parser judges them, a memo recognises those judged before.

This is the one module that touches what aiohttp does not promise: `HttpRequestParser` and the fields of its message
(`tests/test_heads.py` names them and fails on an aiohttp that changed them). A parser is made per head and fed the
head alone, so that framing of bodies, pipelining and errors stay ours.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final, Protocol

from aiohttp import http_parser
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError

from relay import errors, operations, tracecontext
from relay.call import Head
from relay.upstream.headers import VIA

if TYPE_CHECKING:
    from aiohttp.http import HttpVersion
    from multidict import CIMultiDictProxy

MAX_HEAD: Final = 65536
"""Bytes of a head. A single line may have 8,190, there may be 128 (aiohttp's limits)."""
MEMO_SIZE: Final = 2048
"""Heads remembered. They hold bearer tokens: bounded, and cleared by a reload."""
MAX_FIRST_TOKEN_MS: Final = 10**9

_FORWARDED = (
    "accept",
    "openai-beta",
    "anthropic-version",
    "anthropic-beta",
    "idempotency-key",
)
"""Request headers that travel on as they are; those of a trace do if they make sense."""


class RawHead(Protocol):
    """What of aiohttp's `RawRequestMessage` is read."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def version(self) -> HttpVersion: ...
    @property
    def headers(self) -> CIMultiDictProxy[str]: ...
    @property
    def should_close(self) -> bool: ...
    @property
    def chunked(self) -> bool: ...


class Request:
    """One request's head within the bytes it came in. Dies with the request."""

    __slots__ = ("chunked", "end", "head", "length")

    def __init__(self, head: Head, length: int, chunked: bool, end: int) -> None:
        self.head = head
        self.length = length
        """Of the body; 0 when it is chunked."""
        self.chunked = chunked
        self.end = end
        """Where the body begins in the data."""


_BEARER: Final = b"uthorization: Bearer "
"""Of a header's line, whatever its first letter."""
_KEY = re.compile(rb"[!-~]+")
"""What the parser takes for a bearer's key without a second look."""


class HeadMemo:
    """Heads that the parser accepted, by their bytes without the digits of the content-length.

    Where very many keys call in turn their heads do not fit: then those are known that differ in the key alone.
    """

    __slots__ = ("_heads", "_keyless")

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}
        self._keyless: dict[bytes, Head] = {}
        """One of each, by its bytes without the digits and the key."""

    def find(self, data: bytes) -> tuple[Head, int, int] | None:
        """The head that `data` begins with, if it is whole and known; the body's length; where the body begins."""
        end = data.find(b"\r\n\r\n")
        at = data.find(b"ength: ", 0, end)
        if end < 0 or at < 0:
            return None
        at += 7
        stop = data.find(b"\r", at, at + 12)
        digits = data[at:stop]
        if not digits.isdigit():
            return None
        head = self._heads.get(data[:at] + data[stop:end])
        if head is None:
            head = self._find_keyless(data, at, stop, end)
            if head is None:
                return None
        return head, int(digits), end + 4

    def _find_keyless(self, data: bytes, at: int, stop: int, end: int) -> Head | None:
        start, close = _key_in(data, end)
        if start < 0:
            return None
        twin = self._keyless.get(_without(data, start, close, at, stop, end))
        if twin is None:
            return None
        key = data[start:close]
        head = twin.with_key(b"Bearer " + key, data[:at], data[stop : end + 4])
        self._remember(data[:at] + data[stop:end], head)
        return head

    def learn(self, data: bytes, end: int, head: Head) -> None:
        """Remembers an accepted head that ends at `end` (where the blank line begins)."""
        at = data.find(b"ength: ", 0, end) + 7
        line = data.rfind(b"\n", 0, at) + 1
        # What is cut out must be the content-length itself, whatever else is called so.
        if at < 7 or data[line:at].lower() != b"content-length: ":
            return
        stop = data.find(b"\r", at, at + 12)
        if stop < 0 or not data[at:stop].isdigit():
            return
        head.before, head.after = data[:at], data[stop : end + 4]
        self._remember(data[:at] + data[stop:end], head)
        start, close = _key_in(data, end)
        if start >= 0 and head.authorization == b"Bearer " + data[start:close]:
            if len(self._keyless) >= MEMO_SIZE:
                self._keyless.clear()
            self._keyless[_without(data, start, close, at, stop, end)] = head

    def _remember(self, name: bytes, head: Head) -> None:
        if len(self._heads) >= MEMO_SIZE:
            self._heads.clear()
        self._heads[name] = head

    def clear(self) -> None:
        self._heads.clear()
        self._keyless.clear()


def _key_in(data: bytes, end: int) -> tuple[int, int]:
    """Where the only bearer's key of a head begins and ends; -1 if it has none, or could be read in two ways."""
    start = data.find(_BEARER, 0, end) + len(_BEARER)
    if start < len(_BEARER) or data.find(_BEARER, start, end) >= 0:
        return -1, -1
    line = start - len(_BEARER) - 3
    if data[line : line + 3] not in (b"\r\nA", b"\r\na"):
        return -1, -1  # the end of another header's name
    close = data.find(b"\r\n", start, end + 2)
    return (start, close) if _KEY.fullmatch(data, start, close) else (-1, -1)


def _without(data: bytes, start: int, close: int, at: int, stop: int, end: int) -> bytes:
    """The head without the key from `start` to `close`, and without the digits from `at` to `stop`."""
    if start < at:
        return data[:start] + data[close:at] + data[stop:end]
    return data[:at] + data[stop:start] + data[close:end]


class HeadParser:
    """Reads one head that may come in pieces; raises `MalformedRequest` as soon as it can be none."""

    __slots__ = ("_fed", "_memo", "_parser", "data")

    def __init__(self, memo: HeadMemo) -> None:
        self._memo = memo
        loop = asyncio.get_running_loop()
        # The C parser's sequences are not those that aiohttp's stubs promise.
        self._parser: Any = http_parser.HttpRequestParser(BaseProtocol(loop), loop, 65536)
        self._fed = 0
        self.data = b""
        """All that came, the head and what followed it."""

    def feed(self, data: bytes) -> Request | None:
        self.data = data = self.data + data if self.data else data
        fed = self._fed
        end = data.find(b"\r\n\r\n", max(0, fed - 3))
        stop = len(data) if end < 0 else end + 4
        if stop > MAX_HEAD:
            raise errors.MalformedRequest("The request's head is too large.")
        self._fed = stop
        try:
            messages, _, _ = self._parser.feed_data(data[fed:stop])
        except (HttpProcessingError, ValueError):
            raise errors.MalformedRequest from None
        if (end < 0) != (not messages):
            raise errors.MalformedRequest
        if end < 0:
            return None
        if b"\r\n " in data[:end] or b"\r\n\t" in data[:end]:
            raise errors.MalformedRequest  # obsolete line folding: the classic way to hide a header
        message: RawHead = messages[0][0]
        head = _read(message)
        length = message.headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or len(length) > 15:
            raise errors.MalformedRequest
        if not message.chunked and head.refusal is None:
            self._memo.learn(data, end, head)
        return Request(head, int(length), message.chunked, stop)


def _read(message: RawHead) -> Head:
    """The facts of a head that the parser accepted."""
    headers = message.headers
    head = Head()
    head.before = head.after = b""
    head.method = message.method
    head.path = message.path.split("?", 1)[0]
    found = operations.find(head.path)
    head.operation, head.tail = (None, None) if found is None else (found.operation, found.tail)
    head.http11 = message.version[1] == 1
    head.keep_alive = not message.should_close
    sent = headers.getall("authorization", [])
    # Two are as good as none: which of them would count?
    head.authorization = _bytes(sent[0]) if len(sent) == 1 else (b"" if sent else None)
    head.content_type = headers.get("content-type", "").split(";", 1)[0].strip().lower()
    head.encoded = headers.get("content-encoding", "identity").strip().lower() != "identity"
    origin = headers.get("origin")
    head.origin = None if origin is None else _bytes(origin)
    asked = headers.get("access-control-request-headers")
    head.preflight_headers = None if asked is None else _bytes(asked)
    head.forwarded_for = ",".join(headers.getall("x-forwarded-for", [])) or None
    head.real_ip = headers.get("x-real-ip")
    head.client_request_id = _clip(headers.get("x-request-id"))
    # Headers that the client's own hop named in Connection end here (RFC 9110 §7.6.1).
    hop = {name.strip().lower() for name in headers.get("connection", "").split(",")}
    head.forward = head.untraced = b"".join(
        b"%b: %b\r\n" % (name.encode(), _bytes(value))
        for name in _FORWARDED
        if name not in hop
        for value in headers.getall(name, [])
    )
    head.parent, head.trace_id = None, None
    if "traceparent" in headers:
        states = [] if "tracestate" in hop else list(headers.getall("tracestate", []))
        head.parent = parent = tracecontext.read(list(headers.getall("traceparent")), states)
        if parent is not None:
            head.trace_id = parent.trace_id
            head.forward += b"" if "traceparent" in hop else parent.lines
    expect = headers.get("expect")
    head.expect_continue = expect is not None and expect.lower() == "100-continue" and head.http11
    head.first_token = None
    head.seen = None
    head.refusal = None
    try:
        head.first_token = _first_token(headers.get("x-relay-first-token-ms"))
        _check(message, expect)
    except errors.RelayError as error:
        head.refusal = error
    return head


def _check(message: RawHead, expect: str | None) -> None:
    if tuple(message.version) not in ((1, 1), (1, 0)):
        raise errors.VersionNotSupported
    codings = message.headers.getall("transfer-encoding", ["chunked"])
    if message.chunked and (message.version[1] == 0 or [c.lower() for c in codings] != ["chunked"]):
        # A coding below the chunks (`gzip, chunked`) would be passed on undone as if it were the body.
        raise errors.MalformedRequest
    if expect is not None and expect.lower() != "100-continue":
        raise errors.ExpectationFailed
    for via in message.headers.getall("via", []):
        if any(hop.split()[:2] == VIA.decode().split() for hop in via.split(",")):
            raise errors.LoopDetected


def _first_token(text: str | None) -> float | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:12]) <= MAX_FIRST_TOKEN_MS:
        name = "x-relay-first-token-ms"
        raise errors.BadField(f"{name} must be an integer of at least 1", param=name)
    return int(text) / 1000


def _bytes(value: str) -> bytes:
    """The header's value as it was sent."""
    return value.encode("utf-8", "surrogateescape")


def _clip(text: str | None) -> str | None:
    return None if text is None else text[:128].encode("ascii", "replace").decode()
