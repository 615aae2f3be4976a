"""Rows of what an upstream answers instead of a completion: statuses, errors under a 200, waits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.faults.row import (
    BAD,
    BUSY,
    FAILED,
    NONE,
    SECRET,
    THROTTLED,
    Failure,
    Play,
    Row,
    both,
    in_turn,
    plain,
    streamed,
)
from tests.rig import scripts as say
from tests.rig.scripts import Close, Script, Send

SAID = "Internal detail."
"""What no client may read."""
LEAKY = f"Incorrect API key provided: {SECRET}. {SAID}"
EMPTY = b"Content-Length: 0\r\n\r\n"


def says(status: int, *, headers: bytes = b"", **more: object) -> Script:
    """An error of this status with `more` in its object."""
    inner = {"message": SAID, "type": "x", "param": None, "code": None} | more
    return say.plain(status, {"error": inner}, headers=headers)


def server_errors() -> list[Row]:
    line = "500/502/503/504/529"
    rows = [
        both(str(status), line, says(status), Failure(502, FAILED, "5xx"))
        for status in (500, 501, 502, 505, 520, 521, 523, 525, 526, 527)
    ]
    rows += [
        both(str(status), line, says(status), Failure(503, BUSY, "5xx", tries=1))
        for status in (503, 529)
    ]
    rows += [
        both(str(status), line, says(status), Failure(504, "timeout", "5xx", tries=1))
        for status in (504, 522, 524)
    ]
    held = Failure(503, BUSY, "5xx", tries=1, state="open", wait=(20, 20))
    html = say.plain(502, b"<html>Bad gateway</html>", content_type=b"text/html")
    cut: Play = [
        Send(b"HTTP/1.1 500 X\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"),
        Close(),
    ]
    return [
        *rows,
        both("503, Retry-After: 20", line, says(503, headers=b"Retry-After: 20\r\n"), held),
        both("502 of HTML", line, html, Failure(502, FAILED, "5xx")),
        both("500, cut short", line, cut, Failure(502, FAILED, "5xx")),
        *(
            both(str(status), "408/409/425", says(status), Failure(502, FAILED, "5xx"))
            for status in (408, 409, 425)
        ),
        *(
            both(str(status), "another 4xx", says(status), Failure(502, FAILED, "bad_status"))
            for status in (405, 451)
        ),
    ]


def throttled() -> list[Row]:
    """429: every form of the wait."""
    line = "429"

    def waits(low: int, high: int) -> Failure:
        return Failure(429, THROTTLED, "rate_limited", tries=1, state="paused", wait=(low, high))

    def header(value: bytes) -> Script:
        return says(429, headers=b"Retry-After: " + value + b"\r\n")

    def dated(number: int) -> list[say.Step]:
        moment = datetime.now(UTC) + timedelta(seconds=100)  # noqa: TID251  a date of today
        value = moment.strftime("%a, %d %b %Y %H:%M:%S GMT").encode()
        return list(say.error(429, headers=b"Retry-After: " + value + b"\r\n"))

    forms: dict[str, tuple[Play, Failure]] = {
        "seconds": (header(b"7"), waits(7, 7)),
        "zero": (header(b"0"), waits(1, 1)),
        "a day": (header(b"86400"), waits(300, 300)),
        "400 digits": (header(b"9" * 400), waits(300, 300)),
        "an HTTP date": (dated, waits(97, 100)),
        "a date gone by": (header(b"Tue, 01 Jan 2019 00:00:00 GMT"), waits(1, 1)),
        "year 9999": (header(b"Fri, 31 Dec 9999 23:59:59 GMT"), waits(300, 300)),
        "year 0000": (header(b"Sat, 01 Jan 0000 00:00:00 GMT"), waits(2, 2)),
        "negative": (header(b"-5"), waits(2, 2)),
        "NaN": (header(b"NaN"), waits(2, 2)),
        "infinite": (header(b"inf"), waits(2, 2)),
        "junk": (header(b"soon"), waits(2, 2)),
        "1_000": (header(b"1_000"), waits(2, 2)),
        "Arabic digits": (header("١٢".encode()), waits(2, 2)),
        "none": (says(429), waits(2, 2)),
        "milliseconds": (says(429, headers=b"Retry-After-Ms: 4200\r\n"), waits(5, 5)),
    }
    rows = [both(f"429, wait: {name}", line, *form) for name, form in forms.items()]
    again = Failure(429, THROTTLED, "rate_limited", tries=0, state="paused", wait=(28, 30))
    return [
        *rows,
        both("429, slow_down", line, says(429, code="slow_down"), waits(2, 2)),
        both(
            *("429, and a call after it", line, header(b"30"), again),
            calls=2,
            left_out=True,
            first=waits(30, 30),
        ),
        both(
            *("429, the wait of the first is the shorter", line),
            in_turn(header(b"7"), header(b"30")),
            waits(6, 7),
            both=True,
        ),
    ]


def accounts() -> list[Row]:
    """The operator's faults: never the client's to see."""
    parked = Failure(503, NONE, "auth_failed", tries=1, state="parked")
    unpaid = Failure(503, NONE, "payment", tries=1, state="parked")
    forbidden = Failure(503, NONE, "forbidden", tries=1)
    quota = says(429, type="insufficient_quota", code="insufficient_quota")
    line = "401; 403 of the account"
    return [
        both("401 that quotes our key", line, says(401, message=LEAKY), parked),
        both(
            *("403 of the account", line),
            says(403, message=LEAKY, code="account_deactivated"),
            parked,
        ),
        both(
            *("403, the third in a row", line, says(403)),
            Failure(503, NONE, "forbidden", tries=1, state="parked"),
            calls=3,
            first=forbidden,
        ),
        both(
            *("401, and a call after it", line, says(401)),
            Failure(503, NONE, "auth_failed", tries=0, state="parked"),
            calls=2,
            left_out=True,
            first=parked,
        ),
        both("403", "another 403", says(403), forbidden),
        both("402", "402 / insufficient_quota", says(402), unpaid),
        both("429, insufficient_quota", "402 / insufficient_quota", quota, unpaid),
        both(
            *("400, Insufficient Balance", "402 / insufficient_quota"),
            says(400, message="Insufficient Balance"),
            unpaid,
        ),
    ]


def refusals() -> list[Row]:
    """The client's own fault: passed on, scrubbed, and nobody else is asked."""
    said = {"type": "invalid_request_error", "param": "max_tokens", "code": "some_code"}
    body = {"error": {"message": "max_tokens is too large"} | said}
    quoting = {"error": {"message": f"max_tokens is too large for {SECRET}"} | said}

    def passed(status: int, result: str = "client_error") -> Failure:
        return Failure(*(status, "some_code", result), tries=1, elsewhere=False, param="max_tokens")

    rows = [
        both(str(status), "400/404/413/415/422", say.plain(status, body), passed(status))
        for status in (400, 404, 413, 415, 422)
    ]
    hasty: Play = [*say.plain(413, body, headers=b"Connection: close\r\n"), Close()]
    large = {"messages": [{"role": "user", "content": "x" * (12 << 20)}]}
    missing = Failure(404, "model_not_found", "model_missing", tries=1, param="model")
    return [
        *rows,
        both(
            *("400 that quotes our key", "400/404/413/415/422"),
            say.plain(400, quoting),
            passed(400),
        ),
        both(
            *("413 while the request is being sent", "early response", hasty),
            passed(413, "early_response"),
            place="hasty",
            fields=large,
        ),
        both(
            *("404 of the model", "404 model on one upstream only"),
            says(404, code="model_not_found"),
            missing,
        ),
    ]


def no_answers() -> list[Row]:
    """Statuses below 400 that are no completion."""
    empty = Failure(502, BAD, "bad_status")
    rows = [
        both(str(status), "204/205/304", [Send(head + b"\r\n")], empty)
        for status, head in (
            (204, b"HTTP/1.1 204 No Content\r\n"),
            (205, b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n"),
            (304, b"HTTP/1.1 304 Not Modified\r\n"),
        )
    ]
    rows.append(both("201", "204/205/304", say.plain(201, say.completion()), empty))
    for status in (300, 301, 302, 303, 307, 308):
        head = b"HTTP/1.1 %d X\r\nLocation: /sink/v1/chat/completions\r\n" % status
        rows.append(both(str(status), "3xx", [Send(head + EMPTY)], Failure(502, BAD, "redirect")))
    return rows


def under_200() -> list[Row]:
    """A 200 that is none."""
    line, kind = "200 + JSON error", "200 + HTML / wrong content-type"
    busy = {"message": SAID, "type": "x", "param": None, "code": 503}
    parked = Failure(503, NONE, "error_in_200", tries=1, state="parked")
    bad = Failure(502, BAD, "bad_content_type")
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    return [
        both("200, JSON error", line, says(200), Failure(502, FAILED, "error_in_200")),
        both(
            *("200, JSON error 503", line, say.plain(200, {"error": busy})),
            Failure(503, BUSY, "error_in_200", tries=1),
        ),
        both("200, JSON error 401", line, says(200, message=LEAKY, code="invalid_api_key"), parked),
        both(
            *("200, JSON error 429", line, says(200, code="rate_limit_exceeded")),
            Failure(429, THROTTLED, "error_in_200", tries=1, state="paused", wait=(2, 2)),
        ),
        both("200, HTML", kind, say.plain(200, b"<html>hi</html>", content_type=b"text/html"), bad),
        both("200, empty", "204/205/304", [Send(head + EMPTY)], bad),
        plain(
            "200, no JSON", kind, say.plain(200, b"{ not"), Failure(502, BAD, "upstream_truncated")
        ),
        plain("200, JSON of something else", kind, say.plain(200, {"hello": 1}), bad),
        plain("200, a stream", kind, say.sse(say.EVENTS), bad),
        streamed("200, a completion", kind, say.plain(200, say.completion()), bad),
    ]


def first_events() -> list[Row]:
    """An error event before the commit is as a status error."""
    line = "error event before the commit"

    def event(code: object) -> bytes:
        inner = {"message": SAID, "type": "x", "param": None, "code": code}
        return say.event({"error": inner})

    failed = Failure(502, FAILED, "error_event")
    paused = Failure(429, THROTTLED, "error_event", tries=1, state="paused", wait=(2, 2))
    return [
        streamed("error event first", line, say.sse([event(500)]), failed),
        streamed("error event first, then [DONE]", line, say.sse([event(500), say.DONE]), failed),
        streamed(
            *("error event after the role", line, say.sse([b": hi\n\n", say.ROLE, event(None)])),
            failed,
        ),
        streamed("error event of 429", line, say.sse([event("rate_limit_exceeded")]), paused),
        streamed(
            *("error event of 401", line, say.sse([event("invalid_api_key")])),
            Failure(503, NONE, "error_event", tries=1, state="parked"),
        ),
    ]


def rows() -> list[Row]:
    return [
        *server_errors(),
        *throttled(),
        *accounts(),
        *refusals(),
        *no_answers(),
        *under_200(),
        *first_events(),
    ]
