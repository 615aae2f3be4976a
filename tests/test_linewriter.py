"""Lines reach their sink whole and in order, and a sink that is stuck holds up nobody."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.observe.linewriter import ATOMIC, LineWriter, plain_lines, storable

PIPE_SIZE = 4096
"""Bytes, the least Linux allows."""


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that holds one page."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    try:
        yield read, write
    finally:
        for fd in (read, write):
            with contextlib.suppress(OSError):
                os.close(fd)


def read_all(fd: int) -> bytes:
    return b"".join(iter(lambda: os.read(fd, 65536), b""))


def test_lines_come_out_whole_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as sink:
        writer = LineWriter(sink.fileno())

        for number in range(1000):
            writer.write(b"%d\n" % number, 1)
        closed = writer.close(10.0)

    assert closed
    assert writer.dropped == 0
    assert path.read_bytes() == b"".join(b"%d\n" % number for number in range(1000))


def test_a_stuck_sink_never_blocks_and_what_does_not_fit_is_counted() -> None:
    with pipe() as (read, write):
        writer = LineWriter(write, max_pending=100_000)
        line = b"x" * 999 + b"\n"

        for _ in range(1000):
            writer.write(line, 1)

        assert not writer.close(0.01)
        assert 1000 - 200 < writer.dropped < 1000
        # The thread ends with the reader, so that the next test finds no writer on a descriptor of its own.
        os.close(read)
        assert writer.close(10.0)


def test_lines_that_fitted_are_written_once_the_sink_moves_again() -> None:
    with pipe() as (read, write):
        writer = LineWriter(write, max_pending=50_000)
        line = b"x" * 99 + b"\n"
        for _ in range(600):
            writer.write(line, 1)
        dropped = writer.dropped

        got = b""
        while len(got) < (600 - dropped) * len(line):
            got += os.read(read, 65536)

        assert writer.close(10.0)
        assert dropped > 0
        assert got == line * (600 - dropped)


def test_a_broken_sink_is_counted_and_does_not_raise() -> None:
    with pipe() as (read, write):
        os.close(read)
        writer = LineWriter(write)

        writer.write(b"one\ntwo\n", 2)

        assert writer.close(10.0)
        assert writer.dropped == 2


def test_writing_after_the_close_is_counted() -> None:
    with pipe() as (_, write):
        writer = LineWriter(write)
        writer.close(10.0)

        writer.write(b"late\n", 1)

        assert writer.dropped == 1


def test_closing_without_a_line_is_at_once() -> None:
    with pipe() as (_, write):
        assert LineWriter(write).close(0.0)


def test_a_descriptor_made_non_blocking_by_others_loses_nothing() -> None:
    with pipe() as (read, write):
        os.set_blocking(write, False)
        writer = LineWriter(write)
        block = b"x" * 999 + b"\n"

        for _ in range(50):
            writer.write(block, 1)
        got = b""
        while len(got) < 50 * len(block):
            got += os.read(read, 65536)

        assert writer.close(10.0)
        assert writer.dropped == 0
        assert got == block * 50


def test_a_shared_sink_gets_whole_lines_in_every_write() -> None:
    reader, sink = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with reader, sink:
        writer = LineWriter(sink.fileno())
        line = b"y" * 699 + b"\n"

        writer.write(line * 20, 20)
        writer.write(b"z" * (2 * ATOMIC) + b"\n" + line, 2)
        writer.close(10.0)
        sink.close()

        packets = list(iter(lambda: reader.recv(65536), b""))
        assert b"".join(packets) == line * 20 + b"z" * (2 * ATOMIC) + b"\n" + line
        assert all(packet.endswith(b"\n") for packet in packets)
        assert max(len(p) for p in packets if not p.startswith(b"z")) <= ATOMIC


def test_ascii_is_left_alone() -> None:
    block = b'{"model":"a\\u0000b"}\n'

    assert plain_lines(block) is block


def test_readable_text_of_any_script_is_left_alone() -> None:
    block = '{"model":"深度 模型 é 😀"}\n'.encode()

    assert plain_lines(block) == block


def test_every_invisible_character_is_escaped_and_means_the_same() -> None:
    hidden = [
        char
        for char in map(chr, range(0x7F, sys.maxunicode + 1))
        if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")
    ]
    text = "".join(hidden)

    line = plain_lines(json.dumps(text, ensure_ascii=False).encode())

    assert line.isascii()
    assert b"\x7f" not in line
    assert json.loads(line) == text


@pytest.mark.parametrize("text", ["a\udc80b", "\ud800", "plain"])
def test_storable_text_can_be_encoded(text: str) -> None:
    assert storable(text).encode()
