"""What upstreams do wrong before a token is out, and what a client gets when there is nobody else.

Each fault is a script for one upstream; `status` and `code` are the answer when the pool has no other member,
`tried_again` says whether another member is asked. Names follow the fault matrix.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass

from tests.rig import scripts as say
from tests.rig.scripts import Close, Reset, Script, Send, Stall

SHORT = "200ms"
"""`first_token`, `connect` and `answer` of the upstreams that stall."""


@dataclass(frozen=True, slots=True)
class Fault:
    stream: Script | None
    """What a streamed call meets; None: the fault is another one for streams."""
    plain: Script | None
    """What a plain call meets; None: there is no such fault for plain calls."""
    status: int
    code: str | None
    """The client's answer when no member is left."""
    tried_again: bool = True


def both(script: Script, status: int, code: str | None, tried_again: bool = True) -> Fault:
    return Fault(script, script, status, code, tried_again)


def stream(script: Script, status: int, code: str | None) -> Fault:
    return Fault(script, None, status, code)


def only_plain(script: Script, status: int, code: str | None) -> Fault:
    return Fault(None, script, status, code)


def says(
    status: int, answer: int, told: str | None, *, headers: bytes = b"", **more: object
) -> Fault:
    """An error of this status with `more` in its object; the client gets `answer` and `told`."""
    inner = {"message": "internal detail", "type": "x", "param": None, "code": None} | more
    return both(say.plain(status, {"error": inner}, headers=headers), answer, told)


BAD = "bad_upstream_response"
DOWN = "upstream_unreachable"
FAILED = "upstream_error"
NONE = "no_upstream_available"
SSE_OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
JSON_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ERROR_EVENT = say.event({"error": {"message": "boom", "type": "x", "param": None, "code": 500}})
COMMENTS = [Send(say.frame(b": keep-alive\n\n"))] * 3
BODY = json.dumps(say.completion()).encode()

FAULTS: dict[str, Fault] = {
    # connections
    "reset before the head": both([Reset()], 502, DOWN),
    "close before the head": both([Close()], 502, DOWN),
    "close inside the head": both([Send(b"HTTP/1.1 200 OK\r\nContent-Ty"), Close()], 502, DOWN),
    "reset after the head": stream([Send(say.SSE_HEAD), Reset()], 502, BAD),
    "reset inside the body": only_plain(
        [Send(JSON_OK + b"Content-Length: 500\r\n\r\n" + BODY[:50]), Reset()], 502, BAD
    ),
    # framing
    "no HTTP at all": both([Send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), Close()], 502, BAD),
    "bad chunk size": both(
        [Send(SSE_OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n"), Close()], 502, BAD
    ),
    "two content lengths": both(
        [Send(JSON_OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n{}  "), Close()], 502, BAD
    ),
    "length and chunked": both(
        [
            Send(JSON_OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            Close(),
        ],
        502,
        BAD,
    ),
    "a head of 256 KiB": both(
        [Send(JSON_OK + b"X-Big: " + b"a" * (1 << 18) + b"\r\n\r\n"), Close()], 502, BAD
    ),
    "17 interim answers": both([Send(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 17), Stall()], 502, BAD),
    "101 switching": both([Send(b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n")], 502, BAD),
    "content length short": only_plain(
        [Send(JSON_OK + b"Content-Length: 9999\r\n\r\n" + BODY), Close()], 502, BAD
    ),
    "chunked body cut": only_plain(
        [Send(JSON_OK + b"Transfer-Encoding: chunked\r\n\r\n" + say.frame(BODY)), Close()], 502, BAD
    ),
    # silence
    "silence before the head": both([Stall()], 504, "timeout"),
    "silence after the head": stream([Send(say.SSE_HEAD), Stall()], 504, "timeout"),
    "only comments": stream([Send(say.SSE_HEAD), *COMMENTS, Stall()], 504, "timeout"),
    "the role and silence": stream(say.sse([say.ROLE], Stall()), 504, "timeout"),
    "blank lines and silence": only_plain(
        [Send(JSON_OK + b"Transfer-Encoding: chunked\r\n\r\n" + say.frame(b"\n\n")), Stall()],
        504,
        "timeout",
    ),
    # statuses
    "500": says(500, 502, FAILED),
    "501": says(501, 502, FAILED),
    "502": says(502, 502, FAILED),
    "520": says(520, 502, FAILED),
    "408": says(408, 502, FAILED),
    "409": says(409, 502, FAILED),
    "425": says(425, 502, FAILED),
    "503": says(503, 503, "upstream_overloaded"),
    "529": says(529, 503, "upstream_overloaded"),
    "504": says(504, 504, "timeout"),
    "522": says(522, 504, "timeout"),
    "524": says(524, 504, "timeout"),
    "HTML 502": both(
        say.plain(502, b"<html>Bad gateway</html>", content_type=b"text/html"), 502, FAILED
    ),
    "401": says(401, 503, NONE, message="Incorrect API key provided: sk-upstream-a"),
    "402": says(402, 503, NONE, message="Insufficient Balance"),
    "403": says(403, 503, NONE),
    "403 of the account": says(403, 503, NONE, code="account_deactivated"),
    "429": says(429, 429, "upstream_rate_limited", headers=b"Retry-After: 7\r\n"),
    "429 junk wait": says(429, 429, "upstream_rate_limited", headers=b"Retry-After: NaN\r\n"),
    "429 slow down": says(429, 429, "upstream_rate_limited", code="slow_down"),
    "429 quota": says(429, 503, NONE, type="insufficient_quota", code="insufficient_quota"),
    "404 of the model": says(404, 404, "model_not_found", code="model_not_found"),
    "301": both(
        [Send(b"HTTP/1.1 301 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")],
        502,
        BAD,
    ),
    "204": both([Send(b"HTTP/1.1 204 No Content\r\n\r\n")], 502, BAD),
    # 200, but not an answer
    "200 HTML": both(say.plain(200, b"<html>hi</html>", content_type=b"text/html"), 502, BAD),
    "200 empty": both([Send(JSON_OK + b"Content-Length: 0\r\n\r\n")], 502, BAD),
    "200 JSON error": both(say.error(200, "boom"), 502, FAILED),
    "200 JSON error 503": both(
        say.plain(200, {"error": {"message": "busy", "type": "x", "code": 503}}),
        503,
        "upstream_overloaded",
    ),
    "200 no JSON": only_plain(say.plain(200, b"{ this is not JSON"), 502, BAD),
    "200 a completion": stream(say.plain(200, say.completion()), 502, BAD),
    "an empty stream": stream(say.sse([]), 502, BAD),
    "a stream of comments": stream([Send(say.SSE_HEAD), *COMMENTS, Send(say.LAST_CHUNK)], 502, BAD),
    "the role and the end": stream(say.sse([say.ROLE]), 502, BAD),
    "half an event": stream(say.sse([say.WORDS[0][:30]]), 502, BAD),
    "error event first": stream(say.sse([ERROR_EVENT, say.DONE]), 502, FAILED),
    "error event after the role": stream(
        say.sse([b": hello\n\n", say.ROLE, ERROR_EVENT]), 502, FAILED
    ),
    "gzip cut short": stream(
        [
            Send(SSE_OK + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Send(say.frame(gzip.compress(b"".join(say.EVENTS))[:20]) + say.LAST_CHUNK),
        ],
        502,
        BAD,
    ),
}
"""Everything before the commit that another member can make good."""


def refused(status: int, code: str | None = "some_code") -> Fault:
    error = {"message": "max_tokens is too large", "type": "invalid_request_error"}
    body = {"error": error | {"param": "max_tokens", "code": code}}
    return both(say.plain(status, body), status, code, tried_again=False)


REFUSALS = {str(status): refused(status) for status in (400, 404, 413, 415, 422)}
"""The client's own fault: passed on, and nobody else is asked."""
