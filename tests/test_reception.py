"""What is decided about a request before it is a call, and what is answered without an upstream."""

from __future__ import annotations

import pytest

from relay.records import CallRecord
from tests.plane import Plane, play
from tests.rig.raw_client import KEY, chat_body, request
from tests.rig.relay_process import Fields
from tests.wires import CHAT, Reply, asked

STATIC: dict[str, Fields] = {"m": {"static": "hello"}, "gpt-x": {"static": "x"}}
LIMITED = [
    {"id": "tester", "key": KEY, "models": ["m*"], "limits": {"rpm": 60}},
]
BODY = chat_body(stream=False)


def answered(
    data: bytes, peer: str = "127.0.0.1", **fields: object
) -> tuple[Reply, list[CallRecord]]:
    """The one answer to a request, and the records it left."""

    async def scene() -> tuple[Reply, list[CallRecord]]:
        async with Plane(models=STATIC, **fields) as plane:  # type: ignore[arg-type]
            caller = plane.caller(peer)
            caller.say(data)
            reply = caller.answers[0]
            if data.startswith(b"HEAD "):
                assert caller.got.endswith(b"\r\n\r\n"), "an answer to HEAD has no body"
            caller.leave()
            return reply, plane.records

    return play(scene())


def post(**headers: str) -> bytes:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return request("POST", CHAT, BODY, headers=named)


# --- refusals -------------------------------------------------------------------------------------

REFUSALS: dict[str, tuple[bytes, int, str | None]] = {
    "no key": (request("POST", CHAT, BODY, key=None), 401, None),
    "another scheme": (post(Authorization="Basic eDp5"), 401, None),
    "an empty key": (post(Authorization="Bearer "), 401, None),
    "a wrong key": (post(Authorization="Bearer sk-wrong"), 401, "invalid_api_key"),
    "two keys": (
        post(Authorization=f"Bearer {KEY}\r\nAuthorization: Bearer {KEY}"),
        401,
        None,
    ),
    "another type": (post(Content_Type="text/plain"), 400, "unsupported_content_type"),
    "no type": (post(Content_Type=""), 400, "unsupported_content_type"),
    "a coding": (post(Content_Encoding="gzip"), 415, "unsupported_content_encoding"),
    "an expectation": (post(Expect="200-ok"), 417, None),
    "a loop": (post(Via="1.1 other, 1.1 relay"), 508, "loop_detected"),
    "a junk patience": (post(x_relay_first_token_ms="soon"), 400, None),
    "an unknown URL": (request("POST", "/v1/nothing", BODY), 404, None),
    "a method": (request("DELETE", CHAT), 405, "method_not_supported"),
    "a GET of the chat": (request("GET", CHAT), 405, "method_not_supported"),
    "a version": (post().replace(b"HTTP/1.1", b"HTTP/2.0"), 505, None),
    "no HTTP": (b"hello\r\n\r\n", 400, "bad_request"),
    "a model": (request("POST", CHAT, chat_body(model="none")), 404, "model_not_found"),
    "a forbidden model": (request("POST", CHAT, chat_body(model="gpt-x")), 404, "model_not_found"),
    "no JSON": (request("POST", CHAT, b"{"), 400, None),
    "no body": (request("POST", CHAT, b""), 400, None),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_each_refusal_has_its_answer_and_one_record(name: str) -> None:
    data, status, code = REFUSALS[name]

    reply, records = answered(data, keys=LIMITED)

    error = reply.json()["error"]
    assert reply.status == status
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["code"] == code
    assert reply.headers["content-type"] == "application/json"
    assert "date" in reply.headers
    (record,) = records
    assert record.code == status
    assert record.outcome == "client_error"
    assert record.error == (code or "invalid_request_error")
    assert reply.headers["x-request-id"] == record.request_id
    assert KEY not in reply.body.decode()


@pytest.mark.parametrize("name", ["an expectation", "a loop", "a junk patience", "a version"])
def test_a_head_that_cannot_be_trusted_ends_its_connection(name: str) -> None:
    reply, _ = answered(REFUSALS[name][0])

    assert reply.headers["connection"] == "close"


def test_unknown_and_forbidden_models_are_told_alike() -> None:
    unknown, _ = answered(request("POST", CHAT, chat_body(model="gpt-y")), keys=LIMITED)
    forbidden, _ = answered(request("POST", CHAT, chat_body(model="gpt-x")), keys=LIMITED)

    assert unknown.body.replace(b"gpt-y", b"gpt-x") == forbidden.body


def test_a_method_that_is_not_served_is_told_which_are() -> None:
    reply, _ = answered(request("PUT", CHAT))

    assert reply.headers["allow"] == "POST, OPTIONS"


def test_limits_are_told_with_refusals_of_a_known_key_and_not_used_up_by_them() -> None:
    reply, _ = answered(request("POST", CHAT, b"{"), keys=LIMITED)

    assert reply.headers["x-ratelimit-limit-requests"] == "60"
    assert reply.headers["x-ratelimit-remaining-requests"] == "60"


def test_the_scheme_is_read_in_any_case() -> None:
    for scheme in ("bearer", "BEARER", "Bearer"):
        assert answered(post(Authorization=f"{scheme} {KEY}"))[0].status == 200


# --- answers without an upstream ------------------------------------------------------------------


def test_models_are_those_the_key_may_use() -> None:
    every, records = answered(request("GET", "/v1/models"))
    some, _ = answered(request("GET", "/v1/models"), keys=LIMITED)
    one, _ = answered(request("GET", "/v1/models/m"), keys=LIMITED)
    other, _ = answered(request("GET", "/v1/models/gpt-x"), keys=LIMITED)

    assert [model["id"] for model in every.json()["data"]] == ["m", "gpt-x"]
    assert every.json()["object"] == "list"
    assert [model["id"] for model in some.json()["data"]] == ["m"]
    assert one.json()["id"] == "m"
    assert one.json()["object"] == "model"
    assert other.status == 404
    assert other.code == "model_not_found"
    assert records[0].operation == "models"
    assert records[0].code == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/v1/models"])
def test_head_has_the_head_of_get_and_no_body(path: str) -> None:
    get, _ = answered(request("GET", path))
    head, _ = answered(request("HEAD", path))

    assert head.status == get.status == 200
    assert head.headers["content-length"] == get.headers["content-length"]


def test_the_refusal_of_a_head_has_no_body_either() -> None:
    reply, _ = answered(request("HEAD", "/v1/nothing"))

    assert reply.status == 404
    assert int(reply.headers["content-length"]) > 0


def test_health_needs_no_key_and_leaves_no_record() -> None:
    alive, records = answered(request("GET", "/livez", key=None))
    ready, _ = answered(request("GET", "/readyz", key=None))

    assert (alive.status, ready.status) == (200, 200)
    assert ready.json() == {"status": "ready", "degraded": []}
    assert records == []


def test_a_preflight_is_answered_before_any_key_for_any_path() -> None:
    headers = {
        "Origin": "https://x.test",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, x-a",
    }
    for path in (CHAT, "/v1/nothing", "/"):
        reply, records = answered(request("OPTIONS", path, key=None, headers=headers))

        assert reply.status == 204
        assert "content-length" not in reply.headers
        assert reply.headers["access-control-allow-origin"] == "*"
        assert reply.headers["access-control-allow-headers"] == "authorization, x-a"
        assert [record.code for record in records] == [204]


def test_a_page_may_read_every_answer() -> None:
    origin = {"Origin": "https://x.test"}
    for data in (
        asked({"stream": False}, headers=origin),
        asked(headers=origin),
        asked(key="wrong", headers=origin),
        request("GET", "/v1/models", headers=origin),
        request("GET", "/nothing", headers=origin),
    ):
        reply, _ = answered(data)

        assert reply.headers["access-control-allow-origin"] == "*", data
        assert "x-request-id" in reply.headers["access-control-expose-headers"]


def test_an_origin_that_is_not_listed_may_not() -> None:
    cors = {"cors": {"allow_origins": ["https://a.test"]}}

    mine, _ = answered(asked(headers={"Origin": "https://a.test"}), server=cors)
    other, _ = answered(asked(headers={"Origin": "https://b.test"}), server=cors)

    assert mine.headers["access-control-allow-origin"] == "https://a.test"
    assert "access-control-allow-origin" not in other.headers


# --- where it comes from --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "headers", "seen"),
    [
        ("10.0.0.7", {}, "10.0.0.7"),
        ("10.0.0.7", {"X-Forwarded-For": "1.2.3.4"}, "10.0.0.7"),
        ("127.0.0.1", {"X-Forwarded-For": "1.2.3.4"}, "1.2.3.4"),
        ("127.0.0.1", {"X-Forwarded-For": "6.6.6.6, 1.2.3.4"}, "1.2.3.4"),
        ("127.0.0.1", {"X-Forwarded-For": "1.2.3.4, 127.0.0.1"}, "1.2.3.4"),
        ("127.0.0.1", {"X-Real-IP": "1.2.3.4"}, "1.2.3.4"),
        ("127.0.0.1", {}, None),
    ],
)
def test_the_clients_address_is_what_trusted_proxies_tell(
    peer: str, headers: dict[str, str], seen: str | None
) -> None:
    _, (record,) = answered(asked(headers=headers), peer)

    assert record.client == seen


def test_what_the_client_calls_its_request_is_only_logged() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"X-Request-Id": "mine-1", "traceparent": trace}

    reply, (record,) = answered(asked(headers=headers))

    assert record.client_request_id == "mine-1"
    assert record.trace_id == trace[3:35]
    assert reply.headers["x-request-id"] == record.request_id != "mine-1"
