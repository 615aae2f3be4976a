"""The body of a chat call: what is read of it, and what is refused."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.chatbody import decode
from relay.chatedit import edit
from relay.errors import BadField, BadJson

MESSAGES = [{"role": "user", "content": "Say hello."}]


def body(**fields: object) -> bytes:
    return json.dumps({"model": "m", "messages": MESSAGES} | fields).encode()


def without(*names: str) -> bytes:
    fields = {"model": "m", "messages": MESSAGES}
    return json.dumps({name: v for name, v in fields.items() if name not in names}).encode()


# -- what is read --


def test_a_minimal_call_is_plain_and_has_the_defaults() -> None:
    chat = decode(body())

    assert chat.model == "m"
    assert not chat.stream
    assert chat.include_usage is None
    assert not chat.has_stream_options
    assert chat.max_tokens is None
    assert chat.n == 1
    assert chat.user is None
    assert chat.prompt_cache_key is None


def test_every_field_is_read() -> None:
    chat = decode(
        body(
            stream=True,
            stream_options={"include_usage": False},
            max_tokens=10,
            max_completion_tokens=20,
            n=3,
            user="u",
            prompt_cache_key="k",
        )
    )

    assert chat.stream
    assert chat.include_usage is False
    assert chat.has_stream_options
    assert chat.max_tokens == 20
    assert chat.n == 3
    assert chat.user == "u"
    assert chat.prompt_cache_key == "k"


def test_null_counts_as_absent() -> None:
    names = ("stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "user")

    chat = decode(body(**dict.fromkeys(names), prompt_cache_key=None))

    assert not chat.stream
    assert not chat.has_stream_options
    assert (chat.max_tokens, chat.n, chat.user) == (None, 1, None)


def test_what_we_do_not_act_on_passes_whatever_it_is() -> None:
    fields = {"temperature": "hot", "seed": 10**400, "tools": 7, "logit_bias": [[]], "x": None}

    assert decode(body(**fields)).model == "m"


def test_huge_numbers_in_fields_we_do_not_act_on_pass() -> None:
    huge = b'{"seed":%s,"top_p":1e999999,"model":"m","messages":[{"n":%s}]}' % (
        b"9" * 5000,
        b"9" * 5000,
    )

    assert decode(huge).model == "m"


def test_a_model_may_be_spelled_with_escapes() -> None:
    assert decode(b'{"mod\\u0065l":"gpt\\u002d4","messages":[]}').model == "gpt-4"


# -- what is refused --


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"   ",
        b"{",
        b'{"model":"m","messages":[]',
        b'{"model":"m","messages":[]}}',
        b'{"model":"m","messages":[]} x',
        b'{"model":"m","messages":[]}\0',
        b'{"model":"m","messages":[],}',
        b"{'model':'m','messages':[]}",
        b'{"model":"m","messages":[],"x":01}',
        b'{"model":"m","messages":[],"x":NaN}',
        b'{"model":"m","messages":[],"x":-Infinity}',
        b'{"model":"m","messages":[NaN]}',
        b'{"model":"m","messages":[],"x":"\x01"}',
        b'{"model":"m","messages":[],"x":"\\x"}',
        b'{"model":"m","messages":[],"x":"\xff"}',
        b'{"model":"m","messages":[{"content":"\xc0\x80"}]}',
        b'{"model":"m","messages":[{"content":"\xed\xa0\x80"}]}',
        b'{"model":"m","messages":[],"\xff":1}',
        b'{"model":"\xff","messages":[]}',
        b'{"model":"m","messages":[],"x":"\\ud800"}',
        b'{"model":"m","messages":[{"content":"\\ud83d text"}]}',
        b'{"model":"m","messages":[{"content":"\\udc00"}]}',
        b'{"model":"\\ud800","messages":[]}',
        b"\xef\xbb\xbf" + body(),
        body().decode().encode("utf-16"),
        body().decode().encode("utf-16-le"),
        body().decode().encode("utf-32"),
        b'{"model":"m","messages":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model":"m","messages":' + b'{"a":' * 100_000,
        b"null",
        b"[]",
        b'"model"',
        b"12",
        b'[{"model":"m","messages":[]}]',
    ],
)
def test_what_is_no_json_object_is_bad_json(data: bytes) -> None:
    with pytest.raises(BadJson) as caught:
        decode(data)

    assert caught.value.status == 400
    assert caught.value.param is None


@pytest.mark.parametrize(
    ("data", "param"),
    [
        (without("model"), "model"),
        (body(model=None), "model"),
        (body(model=""), "model"),
        (body(model=7), "model"),
        (body(model=["m"]), "model"),
        (without("messages"), "messages"),
        (body(messages=None), "messages"),
        (body(messages="hi"), "messages"),
        (body(messages={}), "messages"),
        (body(messages=["hi"]), "messages"),
        (body(messages=[*MESSAGES, None]), "messages"),
        (body(messages=[[]]), "messages"),
        (body(stream="true"), "stream"),
        (body(stream=1), "stream"),
        (body(stream={}), "stream"),
        (body(stream=True, stream_options=True), "stream_options"),
        (body(stream=True, stream_options=[]), "stream_options"),
        (body(stream_options={}), "stream_options"),
        (body(stream=False, stream_options={"include_usage": True}), "stream_options"),
        (
            body(stream=True, stream_options={"include_usage": 1}),
            "stream_options.include_usage",
        ),
        (body(user=7), "user"),
        (body(prompt_cache_key=[]), "prompt_cache_key"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(data: bytes, param: str) -> None:
    with pytest.raises(BadField) as caught:
        decode(data)

    assert caught.value.status == 400
    assert caught.value.param == param
    assert param in caught.value.message


def test_a_stream_that_is_no_boolean_is_told_so() -> None:
    with pytest.raises(BadField, match=r"^stream must be a boolean$"):
        decode(body(stream="false"))


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n"])
@pytest.mark.parametrize(
    "value", ["0", "-1", "-0", "1.0", "1e2", "1.5", "true", '"5"', "[]", str(2**63), "9" * 5000]
)
def test_a_count_is_an_integer_of_at_least_one(name: str, value: str) -> None:
    data = body().decode()[:-1] + f', "{name}": {value}}}'

    with pytest.raises(BadField) as caught:
        decode(data.encode())

    assert caught.value.param == name


def test_choices_and_tokens_have_their_ranges() -> None:
    assert decode(body(n=128)).n == 128
    assert decode(body(max_tokens=10**9)).max_tokens == 10**9
    with pytest.raises(BadField):
        decode(body(n=129))


@pytest.mark.parametrize("name", ["model", "user", "stream", "max_tokens", "messages"])
def test_errors_never_quote_the_client(name: str) -> None:
    secret = "canary-4711"
    data = body(**{name: {"secret": secret}})

    with pytest.raises(BadField) as caught:
        decode(data)

    assert secret not in caught.value.message
    assert secret not in caught.value.body().decode()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_too_many_members_are_refused_where_they_would_cost_time() -> None:
    many = b'{"stop":"\\n",' + b'"a":[],' * 200_000 + body()[1:]

    with pytest.raises(BadJson):
        decode(many)


def test_nesting_that_the_stack_of_the_decoding_held_is_no_crash_deeper_in_the_stack() -> None:
    deep = b"[" * 800 + b"]" * 800
    chat = decode(b'{"model":"m","messages":[{"content":%s}]}' % deep)

    def dig(levels: int) -> int:
        return chat.prompt_bound(1) if levels == 0 else dig(levels - 1)

    # Since Python 3.12 the decoder does not share the stack of the code that calls it, and reads it all the same.
    with contextlib.suppress(BadJson):
        assert dig(sys.getrecursionlimit() - 500) > 0


@pytest.mark.parametrize("spelling", ["messages", "stream_options", "x"])
def test_no_depth_of_nesting_is_a_crash(spelling: str) -> None:
    limit = sys.getrecursionlimit()

    for depth in range(limit - 200, limit + 20):
        deep = "[" * depth + "]" * depth
        value = f'[{{"a":{deep}}}]' if spelling == "messages" else f'{{"a":{deep}}}'
        head = "" if spelling == "messages" else '"messages":[],'
        data = f'{{"model":"m","stream":true,{head}"{spelling}":{value}}}'.encode()
        with contextlib.suppress(BadJson):
            decode(data)


# -- nothing twice --


@pytest.mark.parametrize(
    ("member", "param"),
    [
        ('"model":"b"', "model"),
        ('"mod\\u0065l":"b"', "model"),
        ('"\\u006dodel":"m"', "model"),
        ('"messages":[{"role":"user","content":"Say hello."}]', "messages"),
        ('"stream":true', "stream"),
        ('"stream":null', "stream"),
        ('"s\\u0074ream":null', "stream"),
        ('"max_tokens":1', "max_tokens"),
        ('"max_\\u0074okens":null', "max_tokens"),
        ('"n" : 1', "n"),
        ('"user":"u"', "user"),
        ('"prompt_cache_key":"u"', "prompt_cache_key"),
        ('"max_completion_tokens":1', "max_completion_tokens"),
        ('"stream_options":null', "stream_options"),
        ('"tools":[]', "tools"),
        ('"functions":[]', "functions"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_field_given_twice_is_refused_however_it_is_spelled(
    member: str, param: str, first: bool
) -> None:
    whole = {
        "model": "m",
        "messages": MESSAGES,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
        "max_completion_tokens": 5,
        "n": 1,
        "user": "u",
        "prompt_cache_key": "k",
        "tools": [],
        "functions": [],
    }
    text = json.dumps(whole, separators=(",", ":"))
    data = "{" + member + "," + text[1:] if first else text[:-1] + "," + member + "}"

    with pytest.raises(BadField) as caught:
        decode(data.encode())

    assert caught.value.param == param


def test_a_null_after_a_value_is_a_second_one() -> None:
    data = b'{"model":"m","messages":[],"stream":true,"stream":null}'

    with pytest.raises(BadField) as caught:
        decode(data)

    assert caught.value.param == "stream"


@pytest.mark.parametrize(
    "options",
    [
        b'{"include_usage":true,"include_usage":false}',
        b'{"include_usage":true,"include_us\\u0061ge":false}',
    ],
)
def test_include_usage_given_twice_is_refused_too(options: bytes) -> None:
    data = b'{"model":"m","messages":[],"stream":true,"stream_options":%s}' % options

    with pytest.raises(BadField) as caught:
        decode(data)

    assert caught.value.param == "stream_options.include_usage"


@pytest.mark.parametrize(
    "extra",
    [
        {"metadata": {"model": "x", "messages": MESSAGES, "stream": 1, "n": "n"}},
        {"tools": [{"function": {"parameters": {"model": 1, "max_tokens": 2}}}]},
        {"response_format": {"json_schema": {"properties": {"user": {}, "model": {}}}}},
        {"user": "user", "prompt_cache_key": "model", "stop": ["model", "\n"]},
        {"messages": [{"role": "user", "content": 'a "model" \\ ', "model": 1, "n": [{"n": 1}]}]},
        {"a": {"messages": MESSAGES}, "tools": [], "b": {"tools": []}},
    ],
)
def test_nested_members_of_the_same_names_are_nobodys_business(extra: dict[str, Any]) -> None:
    data = body(**extra)

    chat = decode(data)

    changed = edit(data, chat, model="other", usage=0)
    assert json.loads(changed) == json.loads(data) | {"model": "other"}


def test_duplicates_of_fields_we_do_not_act_on_pass() -> None:
    data = b'{"x":[1],"x":{"y":2},"x":"\\n","model":"m","messages":[]}'

    assert edit(data, decode(data), model="m", usage=0) is data


@given(st.binary())
def test_any_bytes_are_a_call_or_a_400(data: bytes) -> None:
    for candidate in (data, b'{"model":"m","messages":[],"x":' + data + b"}"):
        try:
            chat = decode(candidate)
        except (BadJson, BadField):
            continue
        assert chat.model
        json.loads(candidate)
