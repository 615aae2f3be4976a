"""Compressed bodies: the same text however it is cut, and never a whole one made of a part."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.upstream.encoding import FREE, MAX_RATIO, MAX_STEP, BadCoding, Inflater
from tests.streams import cut

CODED: dict[bytes, Callable[[bytes], bytes]] = {
    b"gzip": lambda body: gzip.compress(body),
    b"x-gzip": lambda body: gzip.compress(body),
    b"deflate": lambda body: zlib.compress(body),
}


@settings(deadline=None)
@given(
    st.binary(max_size=300),
    st.lists(st.integers(0, 300), max_size=8),
    st.sampled_from(sorted(CODED)),
)
def test_any_cutting_decodes_to_the_same(body: bytes, cuts: list[int], coding: bytes) -> None:
    inflater = Inflater(coding)
    wire = CODED[coding](body)

    found = b"".join(map(inflater.feed, cut(wire, [at % len(wire) for at in cuts])))

    assert found == body
    assert inflater.complete


@given(st.binary(min_size=1, max_size=300), st.integers(1, 20), st.sampled_from(sorted(CODED)))
def test_a_body_without_its_end_is_not_complete(body: bytes, short: int, coding: bytes) -> None:
    inflater = Inflater(coding)
    wire = CODED[coding](body)

    inflater.feed(wire[: max(1, len(wire) - short)])

    assert not inflater.complete


def test_what_is_flushed_is_decoded_at_once() -> None:
    inflater = Inflater(b"gzip")
    compress = zlib.compressobj(wbits=31)

    for text in (b"data: 1\n\n", b"data: 2\n\n"):
        assert inflater.feed(compress.compress(text) + compress.flush(zlib.Z_SYNC_FLUSH)) == text

    assert inflater.feed(compress.flush()) == b""
    assert inflater.complete


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"compress", b"gzip, gzip", b"", b"GZIP"])
def test_other_codings_are_refused(coding: bytes) -> None:
    """Names come here in lower case."""
    with pytest.raises(BadCoding):
        Inflater(coding)


@given(st.binary(min_size=1, max_size=60))
def test_junk_is_bad_coding_or_waits_and_nothing_else(junk: bytes) -> None:
    inflater = Inflater(b"gzip")
    try:
        inflater.feed(junk)
    except BadCoding:
        return
    assert not inflater.complete


def test_a_corrupt_body_is_bad_coding() -> None:
    wire = bytearray(gzip.compress(b"hello" * 100))
    wire[-6] ^= 0xFF  # its checksum

    with pytest.raises(BadCoding):
        Inflater(b"gzip").feed(bytes(wire))


def test_a_bomb_is_defused_before_it_fills_the_memory() -> None:
    bomb = gzip.compress(bytes(1 << 27), 9)
    inflater = Inflater(b"gzip")

    def swallow() -> None:
        for piece in cut(bomb, range(65536, len(bomb), 65536)):
            inflater.feed(piece)

    tracemalloc.start()
    with pytest.raises(BadCoding):
        swallow()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most < 1 << 26


def test_what_one_segment_decodes_to_is_whole_or_refused_and_never_cut() -> None:
    """More than a step, and yet not out of proportion."""
    rng = Random(3)
    body = b"".join(rng.randbytes(8) + bytes(900) for _ in range(20_000))
    wire = gzip.compress(body)
    assert len(body) > MAX_STEP
    assert len(body) < FREE + MAX_RATIO * len(wire)

    with pytest.raises(BadCoding):
        Inflater(b"gzip").feed(wire)


def test_an_honest_body_of_mebibytes_is_no_bomb() -> None:
    body = b"".join(b"data: %d\n\n" % number for number in range(400_000))
    inflater = Inflater(b"gzip")
    wire = gzip.compress(body)

    assert b"".join(map(inflater.feed, cut(wire, range(65536, len(wire), 65536)))) == body
