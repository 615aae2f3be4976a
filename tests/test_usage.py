"""The reading of usage reports: what is believed, what voids a report, and that junk never raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.usage import MOST_TOKENS, Usage, parse_usage, usage_of


def parse(usage: object) -> Usage | None:
    return parse_usage(json.dumps({"id": "x", "choices": [], "usage": usage}).encode())


def test_openais_report_is_read_with_its_details() -> None:
    usage = parse(
        {
            "prompt_tokens": 19,
            "completion_tokens": 10,
            "total_tokens": 29,
            "prompt_tokens_details": {"cached_tokens": 7, "audio_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": 1},
            "cost_usd": 0.5,
        }
    )

    assert usage == Usage(19, 10, cached=7, reasoning=4, audio=3, source="reported")


def test_deepseeks_cache_hits_are_cached_tokens() -> None:
    usage = parse(
        {
            "prompt_tokens": 100,
            "completion_tokens": 5,
            "prompt_cache_hit_tokens": 64,
            "prompt_cache_miss_tokens": 36,
        }
    )

    assert usage == Usage(100, 5, cached=64)


def test_the_names_of_the_responses_api_are_understood() -> None:
    usage = parse(
        {
            "input_tokens": 9,
            "output_tokens": 3,
            "input_tokens_details": {"cached_tokens": 1},
            "output_tokens_details": {"reasoning_tokens": 2},
        }
    )

    assert usage == Usage(9, 3, cached=1, reasoning=2)


def test_a_report_without_an_output_is_one_of_an_operation_that_has_none() -> None:
    usage = parse({"prompt_tokens": 8, "total_tokens": 8})

    assert usage == Usage(8, 0)


def test_null_details_are_no_details() -> None:
    usage = parse({"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": None})

    assert usage == Usage(1, 2)


@pytest.mark.parametrize("count", [-1, 1.0, True, "7", [], 10**30, MOST_TOKENS + 1])
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens", "prompt_cache_hit_tokens"])
def test_what_cannot_be_a_count_voids_the_report(name: str, count: object) -> None:
    usage = parse({"prompt_tokens": 1, "completion_tokens": 1} | {name: count})

    assert usage is None


def test_a_negative_detail_voids_the_report() -> None:
    usage = parse(
        {
            "prompt_tokens": 1,
            "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": -5},
        }
    )

    assert usage is None


def test_a_detail_larger_than_its_total_is_cut_to_it() -> None:
    usage = parse(
        {
            "prompt_tokens": 5,
            "completion_tokens": 2,
            "prompt_cache_hit_tokens": 900,
            "completion_tokens_details": {"reasoning_tokens": 900, "audio_tokens": 900},
        }
    )

    assert usage == Usage(5, 2, cached=5, reasoning=2, audio=7)


@pytest.mark.parametrize("usage", [None, {}, [], 3, "x", {"total_tokens": 3}])
def test_no_usage_object_is_no_report(usage: object) -> None:
    assert parse(usage) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[DONE]",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"usage":"\xff"}',
        b'{"usage":"\\ud800"}',
        b'{"usage":{"prompt_tokens":NaN}}',
        b'{"usage":{"prompt_tokens":%s}}' % (b"9" * 5000),
        b'{"usage":' + b"[" * 100_000,
        b'{"choices":[]}',
    ],
)
def test_junk_has_no_usage_and_raises_nothing(data: bytes) -> None:
    assert parse_usage(data) is None
    assert usage_of(data) is None


def test_a_completion_after_blank_lines_has_its_usage() -> None:
    body = b'\n\n\n{"usage":{"prompt_tokens":3,"completion_tokens":4}}'

    assert parse_usage(body) == Usage(3, 4)


def test_a_usage_object_alone_is_read_too() -> None:
    assert usage_of(b'{"prompt_tokens":3,"completion_tokens":4}') == Usage(3, 4)
    assert usage_of(b"null") is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        "prompt_tokens",
        "completion_tokens",
        "input_tokens",
        "prompt_cache_hit_tokens",
        "prompt_tokens_details",
        "completion_tokens_details",
    ]
)
DETAILS = st.dictionaries(
    st.sampled_from(["cached_tokens", "reasoning_tokens", "audio_tokens"]), JSON | st.integers()
)


@given(st.dictionaries(NAMES, st.integers() | JSON | DETAILS))
def test_whatever_is_reported_a_believed_usage_can_be_billed(usage: dict[str, Any]) -> None:
    found = parse(usage)

    if found is not None:
        assert 0 <= found.cached <= found.input <= MOST_TOKENS
        assert 0 <= found.reasoning <= found.output <= MOST_TOKENS
        assert 0 <= found.audio <= found.input + found.output


@given(st.binary())
def test_no_bytes_at_all_raise(data: bytes) -> None:
    parse_usage(data)
    usage_of(data)
