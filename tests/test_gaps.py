"""Gaps are counted by inclusive bounds, and outlive the configuration that named their pair."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.gaps import GAP_EDGES, GapCounts, GapTable, bucket_of


@pytest.mark.parametrize(
    ("gap", "bucket"),
    [(0.0, 0), (0.001, 0), (0.0011, 1), (0.1, 5), (10.0, 11), (10.1, 12), (3600.0, 12)],
)
def test_a_gap_falls_into_the_first_bucket_that_holds_it(gap: float, bucket: int) -> None:
    counts = GapCounts()

    counts.add(gap)

    assert counts.counts[bucket] == 1
    assert sum(counts.counts) == 1
    assert counts.total == gap


def test_there_is_one_more_bucket_than_edges() -> None:
    assert len(GapCounts().counts) == len(GAP_EDGES) + 1


def test_a_pair_keeps_its_counts_over_a_reload() -> None:
    table = GapTable()
    before = table.of("m", "u")

    table.keep({("m", "u")})

    assert table.of("m", "u") is before


def test_a_removed_pair_is_forgotten() -> None:
    table = GapTable()
    table.of("m", "u")
    table.of("m", "gone")

    table.keep({("m", "u")})

    assert [pair for pair, _ in table.items()] == [("m", "u")]


@given(st.one_of(st.floats(0, 20), st.sampled_from(GAP_EDGES), st.floats(0, 0.03)))
def test_a_look_into_the_table_finds_the_bucket_that_a_search_finds(gap: float) -> None:
    assert bucket_of(gap) == bisect_left(GAP_EDGES, gap)
