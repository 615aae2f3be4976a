"""Where members stand: against the standard library's reading, on JSON that was made to confuse."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.jsonscan import MOST_MEMBERS, TooManyMembers, cuts, members

BLANKS = st.text(" \t\n\r", max_size=2)
STRINGS = st.text(st.sampled_from('ab"\\{}[]:,\n中'), max_size=5)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | STRINGS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(STRINGS | st.just("k"), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def objects(draw: st.DrawFn) -> tuple[bytes, list[tuple[str, str]]]:
    """An object's bytes, blanks anywhere, and its members as spelled: duplicates are welcome."""
    pairs: list[tuple[str, str]] = []
    text = draw(BLANKS) + "{" + draw(BLANKS)
    for number in range(draw(st.integers(0, 5))):
        key = json.dumps(draw(STRINGS | st.just("k")), ensure_ascii=draw(st.booleans()))
        value = json.dumps(draw(VALUES), ensure_ascii=draw(st.booleans()))
        pairs.append((key[1:-1], value))
        parts = (key, draw(BLANKS), ":", draw(BLANKS), value, draw(BLANKS))
        text += ("," + draw(BLANKS) if number else "") + "".join(parts)
    return (text + "}" + draw(BLANKS)).encode(), pairs


@given(objects())
def test_every_member_is_found_where_it_stands(made: tuple[bytes, list[tuple[str, str]]]) -> None:
    data, pairs = made

    found = members(data)

    assert [(m.key.decode(), data[m.value : m.end].strip().decode()) for m in found] == pairs
    assert all(data[m.start : m.start + 1] == b'"' for m in found)
    assert all(data[m.end : m.end + 1] in (b",", b"}") for m in found)


@given(objects())
def test_without_a_key_the_rest_is_as_it_was(made: tuple[bytes, list[tuple[str, str]]]) -> None:
    data, pairs = made

    rest = bytearray(data)
    for start, end in reversed(cuts(members(data), b"k")):
        del rest[start:end]

    left = json.loads(bytes(rest), object_pairs_hook=list)
    kept = [
        (json.loads(f'"{key}"'), json.loads(value, object_pairs_hook=list))
        for key, value in pairs
        if key != "k"
    ]
    assert left == kept


def test_an_object_may_begin_anywhere_and_be_followed_by_anything() -> None:
    data = b'{"a":{"b":[1,2] , "c":"}"},"d":1}'

    found = members(data, data.index(b"{", 1))

    assert [m.key for m in found] == [b"b", b"c"]


def test_nested_values_of_any_size_are_skipped_by_msgspec() -> None:
    data = b'{"a":' + b"[[],{}," * 300 + b"1" + b"]" * 300 + b',"b":2}'

    found = members(data)

    assert [m.key for m in found] == [b"a", b"b"]


def test_strings_with_a_million_escapes_are_skipped() -> None:
    data = b'{"a":"' + b'\\"' * 1_000_000 + b'","b":2}'

    found = members(data)

    assert [m.key for m in found] == [b"a", b"b"]


def test_more_members_than_honest_are_not_listed() -> None:
    data = b"{" + b'"a":1,' * MOST_MEMBERS + b'"b":2}'

    with pytest.raises(TooManyMembers):
        members(data)
