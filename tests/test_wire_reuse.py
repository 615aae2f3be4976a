"""Upstream connections, by hand: used again only when they are clean, and gone at once when they are given up."""

from __future__ import annotations

import pytest

from tests.line import OK, REQUEST, Heard, Line, chunked, scene
from tests.plane import play, turn
from tests.streams import cut

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


def test_only_so_many_idle_ones_are_kept_and_the_oldest_go() -> None:
    def test(line: Line) -> None:
        line.pool.limit(4.0, 300.0, 2)
        second, third = line.opened()[0], line.opened()[0]
        for connection in (line.connection, second, third):
            line.pool.put(connection)

        assert line.wire.aborted
        assert line.taken() is third
        assert line.taken() is second
        assert line.taken() is None

    scene(test)


def test_with_none_to_be_kept_each_serves_once() -> None:
    def test(line: Line) -> None:
        line.pool.limit(4.0, 300.0, 0)
        heard = line.ask()
        line.say(OK + b"Content-Length: 2\r\n\r\n{}")

        assert heard.end == ["ended"]
        assert line.wire.aborted
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
