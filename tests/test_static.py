"""A configured text is an answer like any other, streamed and plain."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.sse import EventSplitter, Kind, classify
from tests.plane import Plane, play
from tests.wires import Reply, asked

TEXT = '系统繁忙，请稍后再试. Sorry: "usage" and [DONE] are only words \U0001f469‍\U0001f4bb.\n\n'
STATIC = {"m": {"static": TEXT}}
USAGE = {"stream_options": {"include_usage": True}}


def chunks(reply: Reply) -> list[dict[str, Any]]:
    """The streamed objects; the end must be `[DONE]`."""
    splitter = EventSplitter()
    events = [classify(event) for event in splitter.feed(reply.body)]
    assert not splitter.pending
    assert [event.kind == Kind.DONE for event in events].index(True) == len(events) - 1
    return [json.loads(event.data or b"") for event in events[:-1]]


def test_a_streamed_one_is_a_role_the_words_and_the_end() -> None:
    async def scene() -> None:
        async with Plane(models=STATIC) as plane:
            caller = plane.caller()
            caller.ask()

            reply = caller.answers.only
            found = chunks(reply)
            choices = [chunk["choices"][0] for chunk in found]
            assert reply.status == 200
            assert reply.headers["x-relay-fallback"] == "static"
            assert choices[0]["delta"] == {"role": "assistant", "content": ""}
            assert "".join(choice["delta"].get("content", "") for choice in choices) == TEXT
            assert [choice["finish_reason"] for choice in choices[-2:]] == [None, "stop"]
            assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in found}) == 1
            assert {chunk["object"] for chunk in found} == {"chat.completion.chunk"}
            record = plane.records[0]
            assert (record.outcome, record.upstream, record.code) == ("degraded", "static", 200)
            assert record.events == len(found) + 1
            assert record.attempts == ()
            caller.leave()

    play(scene())


def test_usage_is_told_to_those_who_ask() -> None:
    async def scene() -> None:
        async with Plane(models=STATIC) as plane:
            caller = plane.caller()
            caller.ask(**USAGE)

            last = chunks(caller.answers.only)[-1]
            assert last["choices"] == []
            assert last["usage"]["total_tokens"] == 0
            caller.leave()

    play(scene())


def test_a_plain_one_is_a_completion() -> None:
    async def scene() -> None:
        async with Plane(models=STATIC) as plane:
            caller = plane.caller()
            caller.ask(stream=False)

            reply = caller.answers.only
            answer = reply.json()
            assert reply.headers["content-type"] == "application/json"
            assert answer["object"] == "chat.completion"
            assert answer["choices"][0]["message"]["content"] == TEXT
            assert answer["choices"][0]["finish_reason"] == "stop"
            assert answer["usage"]["total_tokens"] == 0
            assert plane.records[0].cost == 0
            caller.leave()

    play(scene())


@pytest.mark.parametrize("stream", [True, False])
def test_an_http_1_0_client_gets_all_of_it_and_the_close(stream: bool) -> None:
    async def scene() -> None:
        async with Plane(models=STATIC) as plane:
            caller = plane.caller()
            caller.say(asked({"stream": stream}, version="1.0"))

            reply = caller.answers.only
            if stream:
                deltas = [chunk["choices"][0]["delta"] for chunk in chunks(reply)]
                assert "".join(delta.get("content", "") for delta in deltas) == TEXT
            else:
                assert reply.json()["choices"][0]["message"]["content"] == TEXT
            assert "transfer-encoding" not in reply.headers
            assert caller.wire.closed

    play(scene())


def test_while_draining_the_close_is_announced() -> None:
    async def scene() -> None:
        async with Plane(models=STATIC) as plane:
            for stream in (True, False):
                caller = plane.caller()
                plane.proxy.draining = True
                caller.ask(stream=stream)

                assert caller.answers.only.whole
                assert caller.answers.only.headers["connection"] == "close"
                assert caller.wire.closed

    play(scene())


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80).filter(str.strip))
def test_any_text_arrives_as_it_was_written(text: str) -> None:
    async def scene() -> None:
        async with Plane() as plane:
            plane.snapshot.routes["m"].static = text
            caller = plane.caller()
            caller.ask()

            deltas = [chunk["choices"][0]["delta"] for chunk in chunks(caller.answers.only)]
            assert "".join(delta.get("content", "") for delta in deltas) == text
            caller.leave()

    play(scene())
