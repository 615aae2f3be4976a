"""Taking the usage out of an event: that member goes, and no other byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.sse import data_of, strip_usage

PLAIN = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"Hi"}}]'


@pytest.mark.parametrize(
    ("event", "stripped"),
    [
        (PLAIN + b',"usage":null}\n\n', PLAIN + b"}\n\n"),
        (PLAIN + b', "usage" : null }\n\n', PLAIN + b"}\n\n"),
        (PLAIN + b',"usage":null,"obfuscation":"ab"}\n\n', PLAIN + b',"obfuscation":"ab"}\n\n'),
        (PLAIN + b',"usage":null}\r\n\r\n', PLAIN + b"}\r\n\r\n"),
        (b'data:{"usage":null, "a":1}\n\n', b'data:{"a":1}\n\n'),
        (b'data: {"usage":null}\n\n', b"data: {}\n\n"),
        (b'data: {"a":1,"usage":null,"usage":null}\n\n', b'data: {"a":1}\n\n'),
        (b': c\ndata: {"a":1,"usage":null}\nid: 1\n\n', b': c\ndata: {"a":1}\nid: 1\n\n'),
        (b'data: {"a":1,\ndata: "usage"\ndata: :null}\n\n', b'data: {"a":1\ndata: \ndata: }\n\n'),
    ],
)
def test_a_null_usage_goes_and_nothing_else(event: bytes, stripped: bytes) -> None:
    assert strip_usage(event, null=True) == stripped


@pytest.mark.parametrize(
    "event",
    [
        PLAIN + b"}\n\n",
        PLAIN + b',"usage":{"prompt_tokens":1}}\n\n',
        PLAIN + b',"x":{"a":1,"usage":null}}\n\n',
        PLAIN + b',"x":{"a":1,"usage":null},"y":2}\n\n',
        b'data: {"x":[{"a":1,"usage":null}],"us\\u0061ge":null}\n\n',
        b'data: {"choices":[{"delta":{"content":"{\\"a\\":1,\\"usage\\":null}"}}]}\n\n',
        b'data: {"a":"b,"usage":null}\n\n',
        b'data: {"a":1,"usage":null\n\n',
        b'data: {"a":\xff,"usage":null}\n\n',
        b': {"a":1,"usage":null}\n\n',
        b'data: {"a":1}\n: ,"usage":null}\n\n',
        b"data: [DONE] usage\n\n",
        b'data: {"usage":null,"x":' + b"[" * 100_000 + b"\n\n",
    ],
)
def test_an_event_without_one_is_the_same_object(event: bytes) -> None:
    assert strip_usage(event, null=True) is event


def test_a_usage_object_goes_and_a_null_one_stays() -> None:
    event = PLAIN + b',"usage":{"prompt_tokens":1,"completion_tokens":2} , "z":[1]}\n\n'
    null = PLAIN + b',"usage":null}\n\n'

    assert strip_usage(event, null=False) == PLAIN + b',"z":[1]}\n\n'
    assert strip_usage(null, null=False) is null


def as_pairs(event: bytes) -> list[tuple[str, Any]]:
    """The members of the event's JSON, every one of them, in order."""
    data = data_of(event)
    assert data is not None
    pairs: list[tuple[str, Any]] = json.loads(data, object_pairs_hook=list)
    return pairs


KEYS = st.sampled_from(["usage", "a", 'x"', "us\\age", "choices"])
TREES = st.recursive(
    st.none() | st.integers() | st.sampled_from(["", '"usage":null', ',"usage":null}', "\\", "中"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(st.tuples(KEYS, TREES), max_size=5),
    st.sampled_from([",", ", ", " ,\t"]),
    st.sampled_from([":", ": ", " :"]),
    st.booleans(),
)
def test_stripping_is_what_a_parser_would_have_done(
    pairs: list[tuple[str, object]], comma: str, colon: str, ascii_only: bool
) -> None:
    text = [json.dumps(key) + colon + json.dumps(v, ensure_ascii=ascii_only) for key, v in pairs]
    event = ("data: {" + comma.join(text) + "}\n\n").encode()
    last = dict(pairs).get("usage", ...)

    for null, there in ((True, last is None), (False, isinstance(last, dict))):
        stripped = strip_usage(event, null)

        if there:
            assert as_pairs(stripped) == [pair for pair in as_pairs(event) if pair[0] != "usage"]
        else:
            assert stripped is event
