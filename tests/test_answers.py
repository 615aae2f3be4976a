"""What an upstream answered becomes the right failure: every row of the decision table."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import PassedThrough
from relay.upstream.answers import describe, from_error_object, from_status
from relay.upstream.scrub import Scrubber
from relay.upstream.verdicts import Effect, Failure, Retry, Verdict

WALL = 1_790_000_000.0
SECRET = "sk-live-Zq8Kw2Lm5Xr7Tb9Np3Vc6Yd1"
SCRUB = Scrubber([SECRET], ["api.deepseek.com"])

FREE, PAID, NEVER = Retry.FREE, Retry.PAID, Retry.NEVER
NONE, STRIKE, PAUSE = Effect.NONE, Effect.STRIKE, Effect.PAUSE


def body(message: str = "M", type: str | None = None, code: object = None, **more: object) -> bytes:
    return json.dumps({"error": {"message": message, "type": type, "code": code, **more}}).encode()


def judge(status: int, said: bytes = b"", headers: dict[bytes, bytes] | None = None) -> Failure:
    return from_status(status, headers or {}, said, SCRUB, WALL)


def facts(failure: Failure) -> tuple[str, Retry, Effect, int, str | None]:
    error = failure.error
    return failure.result, failure.retry, failure.effect, error.status, error.code


PARKED_KEY = ("auth_failed", FREE, Effect.PARK_CREDENTIAL, 503, "no_upstream_available")
PARKED_ACCOUNT = ("payment", FREE, Effect.PARK_ACCOUNT, 503, "no_upstream_available")
FORBIDDEN = ("forbidden", FREE, Effect.FORBIDDEN, 503, "no_upstream_available")
NO_MODEL = ("model_missing", FREE, Effect.MODEL_ABSENT, 404, "model_not_found")
THROTTLED = ("rate_limited", FREE, PAUSE, 429, "upstream_rate_limited")
FAILED = ("5xx", PAID, STRIKE, 502, "upstream_error")
OVERLOADED = ("5xx", PAID, STRIKE, 503, "upstream_overloaded")
TIMED_OUT = ("5xx", PAID, STRIKE, 504, "timeout")
UNUSABLE = ("bad_status", PAID, STRIKE, 502, "bad_upstream_response")


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (101, b"", UNUSABLE),
        (201, b"{}", UNUSABLE),
        (204, b"", UNUSABLE),
        (205, b"", UNUSABLE),
        (304, b"", UNUSABLE),
        (301, b"", ("redirect", FREE, STRIKE, 502, "bad_upstream_response")),
        (308, b"", ("redirect", FREE, STRIKE, 502, "bad_upstream_response")),
        (401, b"", PARKED_KEY),
        (401, b'{"error":"Unauthorized"}', PARKED_KEY),
        (401, body("Authentication Fails", "authentication_error"), PARKED_KEY),
        (401, body(code="model_not_found"), PARKED_KEY),
        (403, body(code="account_deactivated"), PARKED_KEY),
        (403, body(code="mismatched_organization"), PARKED_KEY),
        (403, body("Your account has been suspended."), PARKED_KEY),
        (403, body("The API key was revoked"), PARKED_KEY),
        (403, b"", FORBIDDEN),
        (403, b"<html>blocked</html>", FORBIDDEN),
        (403, body(code="unsupported_country_region_territory"), FORBIDDEN),
        (403, body("Flagged: 'your account has been suspended'"), FORBIDDEN),
        (403, body("Your text 'my account is suspended' is not allowed"), FORBIDDEN),
        (402, b"", PARKED_ACCOUNT),
        (
            402,
            body("Insufficient Balance", "unknown_error", "invalid_request_error"),
            PARKED_ACCOUNT,
        ),
        (429, body(type="insufficient_quota", code="insufficient_quota"), PARKED_ACCOUNT),
        (429, body(type="insufficient_quota", code="new_spend_limit"), PARKED_ACCOUNT),
        (429, body(code="credit_balance_exhausted"), PARKED_ACCOUNT),
        (429, body(code="organization_spend_limit_exceeded"), PARKED_ACCOUNT),
        (429, body(code="project_spend_limit_exceeded"), PARKED_ACCOUNT),
        (429, body(code="organization_usage_limit_exceeded"), PARKED_ACCOUNT),
        (403, body(type="new_api_error", code="insufficient_user_quota"), PARKED_ACCOUNT),
        (500, body(code="pre_consume_token_quota_failed"), PARKED_ACCOUNT),
        (404, body(code="model_not_found"), NO_MODEL),
        (403, body("Project X lacks access", code="model_not_found"), NO_MODEL),
        (404, body("The model `m` does not exist.", "NotFoundError", 404), NO_MODEL),
        (404, b'{"error":"model \'m\' not found, try pulling it first"}', NO_MODEL),
        (404, body("no", code=404, param="model"), NO_MODEL),
        (400, body("Model Not Exist", "invalid_request_error"), NO_MODEL),
        (
            503,
            body("no channel", "new_api_error", "model_not_found"),
            ("model_missing", FREE, Effect.MODEL_ABSENT, 502, "upstream_error"),
        ),
        (429, b"", THROTTLED),
        (429, body(type="requests", code="rate_limit_exceeded"), THROTTLED),
        (429, body(code="slow_down"), THROTTLED),
        (503, body(code="slow_down"), THROTTLED),
        (500, body(code="token_concurrency_limit_reached"), THROTTLED),
        (400, body(code="get_channel_failed"), FAILED),
        (401, body(code="channel:invalid_key"), FAILED),
        (500, body(code="channel:no_available_key"), FAILED),
        (500, body(code="do_request_failed"), FAILED),
        (400, b'{"error":"Incorrect API key provided: sk-x"}', ("auth_failed", *FORBIDDEN[1:])),
        (408, b"", FAILED),
        (409, b"", FAILED),
        (425, b"", FAILED),
        (500, b"", FAILED),
        (502, b"<html>", FAILED),
        (520, b"", FAILED),
        (521, b"", FAILED),
        (523, b"", FAILED),
        (525, b"", FAILED),
        (527, b"", FAILED),
        (599, b"", FAILED),
        (503, b"", OVERLOADED),
        (529, b"", OVERLOADED),
        (504, b"", TIMED_OUT),
        (522, b"", TIMED_OUT),
        (524, b"", TIMED_OUT),
        (405, b"", ("bad_status", PAID, NONE, 502, "upstream_error")),
        (451, b"", ("bad_status", PAID, NONE, 502, "upstream_error")),
        (600, b"", UNUSABLE),
        (999, b"", UNUSABLE),
    ],
)
def test_each_answer_is_judged_by_the_table(
    status: int, said: bytes, expected: tuple[str, Retry, Effect, int, str | None]
) -> None:
    failure = judge(status, said)

    assert facts(failure) == expected
    assert not isinstance(failure.error, PassedThrough)
    assert failure.error.message != "M"


@pytest.mark.parametrize("status", [400, 404, 413, 415, 422])
def test_the_clients_own_fault_passes_through_as_it_is(status: int) -> None:
    failure = judge(status, body("Too odd", "some_error", "some_code", param="n"))

    assert facts(failure) == ("client_error", NEVER, NONE, status, "some_code")
    assert failure.error.as_object() == {
        "message": "Too odd",
        "type": "some_error",
        "param": "n",
        "code": "some_code",
    }


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"<html>", ("The upstream refused this request.", "invalid_request_error", None, None)),
        (
            b"plain text",
            ("The upstream refused this request.", "invalid_request_error", None, None),
        ),
        (b'{"detail":"odd"}', ("odd", "invalid_request_error", None, None)),
        (b'{"error":"odd"}', ("odd", "invalid_request_error", None, None)),
        (
            b'{"object":"error","message":"odd","type":"BadRequest","param":null,"code":400}',
            ("odd", "BadRequest", None, "400"),
        ),
        (
            b'{"error":{"message":"odd","type":"new_api_error","param":"","code":""}}',
            ("odd", "new_api_error", None, None),
        ),
    ],
)
def test_every_shape_passes_through_as_the_nested_one(
    said: bytes, expected: tuple[str, str, str | None, str | None]
) -> None:
    error = judge(400, said).error

    assert (error.message, error.type, error.param, error.code) == expected


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 131072 tokens. However, you requested 140000.",
        "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
    ],
)
def test_a_context_error_gets_the_code_that_apps_know(message: str) -> None:
    error = judge(400, body(message, "invalid_request_error", "invalid_request_error")).error

    assert (error.status, error.code, error.message) == (400, "context_length_exceeded", message)


@pytest.mark.parametrize("field", ["message", "type", "param", "code"])
def test_a_key_survives_in_no_field_that_passes_through(field: str) -> None:
    said = json.dumps({"error": {field: f"bad {SECRET} at https://api.deepseek.com/v1"}}).encode()

    error = judge(422, said).error

    assert "Zq8Kw2Lm" not in error.body().decode()
    assert "deepseek" not in error.body().decode()


def test_long_words_of_an_upstream_are_cut() -> None:
    error = judge(400, body("m " * 5000, "t " * 500, "c " * 500)).error

    assert len(error.message) == 2000
    assert len(error.type) == 128
    assert error.code is not None
    assert len(error.code) == 128


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, 2.0),
        ({b"retry-after": b"7"}, 7.0),
        ({b"retry-after": b"0"}, 1.0),
        ({b"retry-after": b"-5"}, 2.0),
        ({b"retry-after": b"nan"}, 2.0),
        ({b"retry-after": b"1_000"}, 2.0),
        ({b"retry-after": b"99999"}, 300.0),
        ({b"retry-after": b"Fri, 31 Dec 9999 23:59:59 GMT"}, 300.0),
        ({b"retry-after": b"Sat, 01 Jan 0000 00:00:00 GMT"}, 2.0),
        ({b"retry-after-ms": b"2500"}, 2.5),
        ({b"retry-after-ms": b"20"}, 1.0),
    ],
)
def test_a_429_pauses_for_the_clamped_wait_and_is_no_strike(
    headers: dict[bytes, bytes], wait: float
) -> None:
    failure = judge(429, headers=headers)

    assert (failure.effect, failure.verdict) == (PAUSE, Verdict.OVERLOADED)
    assert failure.wait == wait
    assert failure.error.wait == wait


@pytest.mark.parametrize("status", [503, 529])
def test_a_503_that_asks_to_wait_holds_the_endpoint_and_tells_the_client(status: int) -> None:
    failure = judge(status, headers={b"retry-after": b"30"})

    assert facts(failure) == ("5xx", PAID, Effect.HOLD, 503, "upstream_overloaded")
    assert (failure.wait, failure.error.wait) == (30.0, 30.0)
    assert failure.verdict is Verdict.FAILED


@pytest.mark.parametrize("value", [b"junk", b"-1", b"1e9"])
def test_a_503_without_a_usable_wait_promises_none(value: bytes) -> None:
    failure = judge(503, headers={b"retry-after": value})

    assert (failure.effect, failure.wait, failure.error.wait) == (STRIKE, None, None)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"message": "x", "code": 503}, OVERLOADED),
        ({"message": "x", "code": "503"}, OVERLOADED),
        ({"message": "x", "status": 504}, TIMED_OUT),
        ({"message": "x", "type": "overloaded_error"}, OVERLOADED),
        ({"message": "x", "code": "server_is_overloaded"}, OVERLOADED),
        ({"message": "x", "code": 429}, THROTTLED),
        ({"message": "x", "type": "rate_limit_error"}, THROTTLED),
        ({"message": "x", "code": "rate_limit_exceeded", "type": "tokens"}, THROTTLED),
        ({"message": "x", "type": "insufficient_quota"}, PARKED_ACCOUNT),
        ({"message": "Insufficient Balance", "code": "invalid_request_error"}, PARKED_ACCOUNT),
        ({"message": "x", "code": 401}, PARKED_KEY),
        ({"message": "x", "code": "invalid_api_key"}, PARKED_KEY),
        (
            {"message": "x", "type": "authentication_error", "code": "invalid_request_error"},
            PARKED_KEY,
        ),
        ({"message": "x", "type": "permission_error"}, FORBIDDEN),
        ({"message": "x", "code": "model_not_found"}, NO_MODEL),
        ({"message": "x", "type": "server_error"}, FAILED),
        ({"message": "x", "code": 200}, FAILED),
        ({"message": "x"}, FAILED),
        ({}, FAILED),
        ("text", FAILED),
        (True, FAILED),
        ([1], FAILED),
        (7, FAILED),
    ],
)
def test_an_error_object_counts_as_the_status_it_names_else_as_502(
    error: object, expected: tuple[str, Retry, Effect, int, str | None]
) -> None:
    failure = from_error_object(error, SCRUB, WALL)

    assert facts(failure) == ("error_event", *expected[1:])


@pytest.mark.parametrize(
    "error",
    [
        {"message": "too odd", "code": 400, "type": "BadRequestError"},
        {"message": "too odd", "type": "invalid_request_error"},
        {"message": "too odd", "code": "content_filter"},
    ],
)
def test_an_error_object_about_the_request_passes_through(error: object) -> None:
    failure = from_error_object(error, SCRUB, WALL, result="error_in_200")

    assert (failure.result, failure.retry, failure.effect) == ("error_in_200", NEVER, NONE)
    assert (failure.error.status, failure.error.message) == (400, "too odd")


@pytest.mark.parametrize(("value", "wait"), [(9, 9.0), ("9", 9.0), ("9.5", 2.0), (None, 2.0)])
def test_an_error_object_may_name_its_wait(value: object, wait: float) -> None:
    failure = from_error_object({"code": 429, "retry_after": value}, SCRUB, WALL)

    assert failure.wait == wait


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"message": f"bad {SECRET}", "code": "c"}, ("bad [removed]", "c")),
        ({"message": "m", "code": 500}, ("m", "500")),
        ("m", ("m", None)),
        (None, ("", None)),
        ({"code": SECRET}, ("", "[removed]")),
    ],
)
def test_an_error_after_the_commit_keeps_its_scrubbed_message_and_code(
    error: object, expected: tuple[str, str | None]
) -> None:
    assert describe(error, SCRUB) == expected


@given(status=st.integers(100, 999), said=st.binary(max_size=100), wait=st.binary(max_size=20))
def test_no_answer_makes_it_raise_and_every_wait_is_clamped(
    status: int, said: bytes, wait: bytes
) -> None:
    failure = from_status(status, {b"retry-after": wait}, said, SCRUB, WALL)

    assert failure.wait is None or 1.0 <= failure.wait <= 300.0
    assert failure.error.body()
    assert failure.error.status not in (401, 402, 403)
