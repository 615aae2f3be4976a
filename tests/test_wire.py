"""Upstream connections, by hand: strict about what they read, and used again only when they are clean."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.chunked import unframed
from relay.upstream.headers import ResponseHead
from relay.upstream.wire import Connection, Connections
from tests.plane import Wire, play, turn
from tests.streams import cut, steps

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
REQUEST = b"POST /v1 HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n"


class Heard:
    """What a receiver was told."""

    def __init__(self) -> None:
        self.heads: list[ResponseHead] = []
        self.body = b""
        self.end: list[str] = []
        self.on_head: Callable[[], None] = lambda: None

    def headed(self, head: ResponseHead) -> None:
        assert not self.end
        self.heads.append(head)
        self.on_head()

    def whole(self, head: ResponseHead, body: bytes) -> None:
        self.headed(head)
        self.body += body
        self.end.append("ended")

    def chunks(self, data: bytes, first: int) -> None:
        self.payload(unframed(data, first))

    def payload(self, data: bytes) -> None:
        assert data
        assert self.heads
        assert not self.end
        self.body += data

    def ended(self, by_close: bool) -> None:
        self.end.append("closed" if by_close else "ended")

    def lost(self, fault: str) -> None:
        self.end.append(fault)


class Line:
    """One connection and its pool."""

    def __init__(self) -> None:
        self.now = asyncio.get_running_loop().time()
        self.bugs: list[BaseException] = []
        self.pool = Connections(asyncio.get_running_loop(), 4.0, 300.0, self.bugs.append)
        self.connection, self.wire = self.opened()
        self.heard = Heard()

    def opened(self) -> tuple[Connection, Wire]:
        connection = Connection(self.pool, self.now)
        wire = Wire(connection, "192.0.2.1")
        connection.connection_made(wire)
        self.pool.made(connection)
        return connection, wire

    def ask(self) -> Heard:
        self.heard = Heard()
        self.connection.send(self.heard, REQUEST, b"{}")
        return self.heard

    def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            if not self.wire.closed:
                self.connection.data_received(piece)

    def taken(self) -> Connection | None:
        """What the next request would get."""
        return self.pool.take(self.now)


def scene(test: Callable[[Line], None]) -> None:
    async def played() -> None:
        line = Line()
        test(line)
        await turn()
        assert line.bugs == []

    play(played())


def chunked(body: bytes, cuts: list[int]) -> bytes:
    parts = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in cut(body, cuts))
    return OK + b"Transfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"


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


# --- being used again -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "again"),
    [
        (OK + b"Content-Length: 2\r\n\r\n{}", True),
        (OK + b"Content-Length: 0\r\n\r\n", True),
        (chunked(b"{}", []), True),
        (OK + b"Connection: keep-alive, x\r\nContent-Length: 2\r\n\r\n{}", True),
        (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}", False),
        (OK + b"connection: x\r\nConnection: Close\r\nContent-Length: 2\r\n\r\n{}", False),
        (OK.replace(b"1.1", b"1.0") + b"Content-Length: 2\r\n\r\n{}", False),
        (
            OK.replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\nContent-Length: 2\r\n\r\n{}",
            True,
        ),
        (OK + b"Content-Length: 2\r\n\r\n{}x", False),
        (chunked(b"{}", []) + b"x", False),
    ],
)
@pytest.mark.parametrize("step", [0, 1])
def test_a_connection_is_kept_only_when_its_answer_says_so_and_nothing_follows(
    answer: bytes, again: bool, step: int
) -> None:
    def test(line: Line) -> None:
        heard = line.ask()
        line.say(*cut(answer, range(step, len(answer), step) if step else []))

        assert heard.end == ["ended"]
        assert (line.taken() is line.connection) is again
        assert line.wire.closed is not again

    scene(test)


def test_an_answer_that_overtakes_its_request_ends_the_connection() -> None:
    """The rest of the request would be read as the next one."""

    def test(line: Line) -> None:
        line.wire.stuck = True
        heard = line.ask()
        line.say(b"HTTP/1.1 413 X\r\nContent-Length: 2\r\n\r\n{}")

        assert heard.end == ["ended"]
        assert line.wire.aborted
        assert line.taken() is None

    scene(test)


def test_bytes_on_an_idle_connection_end_it() -> None:
    def test(line: Line) -> None:
        line.pool.put(line.connection)
        line.say(b"HTTP/1.1 408 Request Timeout\r\n\r\n")

        assert line.wire.aborted
        assert line.taken() is None
        assert not line.pool.open

    scene(test)


@pytest.mark.parametrize("how", ["lost", "closing", "idle too long", "too old"])
def test_an_idle_connection_that_is_no_good_is_passed_over(how: str) -> None:
    def test(line: Line) -> None:
        line.pool.put(line.connection)
        now = line.now
        match how:
            case "lost":
                line.wire.lose(None)
            case "closing":
                line.wire.closed = True
            case "idle too long":
                now = line.connection.idle_since + 4.01
            case "too old":
                line.connection.born = now - 300.1

        assert line.pool.take(now) is None
        assert line.wire.closed
        assert not line.pool.open

    scene(test)


def test_the_freshest_of_the_idle_is_taken_and_the_old_are_trimmed() -> None:
    def test(line: Line) -> None:
        second, wire = line.opened()
        line.pool.put(line.connection)
        line.pool.put(second)
        assert line.taken() is second
        line.pool.put(second)
        line.connection.idle_since -= 4.1

        line.pool.trim(second.idle_since)

        assert line.wire.closed
        assert not wire.closed
        assert line.taken() is second
        assert line.taken() is None

    scene(test)


def test_closing_the_pool_spares_what_is_in_use() -> None:
    def test(line: Line) -> None:
        idle, wire = line.opened()
        line.pool.put(idle)
        heard = line.ask()

        line.pool.close()
        line.say(OK + b"Content-Length: 2\r\n\r\n{}")

        assert wire.closed
        assert heard.end == ["ended"]

    scene(test)


def test_a_paused_connection_reads_again_when_it_is_free() -> None:
    def test(line: Line) -> None:
        line.ask()
        line.connection.pause()
        line.say(OK + b"Content-Length: 2\r\n\r\n{}")

        assert line.wire.is_reading()

    scene(test)


# --- cancelling -----------------------------------------------------------------------------------


def test_after_close_the_receiver_hears_nothing_and_the_upstream_sees_it_go() -> None:
    def test(line: Line) -> None:
        heard = line.ask()
        line.say(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        line.connection.close()
        line.connection.data_received(b"1\r\nb\r\n")
        line.wire.lose(None)

        assert heard.body == b"a"
        assert heard.end == []
        assert line.wire.aborted

    scene(test)


@pytest.mark.parametrize("rest", [b"", b"{}", b"{}x"])
def test_a_receiver_may_close_in_answer_to_the_head(rest: bytes) -> None:
    def test(line: Line) -> None:
        heard = line.ask()
        heard.on_head = line.connection.close
        line.say(OK + b"Content-Length: 3\r\n\r\n" + rest)

        assert heard.end in ([], ["ended"])
        assert line.wire.closed
        assert line.taken() is None

    scene(test)


def test_a_request_is_sent_as_it_is_however_large() -> None:
    def test(line: Line) -> None:
        for size in (0, 10, 65536, 65537, 1 << 20):
            line.wire.sent.clear()
            line.connection.send(Heard(), REQUEST, b"z" * size)

            assert line.wire.sent == REQUEST + b"z" * size

    scene(test)


def test_a_request_on_a_connection_that_is_gone_is_told_so() -> None:
    """It may go between the dial and the request."""

    async def played() -> None:
        line = Line()
        line.wire.lose(None)
        heard = line.ask()
        await turn()

        assert heard.end == ["reset_before_headers"]

    play(played())
