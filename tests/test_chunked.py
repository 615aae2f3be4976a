"""Chunked framing: strict, incremental, and the same answer however the bytes are cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.chunked import BadFraming, Chunked, frame, size_of, whole_events

payloads = st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=8)


def framed(parts: list[bytes]) -> bytes:
    return b"".join(frame(part) for part in parts)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


@given(payloads, st.lists(st.integers(0, 10_000), max_size=12), st.binary(max_size=20))
def test_any_cutting_of_a_body_gives_its_payload_and_what_followed(
    parts: list[bytes], cuts: list[int], after: bytes
) -> None:
    reader = Chunked()
    got = b""
    rest = b""

    for piece in pieces(framed(parts) + b"0\r\n\r\n", cuts):
        got += reader.feed(piece)
    rest = reader.rest + after

    assert reader.done
    assert got == b"".join(parts)
    assert rest == after


@given(payloads)
def test_every_single_cut_gives_the_same_payload(parts: list[bytes]) -> None:
    data = framed(parts[:3]) + b"0\r\nx-trailer: 1\r\n\r\ntail"

    for cut in range(len(data)):
        reader = Chunked()
        got = reader.feed(data[:cut])
        if not reader.done:
            got += reader.feed(data[cut:])

        assert reader.done
        assert got == b"".join(parts[:3])


@given(payloads)
def test_whole_chunks_of_whole_events_are_recognised_and_only_they(parts: list[bytes]) -> None:
    data = framed([part + b"\n\n" for part in parts])

    assert whole_events(data) == data.index(b"\r\n") + 2
    assert whole_events(data[:-1]) == -1
    assert whole_events(data + b"0\r\n\r\n") == -1
    assert whole_events(data + b"5\r\nab") == -1
    assert whole_events(data + frame(b"half an event")) == -1


@pytest.mark.parametrize(
    "data",
    [
        b"0x5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5_0\r\nhello\r\n",
        b"-1\r\nhello\r\n",
        b"5\nhello\r\n",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello\n\r\n",
        b"\r\n5\r\nhello\r\n",
        b"g\r\n",
        b"123456789\r\n",
        b"5;" + b"x" * 300 + b"\r\n",
        b"0\r\n" + b"a: b\r\n" * 3000,
    ],
)
def test_anything_that_is_not_strictly_framing_is_refused(data: bytes) -> None:
    with pytest.raises(BadFraming):
        Chunked().feed(data)


@pytest.mark.parametrize(
    "line", [b"0x5", b"+5", b" 5", b"5_0", b"5 ", b"", b"\xd9\xa5", b"123456789"]
)
def test_the_fast_path_accepts_only_bare_hexadecimal(line: bytes) -> None:
    assert size_of(line) is None


def test_extensions_are_skipped() -> None:
    reader = Chunked()

    assert reader.feed(b'5;name="v"\r\nhello\r\n0\r\n\r\n') == b"hello"
    assert reader.done


def test_it_knows_when_nothing_is_held() -> None:
    reader = Chunked()

    reader.feed(b"5\r\nhel")
    assert not reader.at_boundary
    reader.feed(b"lo\r\n")
    assert reader.at_boundary
