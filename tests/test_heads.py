"""Request heads: what aiohttp's parser accepts, what we add to it, and what the memo may recognise."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import http_parser
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import MalformedRequest
from relay.heads import HeadMemo, HeadParser, Request

POST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer sk-abc\r\n"
    b"Content-Type: application/json; charset=utf-8\r\nContent-Length: 12\r\n\r\n"
)


def parse(*pieces: bytes, memo: HeadMemo | None = None) -> Request | None:
    async def scene() -> Request | None:
        parser = HeadParser(memo or HeadMemo())
        found = None
        for piece in pieces:
            found = parser.feed(piece)
        return found

    return asyncio.run(scene())


def test_what_we_touch_of_aiohttps_private_surface_is_as_we_know_it() -> None:
    assert http_parser.HttpRequestParser is not http_parser.HttpRequestParserPy
    for name in ("method", "path", "version", "headers", "should_close", "chunked"):
        assert hasattr(http_parser.RawRequestMessage, name)

    request = parse(POST)

    assert request is not None


def test_the_facts_of_a_head() -> None:
    request = parse(POST + b'{"model":"x"}')

    assert request is not None
    head = request.head
    assert (head.method, head.path) == ("POST", "/v1/chat/completions")
    assert head.operation is not None
    assert head.operation.name == "chat_completions"
    assert head.authorization == b"Bearer sk-abc"
    assert head.content_type == "application/json"
    assert head.keep_alive
    assert head.http11
    assert (request.length, request.chunked, request.end) == (12, False, len(POST))


def test_a_head_in_pieces_is_the_same_head() -> None:
    for cut in range(1, len(POST)):
        request = parse(POST[:cut], POST[cut:])

        assert request is not None
        assert request.end == len(POST)
        assert request.head.authorization == b"Bearer sk-abc"


@pytest.mark.parametrize(
    "data",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX y: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 9000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"X: " + b"y" * 8000 + b"\r\n") * 10 + b"\r\n",
    ],
)
def test_what_is_not_http_is_refused_without_its_words(data: bytes) -> None:
    with pytest.raises(MalformedRequest) as caught:
        parse(data)

    assert "y" * 20 not in caught.value.message


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", 417),
        (b"POST / HTTP/1.1\r\nHost: a\r\nVia: 1.0 a, 1.1 relay\r\n\r\n", 508),
        (b"POST / HTTP/1.1\r\nHost: a\r\nx-relay-first-token-ms: 0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nx-relay-first-token-ms: 1e3\r\n\r\n", 400),
    ],
)
def test_heads_that_condemn_their_request(data: bytes, status: int) -> None:
    request = parse(data)

    assert request is not None
    assert request.head.refusal is not None
    assert request.head.refusal.status == status


def test_two_authorizations_count_as_none() -> None:
    request = parse(
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n"
    )

    assert request is not None
    assert request.head.authorization == b""


def test_only_allowed_headers_travel_on() -> None:
    request = parse(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nOpenAI-Beta: x\r\nOpenAI-Organization: org\r\n"
        b"Cookie: c=1\r\nX-Api-Key: k\r\nIdempotency-Key: i\r\nTracestate: t\r\n"
        b"Connection: keep-alive, tracestate\r\n\r\n"
    )

    assert request is not None
    assert request.head.forward == b"openai-beta: x\r\nidempotency-key: i\r\n"


def test_the_memo_recognises_a_head_whatever_its_length_digits() -> None:
    memo = HeadMemo()
    first = parse(POST, memo=memo)
    assert first is not None

    again = memo.find(POST.replace(b"Content-Length: 12", b"Content-Length: 345") + b"{}")

    assert again is not None
    assert again == (first.head, 345, len(POST) + 1)


@pytest.mark.parametrize(
    "change",
    [
        (b"Length: 12", b"Length: +1"),
        (b"Length: 12", b"Length: "),
        (b"Length: 12", b"Length: 1 2"),
        (b"Length: 12", b"Length: 12, 12"),
        (b"Host: relay", b"Host: relaz"),
        (b"\r\n\r\n", b"\r\nX: y\r\n\r\n"),
    ],
)
def test_the_memo_recognises_nothing_else(change: tuple[bytes, bytes]) -> None:
    memo = HeadMemo()
    parse(POST, memo=memo)

    assert memo.find(POST.replace(*change)) is None


def test_the_memo_is_not_fooled_by_another_header_that_ends_in_length() -> None:
    memo = HeadMemo()
    data = POST.replace(b"Host:", b"X-Length: 7\r\nHost:")

    parse(data, memo=memo)

    assert memo.find(data) is None
    assert memo.find(data.replace(b"X-Length: 7", b"X-Length: 9")) is None


LINES = [
    b"X-Authorization: Bearer sk-abc",
    b"Authorization:Bearer sk-abc",
    b"Proxy-Authorization: Bearer sk-abc",
    b"X-Length: 9",
    b"Content-Type: application/json",
    b"Origin: https://shop.example",
    b"x-request-id: mine",
    b"Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
]
SHOWN = (
    *("method", "path", "http11", "keep_alive", "authorization", "content_type", "encoded"),
    *("origin", "client_request_id", "trace_id", "forward", "first_token", "expect_continue"),
)


def head(lines: list[bytes], key: bytes, length: int) -> bytes:
    keyed = [line.replace(b"KEY", key) for line in lines]
    return b"\r\n".join(
        [
            b"POST /v1/chat/completions HTTP/1.1",
            b"Host: relay",
            *keyed,
            b"Content-Length: %d" % length,
            b"\r\n",
        ]
    )


@given(
    st.lists(st.sampled_from(LINES), unique=True, max_size=5),
    st.sampled_from([b"Authorization: Bearer KEY", b"authorization: Bearer KEY"]),
    st.lists(
        st.sampled_from([b"sk-abc", b"sk-xyz", b"s k", b"", b"\xc3\xa9"]), min_size=2, max_size=4
    ),
    st.data(),
)
def test_a_head_with_another_key_is_what_the_parser_makes_of_it(
    lines: list[bytes], bearer: bytes, keys: list[bytes], draw: st.DataObject
) -> None:
    lines.insert(draw.draw(st.integers(0, len(lines))), bearer)
    memo = HeadMemo()

    for key in keys:
        data = head(lines, key, 12)
        fresh = parse(data)
        found = memo.find(data)

        assert fresh is not None
        if found is not None:
            known, length, end = found
            assert (length, end) == (fresh.length, fresh.end)
            for name in SHOWN:
                assert getattr(known, name) == getattr(fresh.head, name), name
            assert known.seen is None or known.authorization == fresh.head.authorization
        parse(data, memo=memo)


def test_a_second_key_of_the_same_client_needs_no_parser() -> None:
    memo = HeadMemo()
    lines = [b"Authorization: Bearer KEY", b"Content-Type: application/json"]
    parse(head(lines, b"sk-one", 12), memo=memo)

    found = memo.find(head(lines, b"sk-two", 345))

    assert found is not None
    assert (found[0].authorization, found[1]) == (b"Bearer sk-two", 345)
    assert found[0].seen is None


def test_a_key_elsewhere_in_a_head_is_never_taken_for_the_callers() -> None:
    memo = HeadMemo()
    lines = [b"Authorization:Bearer sk-mine", b"Proxy-Authorization: Bearer KEY"]
    parse(head(lines, b"sk-mine", 12), memo=memo)

    assert memo.find(head(lines, b"sk-other", 12)) is None
