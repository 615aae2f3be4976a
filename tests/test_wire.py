"""Upstream connections, by hand: strict about what they read, and used again only when they are clean."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.upstream.wire import STALE_WITHIN
from tests.line import OK, Line, chunked, scene
from tests.streams import cut, steps

# --- reading --------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_any_cutting_of_any_framing_gives_the_same_answer(draw: st.DataObject) -> None:
    body = draw.draw(st.binary(max_size=60)) or b"x"
    framing = draw.draw(st.sampled_from(("length", "chunks", "close")))
    wire = {
        "length": OK + b"Content-Length: %d\r\n\r\n%b" % (len(body), body),
        "chunks": chunked(body, draw.draw(st.lists(st.integers(0, len(body)), max_size=5))),
        "close": OK + b"\r\n" + body,
    }[framing]
    interim = draw.draw(st.sampled_from((b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2)))
    behind = draw.draw(st.sampled_from((b"", b"", b"HTTP/1.1 200 OK\r\n\r\n")))
    data = interim + wire + (b"" if framing == "close" else behind)
    pieces = cut(data, draw.draw(steps(len(data))))

    def test(line: Line) -> None:
        heard = line.ask()
        line.say(*pieces)
        if framing == "close":
            line.wire.lose(None)

        assert [head.status for head in heard.heads] == [200]
        assert heard.body == body
        assert heard.end == ["closed" if framing == "close" else "ended"]
        free = framing != "close" and not behind
        assert (line.taken() is line.connection) is free
        assert line.wire.closed is not free

    scene(test)


@pytest.mark.parametrize("exc", [None, ConnectionResetError()], ids=["fin", "rst"])
@pytest.mark.parametrize(
    ("said", "end"),
    [
        (b"", "reset_before_headers"),
        (b"HTTP/1.1 20", "reset_before_headers"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "reset_before_headers"),
        (OK + b"Content-Length: 5\r\n\r\n", "truncated"),
        (OK + b"Content-Length: 5\r\n\r\nabc", "truncated"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc", "truncated"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n", "truncated"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", "truncated"),
        (OK + b"\r\nabc", "closed"),
    ],
)
def test_a_connection_that_ends_too_soon_says_how(
    said: bytes, end: str, exc: Exception | None
) -> None:
    def test(line: Line) -> None:
        heard = line.ask()
        line.say(said)
        line.wire.lose(exc)

        early = end == "reset_before_headers"
        assert heard.end == [end if exc is None or early else "reset"]
        assert not line.pool.open

    scene(test)


def test_only_a_kept_connection_that_said_nothing_is_stale() -> None:
    def test(line: Line) -> None:
        line.ask()
        line.say(OK + b"Content-Length: 2\r\n\r\n{}")
        assert line.taken() is line.connection
        heard = line.ask()
        line.wire.lose(None)

        assert heard.end == ["stale_conn"]

    scene(test)


def test_a_kept_connection_that_breaks_long_after_the_request_is_not_stale() -> None:
    """The upstream had the request, and may have worked on it."""

    def test(line: Line) -> None:
        line.ask()
        line.say(OK + b"Content-Length: 2\r\n\r\n{}")
        assert line.pool.take(line.now - STALE_WITHIN) is line.connection
        heard = line.ask()
        line.wire.lose(None)

        assert heard.end == ["reset_before_headers"]

    scene(test)


def test_a_kept_connection_that_began_to_answer_is_not_stale() -> None:
    def test(line: Line) -> None:
        line.ask()
        line.say(OK + b"Content-Length: 2\r\n\r\n{}")
        assert line.taken() is line.connection
        heard = line.ask()
        line.say(b"HTTP/1.1 ")
        line.wire.lose(ConnectionResetError())

        assert heard.end == ["reset_before_headers"]

    scene(test)


BAD = {
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\n\r\n",
    "a bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n" + b"x" * 70_000,
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "status 99": b"HTTP/1.1 099 OK\r\n\r\n",
    "two lengths": OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n",
    "one length twice": OK + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\n",
    "a list of lengths": OK + b"Content-Length: 3, 3\r\n\r\n",
    "a signed length": OK + b"Content-Length: +3\r\n\r\n",
    "a negative length": OK + b"Content-Length: -3\r\n\r\n",
    "a blank length": OK + b"Content-Length: \r\n\r\n",
    "length and chunks": OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    "gzip and chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "HTTP/1.0 chunked": OK.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n",
    "a blank in a name": OK + b"Content-Length : 3\r\n\r\n",
    "a folded line": OK + b"X-A: b\r\n c\r\n\r\n",
    "a NUL": OK + b"X-A: \x00\r\n\r\n",
    "no colon": OK + b"nothing\r\n\r\n",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
    "100 for ever": b"HTTP/1.1 100 Continue\r\n\r\n" * 17,
    "a huge head": OK + b"X-A: " + b"a" * 70_000,
    "a huge whole head": OK + b"X-A: " + b"a" * 70_000 + b"\r\n\r\n",
    "many lines": OK + b"X: 1\r\n" * 300 + b"\r\n",
    "a bad size": OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a 0x size": OK + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nabcde\r\n",
    "a signed size": OK + b"Transfer-Encoding: chunked\r\n\r\n+5\r\nabcde\r\n",
    "a huge size": OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 20 + b"\r\n",
    "a chunk too long": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n",
    "a bare LF size": OK + b"Transfer-Encoding: chunked\r\n\r\n2\nab\r\n",
}


@pytest.mark.parametrize("step", [0, 1, 7], ids=["whole", "bytes", "sevens"])
@pytest.mark.parametrize("name", BAD)
def test_what_is_not_strictly_an_answer_ends_the_connection(name: str, step: int) -> None:
    data = BAD[name]

    def test(line: Line) -> None:
        heard = line.ask()
        line.say(*cut(data, range(step, len(data), step) if step else []))

        assert heard.end == ["bad_framing"]
        assert line.wire.aborted
        assert not line.pool.open
        assert line.taken() is None

    if step == 1 and len(data) > 10_000:
        # Byte by byte a huge head is a test of patience.
        step = 1000
    scene(test)


def test_what_came_before_bad_framing_stands() -> None:
    def test(line: Line) -> None:
        heard = line.ask()
        line.say(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\nzz\r\n")

        assert heard.body == b"abc"
        assert heard.end == ["bad_framing"]

    scene(test)


def test_a_few_interim_answers_are_passed_over() -> None:
    def test(line: Line) -> None:
        heard = line.ask()
        line.say(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 16)
        line.say(OK + b"Content-Length: 2\r\n\r\n{}")

        assert [head.status for head in heard.heads] == [200]
        assert heard.end == ["ended"]

    scene(test)


@pytest.mark.parametrize("status", [204, 205, 304])
def test_an_answer_without_a_body_needs_no_length(status: int) -> None:
    def test(line: Line) -> None:
        heard = line.ask()
        line.say(b"HTTP/1.1 %d X\r\n\r\n" % status)

        assert heard.end == ["ended"]
        assert heard.body == b""

    scene(test)
