"""Heads on the upstream side: how a request's is built, how a response's is read.

Both work by allow-list. Of a response nothing travels on but what `ResponseHead` names; header lines repeat from
answer to answer, so a line that was judged once is looked up and not judged again.
"""

from __future__ import annotations

import re
from typing import Final

from relay import __version__
from relay.chunked import BadFraming

MAX_HEAD: Final = 65536
"""Bytes of a response head. An upstream that sends more is broken."""
MAX_LINES: Final = 256

VIA: Final = b"1.1 relay"
"""How we sign what we forward, and what tells us that a request has been here before (RFC 9110 §7.6.3)."""

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

_READ = frozenset(
    (
        b"content-type",
        b"content-length",
        b"content-encoding",
        b"transfer-encoding",
        b"connection",
        b"x-request-id",
        b"openai-processing-ms",
        b"openai-version",
        b"retry-after",
        b"retry-after-ms",
    )
)
"""Names that mean something to us; every other header ends here."""

_FORWARDED = (b"openai-processing-ms", b"openai-version")

_lines: dict[bytes, tuple[bytes, bytes] | None] = {}
"""Lines judged: (name, value) of one we read, None for a valid one that we don't. Bounded."""
_LINES_KEPT: Final = 2048


class ResponseHead:
    """One response head; answers with the same head share it.

    `length` is None for chunked bodies and for those that end with the connection.
    """

    __slots__ = (
        "chunked",
        "content_type",
        "encoding",
        "forwarded",
        "headers",
        "keep_alive",
        "length",
        "request_id",
        "status",
    )

    def __init__(self, status: int, http11: bool, headers: dict[bytes, bytes]) -> None:
        self.status = status
        self.headers = headers
        """Lower-case names, only those of the allow-list."""
        connection = headers.get(b"connection", b"").lower()
        self.keep_alive = b"close" not in connection if http11 else b"keep-alive" in connection
        self.chunked = False
        self.length: int | None = None
        coding = headers.get(b"transfer-encoding")
        length = headers.get(b"content-length")
        if coding is not None:
            # Both, or an unknown coding, is how responses are smuggled.
            if length is not None or coding.strip().lower() != b"chunked" or not http11:
                raise BadFraming
            self.chunked = True
        elif length is not None:
            if not length.isdigit() or len(length) > 15:
                raise BadFraming
            self.length = int(length)
        if status in (204, 205, 304):
            self.chunked, self.length = False, 0
        self.content_type = headers.get(b"content-type", b"").split(b";", 1)[0].strip().lower()
        encoding = headers.get(b"content-encoding", b"").strip().lower()
        self.encoding = b"" if encoding == b"identity" else encoding
        request_id = headers.get(b"x-request-id")
        self.request_id = (
            None if request_id is None else request_id[:256].decode("ascii", "replace")
        )
        self.forwarded = _forwarded(headers)
        """Header lines that the client gets of this head."""


def _forwarded(headers: dict[bytes, bytes]) -> bytes:
    out = b""
    for name in _FORWARDED:
        value = headers.get(name)
        if value is not None:
            out += name + b": " + value + b"\r\n"
    request_id = headers.get(b"x-request-id")
    if request_id is not None:
        out += b"x-upstream-request-id: " + request_id[:256] + b"\r\n"
    return out


def _judge(line: bytes) -> tuple[bytes, bytes] | None:
    name, colon, value = line.partition(b":")
    if not colon or not _TOKEN.fullmatch(name) or _CONTROL.search(value):
        raise BadFraming
    name = name.lower()
    pair = (name, value.strip(b" \t")) if name in _READ else None
    if len(line) <= 256:
        if len(_lines) >= _LINES_KEPT:
            _lines.clear()
        _lines[line] = pair
    return pair


_heads: dict[bytes, ResponseHead] = {}
"""Heads read, by their bytes: servers without a clock or a request id in them repeat themselves. Bounded."""
_HEADS_KEPT: Final = 256


def parse_head(head: bytes) -> ResponseHead:
    """Reads a head, without its final blank line. Raises `BadFraming` for anything that is not strictly one."""
    known = _heads.get(head)
    if known is not None:
        return known
    lines = head.split(b"\r\n")
    match = _STATUS.fullmatch(lines[0])
    if match is None or len(lines) > MAX_LINES:
        raise BadFraming
    headers: dict[bytes, bytes] = {}
    for line in lines[1:]:
        pair = _lines[line] if line in _lines else _judge(line)
        if pair is None:
            continue
        name, value = pair
        if name in headers:
            if name in (b"content-length", b"transfer-encoding", b"content-encoding"):
                raise BadFraming
            if name == b"connection":
                value = headers[name] + b"," + value
        headers[name] = value
    read = ResponseHead(int(match[2]), match[1] == b"1", headers)
    if len(head) <= 1024:
        if len(_heads) >= _HEADS_KEPT:
            _heads.clear()
        _heads[head] = read
    return read


def request_head(path: bytes, authority: bytes, credential: str | None) -> bytes:
    """The constant part of a request to one endpoint: everything but the forwarded lines and the length."""
    authorization = b""
    if credential is not None:
        authorization = b"authorization: Bearer %b\r\n" % credential.encode("latin-1")
    return b"".join(
        (
            b"POST ",
            path,
            b" HTTP/1.1\r\nhost: ",
            authority,
            b"\r\n",
            authorization,
            b"content-type: application/json\r\naccept-encoding: identity\r\nuser-agent: relay/",
            __version__.encode(),
            b"\r\nvia: ",
            VIA,
            b"\r\n",
        )
    )
