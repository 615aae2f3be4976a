"""A body whose frame is known is read as one that is seen for the first time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import chatbody
from relay.chatbody import decode
from relay.chatedit import edit
from relay.errors import RelayError

FACTS = (
    *("model", "stream", "include_usage", "has_stream_options", "max_tokens", "n", "user"),
    *("prompt_cache_key", "messages", "message_count", "tool_bytes", "model_at"),
    *("options_given", "max_tokens_given"),
)

TEXT = st.text(max_size=12) | st.sampled_from(['"]', "]}", '"messages":[', "\\", "é", "[]"])
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": TEXT}), max_size=3)
FIELDS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"model": st.sampled_from(["m", 'a"b', "é"])},
    optional={
        "stream": st.booleans(),
        "stream_options": st.sampled_from([None, {}, {"include_usage": True}]),
        "max_tokens": st.sampled_from([None, 7]),
        "n": st.just(2),
        "user": TEXT,
        "stop": st.sampled_from([None, ["a]"], "]"]),
        "temperature": st.floats(0, 2),
        "tools": st.just([{"type": "function"}]),
    },
)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    chatbody._frames.clear()
    yield
    chatbody._frames.clear()


def outcome(body: bytes) -> object:
    """What a body is read as, and what becomes of it."""
    try:
        chat = decode(body)
    except RelayError as error:
        return error.status, error.param, error.message
    edits = [
        edit(body, chat, model=model, usage=usage, max_tokens=limit)
        for model in ("m", "other")
        for usage in (False, True)
        for limit in (None, 99)
    ]
    return [getattr(chat, name) for name in FACTS], edits


@st.composite
def bodies(draw: st.DrawFn) -> list[bytes]:
    """Bodies that differ in their messages only, in one spelling."""
    fields = draw(FIELDS)
    names = draw(st.permutations(["messages", *fields]))
    ascii, separators = draw(st.booleans()), draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    found = []
    for _ in range(3):
        whole = {name: fields.get(name) for name in names} | {"messages": draw(MESSAGES)}
        found.append(json.dumps(whole, ensure_ascii=ascii, separators=separators).encode())
    return found


@given(bodies())
def test_a_known_frame_makes_no_difference(bodies: list[bytes]) -> None:
    fresh = []
    for body in bodies:
        chatbody._frames.clear()
        fresh.append(outcome(body))

    chatbody._frames.clear()
    known = [outcome(body) for body in bodies]

    assert known == fresh


@pytest.mark.parametrize(
    "messages",
    [
        b"[1]",
        b'[{"role":"user"]',
        b'[{"role":"user"}]]',
        b'[{"role":"user"}],"model":"x","x":[1]',
        b'[{"content":"\xff"}]',
        b'[{"content":"a"}] ',
        b"[" * 100_000 + b"]" * 100_000,
        b'[{"a":1},]',
        b"[] []",
        b"null",
    ],
)
def test_what_stands_in_a_known_frame_is_judged_all_the_same(messages: bytes) -> None:
    before, after = b'{"messages":', b',"model":"m","stream":true}'
    fresh = outcome(before + messages + after)

    decode(before + b"[]" + after)

    assert chatbody._frames
    assert outcome(before + messages + after) == fresh


def test_a_frame_is_met_again() -> None:
    decode(b'{"model":"m","messages":[{"role":"user"}],"user":"u"}')

    again = decode(b'{"model":"m","messages":[],"user":"u"}')

    assert again.frame is not None
    assert again.user == "u"
    assert len(chatbody._frames) == 1


def test_frames_are_bounded() -> None:
    for number in range(chatbody.FRAMES_KEPT + 10):
        decode(b'{"model":"m","messages":[],"user":"%d"}' % number)

    assert len(chatbody._frames) <= chatbody.FRAMES_KEPT


def test_what_is_long_around_the_messages_is_not_kept() -> None:
    decode(b'{"model":"m","messages":[],"user":"%s"}' % (b"u" * chatbody.MAX_FRAME))

    assert not chatbody._frames
