"""Response heads are read strictly: whatever could be read in two ways is no head."""

from __future__ import annotations

import pytest

from relay.chunked import BadFraming
from relay.upstream.headers import parse_head, request_head

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\nX-Request-Id: abc"
)


def test_a_streams_head() -> None:
    head = parse_head(HEAD)

    assert head.status == 200
    assert head.chunked
    assert head.length is None
    assert head.keep_alive
    assert head.content_type == b"text/event-stream"
    assert head.forwarded == b"x-upstream-request-id: abc\r\n"


@pytest.mark.parametrize(
    ("lines", "keep"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2", True),
        (b"HTTP/1.1 200 OK\r\nConnection: x\r\nConnection: close\r\nContent-Length: 2", False),
    ],
)
def test_whether_the_connection_goes_on(lines: bytes, keep: bool) -> None:
    assert parse_head(lines).keep_alive is keep


@pytest.mark.parametrize(
    "lines",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x2",
        b"HTTP/1.1 200 OK\r\nContent-Length : 2",
        b"HTTP/1.1 200 OK\r\nX: a\r\n folded",
        b"HTTP/1.1 200 OK\r\nX: a\rb",
        b"HTTP/1.1 200 OK\r\nX: a\nb",
        b"HTTP/1.1 200 OK\r\nX: a\x00b",
        b"HTTP/1.1 200 OK\x00",
        b"HTTP/2 200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 0200 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 200 OK\r\nno colon",
        b"HTTP/1.1 200 OK\r\n: no name",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300,
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(lines: bytes) -> None:
    for _ in range(2):  # the second time from the memory of lines
        with pytest.raises(BadFraming):
            parse_head(lines)


def test_a_status_without_a_reason_is_one() -> None:
    assert parse_head(b"HTTP/1.1 503").status == 503


def test_answers_without_a_body_have_none_whatever_they_say() -> None:
    head = parse_head(b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked")

    assert not head.chunked
    assert head.length == 0


def test_a_requests_constant_part_has_the_credential_once() -> None:
    head = request_head(b"/v1/chat/completions", b"api.example.com", "sk-secret")

    assert head.count(b"sk-secret") == 1
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nhost: api.example.com\r\n")
    assert b"accept-encoding: identity\r\n" in head
    assert request_head(b"/x", b"h", None).count(b"authorization") == 0
