"""Edits of a chat call's body: they change what they should, and no other byte.

The property test builds bodies from members whose places are known, so that the expected bytes of an edit are put
together, not computed by a second scanner.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.chatbody import ChatBody, decode
from relay.chatedit import edit
from relay.errors import BadField

MESSAGES = [{"role": "user", "content": "Say hello."}]


def body(**fields: object) -> bytes:
    return json.dumps({"model": "m", "messages": MESSAGES} | fields).encode()


def edited(data: bytes, **changes: Any) -> bytes:
    return edit(data, decode(data), **({"model": None, "usage": 0} | changes))


def test_no_edit_gives_the_same_object_back() -> None:
    asked = body(stream=True, stream_options={"include_usage": True})

    assert edited(asked) is asked
    assert edited(asked, model="m", usage=1) is asked


def test_only_a_stream_is_asked_for_its_usage() -> None:
    plain = body()

    assert edited(plain, usage=1) is plain


@pytest.mark.parametrize(
    ("data", "changed"),
    [
        (
            b'{"model":"m","messages":[],"stream":true}',
            b'{"stream_options":{"include_usage":true},"model":"m","messages":[],"stream":true}',
        ),
        (
            b' {"model":"m","messages":[],"stream":true,"stream_options":null}',
            b' {"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true}}',
        ),
        (
            b'{"stream_options": { } ,"model":"m","messages":[],"stream":true}',
            b'{"stream_options": {"include_usage":true } ,"model":"m","messages":[],"stream":true}',
        ),
        (
            b'{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage" : false }}',
            b'{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage" : true }}',
        ),
        (
            b'{"stream_options":{"x":[{"include_usage":1}],"include_usage":null},"stream":true,'
            b'"model":"m","messages":[]}',
            b'{"stream_options":{"x":[{"include_usage":1}],"include_usage":true},"stream":true,'
            b'"model":"m","messages":[]}',
        ),
        (
            b'{"model":"m","messages":[],"stream":true,"stream_options":{"include_obfuscation":0}}',
            b'{"model":"m","messages":[],"stream":true,"stream_options":'
            b'{"include_usage":true,"include_obfuscation":0}}',
        ),
    ],
)
def test_a_usage_report_is_asked_for_where_the_client_left_it_out(
    data: bytes, changed: bytes
) -> None:
    assert edited(data, usage=1) == changed


RUNNING = [
    ("", '"stream_options":{"include_usage":true,"continuous_usage_stats":true},', ""),
    (',"stream_options":{}', "", '"include_usage":true,"continuous_usage_stats":true'),
    (
        ',"stream_options":{"include_usage":false}',
        "",
        '"continuous_usage_stats":true,"include_usage":true',
    ),
    (
        ',"stream_options":{"include_usage":true}',
        "",
        '"continuous_usage_stats":true,"include_usage":true',
    ),
    (',"stream_options":{"a":1}', "", '"include_usage":true,"continuous_usage_stats":true,"a":1'),
    (
        ',"stream_options":{"continuous_usage_stats":false}',
        "",
        '"include_usage":true,"continuous_usage_stats":false',
    ),
]
"""What the client says, what stands in front, and its options then."""


@pytest.mark.parametrize(("said", "front", "options"), RUNNING)
def test_running_counts_are_asked_for_unless_the_client_speaks_of_them(
    said: str, front: str, options: str
) -> None:
    data = f'{{"model":"m","messages":[],"stream":true{said}}}'.encode()

    changed = edited(data, usage=2)

    rest = f',"stream_options":{{{options}}}' if options else ""
    assert changed == f'{{{front}"model":"m","messages":[],"stream":true{rest}}}'.encode()


@pytest.mark.parametrize(
    ("data", "changed"),
    [
        (b'{"model":"m","messages":[]}', b'{"max_tokens":9,"model":"m","messages":[]}'),
        (
            b'{"model":"m","messages":[],"max_tokens" : null }',
            b'{"model":"m","messages":[],"max_tokens" : 9 }',
        ),
        (
            b'{"model":"m","messages":[],"max_tokens":1000}',
            b'{"model":"m","messages":[],"max_tokens":9}',
        ),
    ],
)
def test_a_limit_is_set(data: bytes, changed: bytes) -> None:
    assert edited(data, max_tokens=9) == changed


@pytest.mark.parametrize(
    ("data", "changed"),
    [
        (b'{"model":"m","messages":[]}', b'{"model":"\\"x\\"","messages":[]}'),
        (b'{ "messages" : [] , "model" : "m" }', b'{ "messages" : [] , "model" : "\\"x\\"" }'),
        (b'{"mod\\u0065l":"a\\"b","messages":[]}', b'{"mod\\u0065l":"\\"x\\"","messages":[]}'),
    ],
)
def test_the_model_is_replaced_in_its_place(data: bytes, changed: bytes) -> None:
    assert edited(data, model='"x"') == changed


def test_all_edits_at_once() -> None:
    data = b'{"messages":[],"max_tokens":null,"stream":true,"model":"m"}'

    changed = edited(data, model="other", usage=1, max_tokens=5)

    assert changed == (
        b'{"stream_options":{"include_usage":true},'
        b'"messages":[],"max_tokens":5,"stream":true,"model":"other"}'
    )


# -- edits of whatever there may be --

Members = list[tuple[str, str]]
"""Keys and values as they are spelled."""

BLANK = st.sampled_from(["", "", "", " ", "\n", " \t"])
TRAPS = st.sampled_from(
    [
        "",
        "model",
        '"model":"m"',
        '{"messages":[],"tools":[]}',
        '\\"messages":',
        '\\","model":"x","y":"',
        "中 \\",
        "}],",
        "\n",
    ]
)
NAMES = st.sampled_from(["model", "messages", "stream", "n", "tools", "user", "max_tokens", "a"])
TREES = st.recursive(
    st.none() | st.integers() | TRAPS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES | TRAPS, inner, max_size=3),
    max_leaves=5,
)
SPELLED = TREES.flatmap(
    lambda tree: st.sampled_from(
        [
            json.dumps(tree),
            json.dumps(tree, ensure_ascii=False, separators=(",", ":")),
        ]
    )
)
MESSAGE_LISTS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "content": TREES})
    | st.dictionaries(NAMES, TREES, max_size=3),
    max_size=3,
)


@st.composite
def spelled(draw: st.DrawFn, name: str) -> str:
    """A key as JSON may spell it: now and then with an escape."""
    if draw(st.integers(0, 7)):
        return name
    at = draw(st.integers(0, len(name) - 1))
    return f"{name[:at]}\\u{ord(name[at]):04x}{name[at + 1 :]}"


@st.composite
def calls(draw: st.DrawFn) -> Members:
    """Members of a call, any order, with values that are right; names may come twice."""
    values: dict[str, Any] = {
        "model": TRAPS.filter(bool),
        "messages": MESSAGE_LISTS,
        "stream": st.just(True),
    }
    optional: dict[str, st.SearchStrategy[Any]] = {
        "stream_options": st.none()
        | st.fixed_dictionaries({}, optional={"include_usage": st.none() | st.booleans()})
        | st.fixed_dictionaries({"x": TREES, "include_usage": st.booleans()}),
        "max_tokens": st.none() | st.integers(1, 999),
        "max_completion_tokens": st.none() | st.integers(1, 999),
        "n": st.integers(1, 128),
        "user": TRAPS,
        "prompt_cache_key": TRAPS,
        "tools": st.lists(TREES, max_size=2) | TREES,
    }
    values |= {name: made for name, made in optional.items() if draw(st.booleans())}
    names = list(values)
    if not draw(st.integers(0, 3)):
        names.append(draw(st.sampled_from(names)))
    members: Members = []
    for name in names:
        tight = (",", ":") if draw(st.booleans()) else None
        value = json.dumps(draw(values[name]), ensure_ascii=draw(st.booleans()), separators=tight)
        members.append((draw(spelled(name)), value))
    for _ in range(draw(st.integers(0, 3))):
        key = json.dumps(draw(TRAPS.filter(lambda trap: trap != "model") | st.just("metadata")))
        members.append((key[1:-1], draw(SPELLED)))
    return draw(st.permutations(members))


@st.composite
def layouts(draw: st.DrawFn) -> tuple[str, str, str]:
    """Blanks before a key, around the colon, after a value."""
    return draw(BLANK), draw(BLANK) + ":" + draw(BLANK), draw(BLANK)


def write(members: Members, layout: tuple[str, str, str], inserted: str = "") -> bytes:
    before, colon, after = layout
    parts = [f'{before}"{key}"{colon}{value}{after}' for key, value in members]
    return ("{" + inserted + ",".join(parts) + "}").encode()


def plain(key: str) -> str:
    name: str = json.loads(f'"{key}"')
    return name


ACTED_ON = {
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "user",
    "prompt_cache_key",
    "tools",
}


def asked_for_usage(value: str) -> str:
    """The options with a usage report asked for, every other byte as it was."""
    options = json.loads(value)
    if options is None:
        return '{"include_usage":true}'
    if "include_usage" in options:
        return re.sub(r'("include_usage": ?)(?:null|false)', r"\1true", value)
    return '{"include_usage":true' + ("," if options else "") + value[1:]


@given(calls(), layouts(), st.sampled_from(["m2", 'q"\\', "中"]), st.none() | st.just(7))
@example([("model", '"m"'), ("messages", "[]"), ("stream", "true")], ("", ":", ""), "m2", None)
def test_an_edit_changes_what_it_should_and_no_other_byte(
    members: Members, layout: tuple[str, str, str], model: str, limit: int | None
) -> None:
    data = write(members, layout)
    names = [plain(key) for key, _ in members]
    twice = {name for name, count in Counter(names).items() if count > 1} & ACTED_ON

    if twice:
        with pytest.raises(BadField) as caught:
            decode(data)
        assert caught.value.param in twice
        return

    chat = decode(data)
    changed = edit(data, chat, model=model, usage=1, max_tokens=limit)

    inserted = ""
    if "stream_options" not in names:
        inserted += '"stream_options":{"include_usage":true},'
    if limit is not None and "max_tokens" not in names:
        inserted += f'"max_tokens":{limit},'
    expected: Members = []
    for key, value in members:
        name = plain(key)
        if name == "model" and json.loads(value) != model:
            value = json.dumps(model, ensure_ascii=False)
        elif name == "max_tokens" and limit is not None:
            value = str(limit)
        elif name == "stream_options" and chat.include_usage is not True:
            value = asked_for_usage(value)
        expected.append((key, value))
    assert changed == write(expected, layout, inserted)
    compare(chat, dict(zip(names, (json.loads(value) for _, value in members), strict=True)))


def compare(chat: ChatBody, fields: dict[str, Any]) -> None:
    """What was read, against the standard library's reading."""
    given = [fields.get("max_tokens"), fields.get("max_completion_tokens")]
    assert chat.model == fields["model"]
    assert chat.stream is fields["stream"]
    assert chat.include_usage == (fields.get("stream_options") or {}).get("include_usage")
    assert chat.has_stream_options == (fields.get("stream_options") is not None)
    assert chat.max_tokens == max((count for count in given if count is not None), default=None)
    assert chat.n == fields.get("n", 1)
    assert chat.user == (fields.get("user") or None)
