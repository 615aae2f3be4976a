"""The shapes in which upstreams say that something went wrong are all read as one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.upstream.errorbody import LARGEST, ErrorBody, describe, read


def fields(body: ErrorBody) -> tuple[str, str | None, str | None, str | None, int | None]:
    return body.message, body.type, body.param, body.code, body.status


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(
            b'{"error":{"message":"M","type":"T","param":"P","code":"C"}}',
            ("M", "T", "P", "C", None),
            id="openai",
        ),
        pytest.param(
            b'{"error":{"message":"M","type":"BadRequestError","param":null,"code":400}}',
            ("M", "BadRequestError", None, "400", 400),
            id="vllm",
        ),
        pytest.param(b'{"error":"Unauthorized"}', ("Unauthorized", None, None, None, None), id="s"),
        pytest.param(
            b'{"object":"error","message":"M","type":"BadRequest","param":null,"code":400}',
            ("M", "BadRequest", None, "400", 400),
            id="sglang",
        ),
        pytest.param(
            b'{"error":{"message":"M","type":null,"param":"prompt","code":"content_filter",'
            b'"status":400}}',
            ("M", None, "prompt", "content_filter", 400),
            id="azure",
        ),
        pytest.param(
            b'{"error":{"message":"M","type":"new_api_error","param":"","code":""}}',
            ("M", "new_api_error", None, None, None),
            id="new-api",
        ),
        pytest.param(b'{"detail":"M"}', ("M", None, None, None, None), id="fastapi"),
        pytest.param(
            b'{"detail":[{"loc":["body","n"],"msg":"too big"},{"msg":"odd"},7,{"msg":3}]}',
            ("body.n: too big; odd", None, None, None, None),
            id="fastapi validation",
        ),
        pytest.param(
            b'[{"error":{"code":429,"message":"M","status":"RESOURCE_EXHAUSTED"}}]',
            ("M", None, None, "429", 429),
            id="gemini",
        ),
        pytest.param(
            b'{"error":{"message":{"a":1},"type":[],"param":{},"code":true}}',
            ("", None, None, None, None),
            id="wrong types",
        ),
        pytest.param(b'{"error":{"code":"503"}}', ("", None, None, "503", 503), id="digits"),
        pytest.param(b'{"error":{"code":200}}', ("", None, None, "200", None), id="no error"),
        pytest.param(b'{"error":{}}', ("", None, None, None, None), id="empty object"),
    ],
)
def test_every_known_shape_is_read(
    body: bytes, expected: tuple[str, str | None, str | None, str | None, int | None]
) -> None:
    assert fields(read(body)) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>413</html>",
        b"null",
        b"[]",
        b"7",
        b'"text"',
        b'{"error":',
        b"\xff\xfe",
        b'{"error":"\xff"}',
        b"[" * 100_000,
        b'{"error":"' + b"x" * LARGEST + b'"}',
    ],
)
def test_a_body_that_is_no_error_object_says_nothing(body: bytes) -> None:
    assert fields(read(body)) == ("", None, None, None, None)


@given(body=st.binary(max_size=200))
def test_no_bytes_make_it_raise(body: bytes) -> None:
    assert isinstance(read(body).message, str)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "code", "type", "param", "detail", "status"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(error=json_values)
def test_no_object_makes_it_raise(error: object) -> None:
    said = describe(error)

    assert isinstance(said.message, str)
    assert said.status is None or 400 <= said.status <= 599
    assert said.code is None or said.code
