"""Response heads for clients: the one place that writes them.

A head is put together from prepared lines; only what differs from call to call is added. `Content-Length` or
chunked framing is chosen here from what the client speaks.
"""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from relay.chunked import LAST_CHUNK, frame

_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}

_STREAM = (
    b"HTTP/1.1 200 OK\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache, no-transform\r\n"
    # nginx would collect the stream into its buffers otherwise.
    b"x-accel-buffering: no\r\n"
)
_CHUNKED: Final = b"transfer-encoding: chunked\r\n"
_CLOSE: Final = b"connection: close\r\n"
_JSON: Final = b"content-type: application/json\r\n"
# The same, with the beginning or the end of the line beside them.
_JSON_LENGTH = _JSON + b"content-length: "
_CLOSED = b"\r\n" + _CLOSE
_KEPT_10: Final = b"\r\nconnection: keep-alive\r\n"


class Date:
    """The Date line, made once a second."""

    __slots__ = ("_line", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._line = b""

    def line(self, wall: float) -> bytes:
        """The line for this Unix time."""
        second = int(wall)
        if second != self._second:
            self._second = second
            self._line = b"date: " + formatdate(second, usegmt=True).encode() + b"\r\n"
        return self._line


def stream_head(lines: bytes, *, http11: bool, keep_alive: bool) -> bytes:
    """The head of a streamed answer. An HTTP/1.0 client gets a body that ends with the connection."""
    if not http11:
        return _STREAM + _CLOSE + lines + b"\r\n"
    return b"".join((_STREAM, _CHUNKED, b"" if keep_alive else _CLOSE, lines, b"\r\n"))


def whole_head(status: int, length: int, lines: bytes, *, http11: bool, keep_alive: bool) -> bytes:
    """The head of a JSON answer of `length` bytes."""
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d Error\r\n" % status
    connection = (b"\r\n" if http11 else _KEPT_10) if keep_alive else _CLOSED
    return b"".join((line, _JSON_LENGTH, str(length).encode(), connection, lines, b"\r\n"))


def large_head(length: int | None, lines: bytes, *, http11: bool, keep_alive: bool) -> bytes:
    """The head of a JSON answer that is passed on while it comes: `length` as the upstream said, or unknown."""
    line = _STATUS_LINES[200]
    framing = _CHUNKED if http11 else b""
    if length is not None:
        framing = b"content-length: %d\r\n" % length
    connection = b"" if keep_alive and http11 else _CLOSE
    return b"%b%b%b%b%b\r\n" % (line, _JSON, framing, connection, lines)


def whole_body(payload: bytes, *, http11: bool) -> bytes:
    """A body that is sent in one piece after `stream_head`."""
    return frame(payload) + LAST_CHUNK if http11 else payload


def part(payload: bytes, *, http11: bool) -> bytes:
    """A part of the body of a stream."""
    return frame(payload) if http11 else payload


def empty_head(status: int, lines: bytes, *, keep_alive: bool) -> bytes:
    """A head without a body (204, or the answer to HEAD)."""
    line = _STATUS_LINES[status]
    length = b"" if status == 204 else b"content-length: 0\r\n"
    return b"%b%b%b%b\r\n" % (line, length, b"" if keep_alive else _CLOSE, lines)


_METHODS: Final = b"GET, POST, DELETE, OPTIONS"
_EXPOSED = (
    b"x-request-id, x-upstream-request-id, retry-after, retry-after-ms, x-should-retry, "
    b"x-ratelimit-limit-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-requests, "
    b"x-ratelimit-remaining-tokens, x-ratelimit-reset-requests, x-ratelimit-reset-tokens, "
    b"x-relay-fallback, openai-processing-ms, openai-version"
)
_ASKED = (
    b"authorization, content-type, accept, openai-organization, openai-project, openai-beta, "
    b"idempotency-key, x-relay-first-token-ms"
)
PREFLIGHT_AGE: Final = 7200
"""Seconds a browser may remember a preflight: Chromium's cap."""


class Cors:
    """Who may call from a browser, as `server.cors` says. Compiled into the snapshot."""

    __slots__ = ("_any", "_origins")

    def __init__(self, origins: list[str]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origin.encode() for origin in origins)

    def lines(self, origin: bytes | None) -> bytes:
        """The lines every answer to this origin carries; without them a browser hides it from its page."""
        if origin is None:
            return b""
        if self._any:
            allowed = b"*"
        elif origin in self._origins:
            allowed = origin
        else:
            return b"vary: origin\r\n"
        vary = b"" if self._any else b"vary: origin\r\n"
        return b"access-control-allow-origin: %b\r\naccess-control-expose-headers: %b\r\n%b" % (
            allowed,
            _EXPOSED,
            vary,
        )

    def preflight(self, asked: bytes | None) -> bytes:
        """What the answer to OPTIONS adds. `*` would not cover Authorization, so what is asked for is named."""
        vary = b"vary: access-control-request-headers\r\n" if asked else b""
        return (
            b"access-control-allow-methods: %b\r\naccess-control-allow-headers: %b\r\n"
            b"access-control-max-age: %d\r\n%b" % (_METHODS, asked or _ASKED, PREFLIGHT_AGE, vary)
        )
