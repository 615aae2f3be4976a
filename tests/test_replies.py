"""Heads of answers: exactly one framing each, and what is said of the connection is true."""

from __future__ import annotations

import pytest

from relay import replies
from relay.errors import (
    BodyTooLarge,
    MethodNotSupported,
    NoUpstream,
    RequestTimeout,
    UpstreamFailed,
)
from relay.replies import Cors, Date

LINES = b"x-request-id: r\r\n"


def fields(head: bytes) -> dict[bytes, bytes]:
    """The head's fields; none may come twice."""
    assert head.endswith(b"\r\n\r\n")
    assert head.count(b"\r\n\r\n") == 1
    found: dict[bytes, bytes] = {}
    for line in head[:-4].split(b"\r\n")[1:]:
        name, colon, value = line.partition(b": ")
        assert colon, line
        assert name not in found, line
        assert name == name.lower()
        found[name] = value
    return found


@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("http11", [True, False])
def test_every_head_has_one_framing_and_says_when_the_connection_closes(
    http11: bool, keep_alive: bool
) -> None:
    whole = replies.whole_head(200, 7, LINES, http11=http11, keep_alive=keep_alive)
    stream = replies.stream_head(LINES, http11=http11, keep_alive=keep_alive)
    known = replies.large_head(9, LINES, http11=http11, keep_alive=keep_alive)
    unknown = replies.large_head(None, LINES, http11=http11, keep_alive=keep_alive)

    assert fields(whole)[b"content-length"] == b"7"
    assert fields(known)[b"content-length"] == b"9"
    for head in (whole, known):
        assert b"transfer-encoding" not in fields(head)
    for head in (stream, unknown):
        assert b"content-length" not in fields(head)
        assert (fields(head).get(b"transfer-encoding") == b"chunked") is http11
        if not http11:
            assert fields(head)[b"connection"] == b"close", "its end is the body's"
    for head in (whole, stream, known, unknown):
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert fields(head)[b"x-request-id"] == b"r"
        assert keep_alive or fields(head)[b"connection"] == b"close"
        assert not (keep_alive and http11) or b"connection" not in fields(head)


def test_an_http_1_0_client_that_is_kept_is_told_so() -> None:
    head = replies.whole_head(200, 7, LINES, http11=False, keep_alive=True)

    assert fields(head)[b"connection"] == b"keep-alive"


def test_a_stream_must_not_be_collected_or_changed_on_its_way() -> None:
    found = fields(replies.stream_head(LINES, http11=True, keep_alive=True))

    assert found[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert found[b"cache-control"] == b"no-cache, no-transform"
    assert found[b"x-accel-buffering"] == b"no"


def test_a_body_in_one_piece_is_framed_for_who_can_read_it() -> None:
    assert replies.whole_body(b"data: x\n\n", http11=True) == b"9\r\ndata: x\n\n\r\n0\r\n\r\n"
    assert replies.whole_body(b"data: x\n\n", http11=False) == b"data: x\n\n"


def test_204_has_no_length_and_other_empty_answers_have_one() -> None:
    assert b"content-length" not in fields(replies.empty_head(204, LINES, keep_alive=True))
    assert fields(replies.empty_head(200, LINES, keep_alive=False)) == {
        b"content-length": b"0",
        b"connection": b"close",
        b"x-request-id": b"r",
    }


@pytest.mark.parametrize("status", [200, 400, 413, 429, 499, 503, 520, 529, 599])
def test_any_status_makes_a_status_line(status: int) -> None:
    head = replies.whole_head(status, 0, b"", http11=True, keep_alive=True)

    assert head.startswith(b"HTTP/1.1 %d " % status)


def test_the_lines_of_errors_fit_into_heads() -> None:
    errors = [
        BodyTooLarge(),
        MethodNotSupported("POST, OPTIONS"),
        NoUpstream(wait=0.001),
        RequestTimeout(),
        UpstreamFailed(),
    ]
    for error in errors:
        head = replies.whole_head(
            error.status, 1, LINES + error.headers(), http11=True, keep_alive=True
        )
        fields(head)


def test_the_date_is_made_once_a_second() -> None:
    date = Date()

    first = date.line(784111777.1)

    assert first == b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    assert date.line(784111777.9) is first
    assert date.line(784111778.0) == b"date: Sun, 06 Nov 1994 08:49:38 GMT\r\n"
    assert date.line(784111777.0) == first, "a clock that was set back"


# --- browsers -------------------------------------------------------------------------------------


def test_any_origin_gets_a_star_and_no_vary() -> None:
    found = fields(b"HTTP\r\n" + Cors(["*"]).lines(b"https://x.test") + b"\r\n")

    assert found[b"access-control-allow-origin"] == b"*"
    assert b"vary" not in found
    assert b"access-control-allow-credentials" not in found
    exposed = found[b"access-control-expose-headers"].split(b", ")
    for name in (b"x-request-id", b"retry-after", b"retry-after-ms", b"x-should-retry"):
        assert name in exposed
    assert sum(name.startswith(b"x-ratelimit-") for name in exposed) == 6


def test_a_listed_origin_is_named_and_another_learns_nothing() -> None:
    cors = Cors(["https://a.test"])

    allowed = fields(b"HTTP\r\n" + cors.lines(b"https://a.test") + b"\r\n")

    assert allowed[b"access-control-allow-origin"] == b"https://a.test"
    assert allowed[b"vary"] == b"origin"
    assert cors.lines(b"https://b.test") == b"vary: origin\r\n"
    assert cors.lines(b"null") == b"vary: origin\r\n"


def test_without_an_origin_nothing_is_said() -> None:
    assert Cors(["*"]).lines(None) == b""


def test_a_preflight_names_what_was_asked_for_since_a_star_is_no_authorization() -> None:
    cors = Cors(["*"])

    asked = fields(b"HTTP\r\n" + cors.preflight(b"authorization, x-new") + b"\r\n")
    silent = fields(b"HTTP\r\n" + cors.preflight(None) + b"\r\n")

    assert asked[b"access-control-allow-headers"] == b"authorization, x-new"
    assert asked[b"vary"] == b"access-control-request-headers"
    assert b"authorization" in silent[b"access-control-allow-headers"]
    assert silent[b"access-control-max-age"] == b"7200"
    assert b"POST" in silent[b"access-control-allow-methods"]
