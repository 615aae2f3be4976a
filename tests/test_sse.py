"""Events as bytes: cutting and classifying, against slow and simple references."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.sse import (
    MAX_EVENT,
    Event,
    EventSplitter,
    EventTooLong,
    Kind,
    classify,
    data_of,
)
from relay.usage import Usage

# -- cutting a stream into events --

PIECES = [
    b"data: a",
    b"data:b",
    b"data",
    b"data:  c",
    b": comment",
    b"event: x",
    b"dat",
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"\r\n\r\n",
    b"\xef\xbb\xbf",
    "中".encode(),
]
STREAMS = st.lists(st.sampled_from(PIECES), max_size=14).map(b"".join)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def split(*parts: bytes) -> tuple[list[bytes], int]:
    splitter = EventSplitter()
    events = [event for part in parts for event in splitter.feed(part)]
    return events, splitter.pending


def dispatched(stream: bytes) -> list[bytes]:
    """The data a browser would dispatch: the standard's algorithm, line by line."""
    found: list[bytes] = []
    lines: list[bytes] = []
    for line in re.split(rb"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf"))[:-1]:
        name, _, value = line.partition(b":")
        if not line:
            if lines:
                found.append(b"\n".join(lines))
            lines = []
        elif name == b"data":
            lines.append(value.removeprefix(b" "))
    return found


@given(STREAMS, st.lists(st.integers(0, 60), max_size=6))
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", [9, 10])
@example(b"data: a\r\r\ndata: b\r\r", [9])
@example(b"\xef\xbb\xbfdata: a\n\n", [1, 2])
def test_the_cutting_of_the_input_makes_no_difference(stream: bytes, cuts: list[int]) -> None:
    whole, held = split(stream)

    events, pending = split(*pieces(stream, cuts))

    assert events == whole
    assert pending == held


@given(STREAMS)
def test_no_byte_is_lost_or_added_but_for_the_first_bom(stream: bytes) -> None:
    events, pending = split(*pieces(stream, list(range(len(stream)))))

    kept = b"".join(events)
    rest = stream.removeprefix(b"\xef\xbb\xbf")
    if stream == b"\xef\xbb\xbf"[: len(stream)]:  # half a BOM, or nothing behind one
        return
    assert rest.startswith(kept)
    assert len(rest) - len(kept) == pending


@given(STREAMS)
def test_events_are_those_of_the_standard(stream: bytes) -> None:
    events, _ = split(stream + b"\n\n")

    found = [data for event in events if (data := data_of(event)) is not None]
    assert found == dispatched(stream + b"\n\n")


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\n"])
def test_an_event_is_whole_with_the_last_byte_of_its_blank_line(end: bytes) -> None:
    splitter = EventSplitter()

    assert splitter.feed(b"data: a" + end[:-1]) == []
    assert splitter.feed(end[-1:]) == [b"data: a" + end]
    assert splitter.pending == 0


def test_whole_events_are_given_on_as_the_same_object() -> None:
    event = b"data: {}\n\n"

    assert EventSplitter().feed(event)[0] is event


def test_blank_lines_belong_to_the_event_after_them() -> None:
    events, pending = split(b"data: a\n\n\n\ndata: b\n\n\n")

    assert events == [b"data: a\n\n", b"\n\ndata: b\n\n"]
    assert pending == 1


def test_a_megabyte_in_single_bytes_is_no_more_than_a_megabyte_of_work() -> None:
    event = b"data: " + b"x" * 1_000_000 + b"\r\n\r\n"
    splitter = EventSplitter()

    events = [whole for at in range(len(event)) for whole in splitter.feed(event[at : at + 1])]

    assert events == [event]


def test_many_events_in_one_piece_are_cut_in_one_go() -> None:
    stream = b"data: x\n\n" * 200_000

    events, pending = split(stream[:-1])

    assert len(events) == 199_999
    assert pending == 8


def test_an_event_of_exactly_the_limit_passes() -> None:
    event = b"data: " + b"x" * (MAX_EVENT - 8) + b"\n\n"

    assert split(event) == ([event], 0)


@pytest.mark.parametrize("size", [MAX_EVENT + 1, 1 << 20])
def test_a_longer_one_is_refused_and_the_whole_ones_before_it_are_handed_over(size: int) -> None:
    stream = b"data: a\n\ndata: " + b"x" * MAX_EVENT + b"\n\n"
    splitter = EventSplitter()
    events: list[bytes] = []

    with pytest.raises(EventTooLong) as caught:  # noqa: PT012  the feeding is what raises
        for at in range(0, len(stream), size):
            events += splitter.feed(stream[at : at + size])

    assert events + caught.value.events == [b"data: a\n\n"]


# -- data --


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: a\n\n", b"a"),
        (b"data:a\n\n", b"a"),
        (b"data:  a\n\n", b" a"),
        (b"data: a\r\n\r\n", b"a"),
        (b"data: a\r\r", b"a"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data: a\rdata: b\r\r", b"a\nb"),
        (b": c\ndata: a\nevent: e\nid: 1\n\n", b"a"),
        (b"data\n\n", b""),
        (b"data:\n\n", b""),
        (b"\n\ndata: a\n\n", b"a"),
        (b": c\n\n", None),
        (b"event: data\n\n", None),
        (b"datax: a\n\n", None),
        (b"\n\n", None),
    ],
)
def test_data_is_what_a_parser_of_the_standard_would_see(event: bytes, data: bytes | None) -> None:
    assert data_of(event) == data


# -- what an event says --


def chunk(*choices: object, **members: object) -> bytes:
    body = {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": list(choices)}
    return b"data: " + json.dumps(body | members).encode() + b"\n\n"


def delta(finish: object = None, **members: object) -> dict[str, object]:
    return {"index": 0, "delta": members, "finish_reason": finish}


REPORT = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (b": keep-alive\n\n", Kind.COMMENT),
        (b"event: ping\n\n", Kind.COMMENT),
        (b"data:\n\n", Kind.COMMENT),
        (b"\n\n", Kind.COMMENT),
        (chunk(delta(role="assistant", content="")), Kind.EMPTY),
        (chunk(delta(role="assistant", content=None, reasoning_content=None)), Kind.EMPTY),
        (chunk(delta(tool_calls=[])), Kind.EMPTY),
        (chunk(delta(), delta()), Kind.EMPTY),
        (chunk(), Kind.EMPTY),
        (chunk(prompt_filter_results=[{"prompt_index": 0}]), Kind.EMPTY),
        (chunk({"index": 0, "delta": None, "finish_reason": None}), Kind.EMPTY),
        (b'data: {"choices":null}\n\n', Kind.EMPTY),
        (b'data: {"object":"ping"}\n\n', Kind.EMPTY),
        (b'data: {"error":null}\n\n', Kind.EMPTY),
        (b'data: "hello"\n\n', Kind.EMPTY),
        (b"data: []\n\n", Kind.EMPTY),
        (b'data: {"choices":"none"}\n\n', Kind.EMPTY),
        (chunk(delta(content="Hi")), Kind.CONTENT),
        (chunk(delta(content=[{"type": "text"}])), Kind.CONTENT),
        (chunk(delta(reasoning_content="hm")), Kind.CONTENT),
        (chunk(delta(reasoning="hm")), Kind.CONTENT),
        (chunk(delta(refusal="no")), Kind.CONTENT),
        (chunk(delta(tool_calls=[{"index": 0}])), Kind.CONTENT),
        (chunk(delta(function_call={"name": "f"})), Kind.CONTENT),
        (chunk(delta(audio={"data": "x"})), Kind.CONTENT),
        (chunk({"index": 0, "text": "Hi", "finish_reason": None}), Kind.CONTENT),
        (chunk(delta(), delta(content="second")), Kind.CONTENT),
        (chunk(delta(content="Hi") | {"index": None}), Kind.CONTENT),
        (chunk(delta(content="Hi"), usage=REPORT), Kind.CONTENT),
        (chunk(delta(content="Hi"), usage=None), Kind.CONTENT),
        (chunk(delta("stop")), Kind.FINAL),
        (chunk(delta("abort", content="x")), Kind.FINAL),
        (chunk(delta("stop"), usage=REPORT), Kind.FINAL),
        (chunk(delta(content="x"), delta("length")), Kind.FINAL),
        (chunk(usage=REPORT), Kind.USAGE),
        (chunk(usage={"odd": 1}), Kind.USAGE),
        (b'data: {"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n', Kind.USAGE),
        (b'data: {"error":{"message":"x"}}\n\n', Kind.ERROR),
        (b'data: {"error":"boom"}\n\n', Kind.ERROR),
        (b'data: {"error":{}}\n\n', Kind.ERROR),
        (b'event: error\ndata: {"error":{"message":"x"}}\n\n', Kind.ERROR),
        (b'data: {"choices":3,"error":{"message":"x"}}\n\n', Kind.ERROR),
        (chunk(delta(content="x"), error={"message": "m"}), Kind.ERROR),
        (b"data: [DONE]\n\n", Kind.DONE),
        (b"data:[DONE]\r\n\r\n", Kind.DONE),
        (b"data: [DONE] \n\n", Kind.DONE),
        (b"data: not json\n\n", Kind.UNPARSED),
        (b'data: {"choices":[{"delta":{"content":"ab\n\n', Kind.UNPARSED),
        (b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n', Kind.UNPARSED),
        (b'data: {"choices":[]} x\n\n', Kind.UNPARSED),
        (b'data: {"choices":3} x\n\n', Kind.UNPARSED),
        (b'data: {"x":NaN}\n\n', Kind.UNPARSED),
        (b'data: {"choices":' + b"[" * 100_000 + b"\n\n", Kind.UNPARSED),
    ],
)
def test_an_event_is_of_one_kind(event: bytes, kind: int) -> None:
    found = classify(event)

    assert found.kind == kind
    assert found.raw is event


def test_the_error_keys_inside_content_are_no_error() -> None:
    event = chunk(delta(content='{"error": {"message": "x"}}'), nested={"error": 1})

    assert classify(event).kind == Kind.CONTENT


def test_the_usage_of_any_chunk_is_read() -> None:
    event = chunk(delta("stop"), usage=REPORT)

    found = classify(event)

    assert found.usage == Usage(3, 4)
    assert not found.null_usage


def test_a_null_usage_is_told_from_none() -> None:
    assert classify(chunk(delta(content="x"), usage=None)).null_usage
    assert not classify(chunk(delta(content="x"))).null_usage


def test_the_first_finish_reason_and_its_choice_are_told() -> None:
    event = chunk(delta(content="x"), delta("length") | {"index": 1}, delta("stop"))

    found = classify(event)

    assert (found.finish, found.finished) == ("length", (1, 0))


def test_an_error_is_told_decoded() -> None:
    found = classify(b'data: {"error":{"message":"m","code":429}}\n\n')

    assert found.error == {"message": "m", "code": 429}


@given(st.binary())
def test_no_bytes_make_classify_raise(data: bytes) -> None:
    found = classify(b"data: " + data + b"\n\n")

    assert isinstance(found, Event)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "delta", "content", "usage", "error", "index", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["choices", "usage", "error", "x"]), JSON))
def test_no_json_makes_classify_raise(body: dict[str, Any]) -> None:
    event = b"data: " + json.dumps(body).encode() + b"\n\n"

    found = classify(event)

    if found.kind != Kind.UNPARSED:
        assert (found.kind == Kind.ERROR) == (body.get("error") is not None)
