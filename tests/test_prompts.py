"""What of a call becomes its prompt: the upper bound of its tokens, and the prefix it shares with others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relay.chatbody import decode
from relay.prompts import MOST_PARTS

MESSAGES = [{"role": "user", "content": "Say hello."}]


def body(**fields: object) -> bytes:
    return json.dumps({"model": "m", "messages": MESSAGES} | fields).encode()


def bound(messages: object, image_tokens: int = 1000, **fields: object) -> int:
    return decode(body(messages=messages, **fields)).prompt_bound(image_tokens)


def raw(value: object) -> int:
    return len(json.dumps(value))


def test_a_prompt_has_at_most_a_token_a_byte_and_eight_a_message() -> None:
    messages = [{"role": "system", "content": "Be brief."}, *MESSAGES]

    assert bound(messages) == raw(messages) + 2 * 8
    assert bound([]) == raw([])


def test_tools_and_schemas_are_part_of_the_prompt() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    schema = {"type": "json_schema", "json_schema": {"schema": {}}}

    found = bound(MESSAGES, tools=tools, response_format=schema)

    assert found == raw(MESSAGES) + 8 + raw(tools) + raw(schema)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5000}},
        {"type": "input_audio", "input_audio": {"data": "A" * 5000, "format": "wav"}},
        {"type": "file", "file": {"file_data": "A" * 5000}},
        {"type": "video_url", "video_url": {"url": "https://example.com/v.mp4"}},
    ],
)
def test_media_cost_their_configured_tokens_instead_of_their_bytes(part: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, part, part]}]
    media = part[part["type"]]

    assert bound(messages, 1000) == raw(messages) + 8 - 2 * raw(media) + 2 * 1000


def test_text_beside_media_is_not_free() -> None:
    part = {"type": "image_url", "image_url": {"url": "x"}, "text": "long " * 1000}
    messages = [{"role": "user", "content": [part]}]

    assert bound(messages, 10) == raw(messages) + 8 - raw(part["image_url"]) + 10


def test_a_kind_of_media_spelled_with_escapes_costs_the_same() -> None:
    data = (
        b'{"model":"m","messages":[{"content":[{"type":"im\\u0061ge_url","im\\u0061ge_url":'
        b'{"url":"x"}}]}]}'
    )

    assert decode(data).prompt_bound(100_000) > 100_000


@pytest.mark.parametrize(
    "content", [None, 7, "image_url", [], ["image_url"], [None], {"image_url": 1}]
)
def test_odd_content_is_counted_as_text(content: object) -> None:
    messages = [{"role": "user", "content": content}]

    assert bound(messages) == raw(messages) + 8


@pytest.mark.parametrize(
    "messages",
    [
        [{"content": [{}] * MOST_PARTS + [{"image_url": "x"}]}],
        [{"content": [{"image_url": "x"}]}] * MOST_PARTS,
    ],
)
def test_more_parts_than_honest_are_bounded_without_a_look(messages: list[Any]) -> None:
    media = sum("image_url" in part for message in messages for part in message["content"])

    assert bound(messages, 1000) > raw(messages) + media * 1000


def test_a_null_medium_is_none() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "x", "image_url": None}]}]

    assert bound(messages) == raw(messages) + 8


def test_the_prefix_is_the_cache_key_if_there_is_one() -> None:
    assert decode(body(prompt_cache_key="tenant-7")).prefix() == b"tenant-7"


def test_the_prefix_ends_with_the_first_user_message() -> None:
    system = {"role": "system", "content": "Be brief."}
    more = [{"role": "assistant", "content": "Hi."}, {"role": "user", "content": "More."}]

    first = decode(body(messages=[system, *MESSAGES])).prefix()

    assert decode(body(messages=[system, *MESSAGES, *more])).prefix() == first
    assert decode(body(messages=[system, *more])).prefix() != first
    assert decode(body(model="m2", messages=[system, *MESSAGES])).prefix() != first
