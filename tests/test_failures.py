"""Faults of the wire, and ends of streams: how safe another try is, whom they strike, what the client gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest

from relay.records import Cause
from relay.upstream import failures
from relay.upstream.failures import Effect, Failure, Retry, Verdict, by_fault, of_end, verdict_of

FREE, PAID, NEVER = Retry.FREE, Retry.PAID, Retry.NEVER
STRIKE = Effect.STRIKE

UNREACHABLE = (502, "upstream_unreachable")
UNUSABLE = (502, "bad_upstream_response")
TIMED_OUT = (504, "timeout")


@pytest.mark.parametrize(
    ("make", "result", "retry", "effect", "answer"),
    [
        (failures.connect_refused, "connect_refused", FREE, STRIKE, UNREACHABLE),
        (failures.connect_timeout, "connect_timeout", FREE, STRIKE, UNREACHABLE),
        (failures.dns_error, "dns_error", FREE, STRIKE, UNREACHABLE),
        (failures.tls_error, "tls_error", FREE, STRIKE, UNREACHABLE),
        (failures.reset_before_headers, "reset_before_headers", PAID, STRIKE, UNREACHABLE),
        (failures.stale_conn, "stale_conn", FREE, Effect.NONE, UNREACHABLE),
        (failures.reset_before_first_event, "reset_before_first_event", PAID, STRIKE, UNUSABLE),
        (failures.first_token_timeout, "first_token_timeout", PAID, STRIKE, TIMED_OUT),
        (failures.answer_timeout, "first_token_timeout", PAID, STRIKE, TIMED_OUT),
        (failures.bad_framing, "bad_framing", PAID, STRIKE, UNUSABLE),
        (failures.bad_content_type, "bad_content_type", PAID, STRIKE, UNUSABLE),
        (failures.bad_status, "bad_status", PAID, STRIKE, UNUSABLE),
        (failures.redirect, "redirect", FREE, STRIKE, UNUSABLE),
        (failures.truncated, "upstream_truncated", PAID, STRIKE, UNUSABLE),
        (failures.empty_stream, "upstream_truncated", PAID, STRIKE, UNUSABLE),
        (failures.line_too_long, "line_too_long", PAID, STRIKE, UNUSABLE),
        (failures.encoded, "encoded", PAID, STRIKE, UNUSABLE),
    ],
)
def test_each_fault_of_the_wire_has_its_row(
    make: Callable[[], Failure],
    result: str,
    retry: Retry,
    effect: Effect,
    answer: tuple[int, str],
) -> None:
    failure = make()

    assert (failure.result, failure.retry, failure.effect) == (result, retry, effect)
    assert (failure.error.status, failure.error.code) == answer
    assert failure.error.wait is None
    assert failure.wait is None


def test_each_failure_has_an_error_of_its_own() -> None:
    first, second = failures.connect_refused(), failures.connect_refused()

    assert first.error is not second.error


@pytest.mark.parametrize(
    "fault",
    [
        "connect_refused",
        "connect_timeout",
        "dns_error",
        "tls_error",
        "stale_conn",
        "bad_framing",
        "reset_before_headers",
        "reset_before_first_event",
    ],
)
def test_a_fault_that_the_wire_reports_is_found_by_its_label(fault: str) -> None:
    assert by_fault(fault).result == fault


@pytest.mark.parametrize(
    ("fault", "result"),
    [("truncated", "upstream_truncated"), ("reset", "reset_before_first_event")],
)
def test_a_broken_body_before_the_commit_has_the_label_of_the_table(
    fault: str, result: str
) -> None:
    assert by_fault(fault).result == result


@pytest.mark.parametrize("cause", ["done", "done_missing"])
def test_a_complete_stream_is_a_success(cause: Cause) -> None:
    result, failure = of_end(cause)

    assert (result, failure) == ("ok", None)
    assert verdict_of(result, failure) is Verdict.OK


@pytest.mark.parametrize(
    "cause", ["client_gone", "write_stall", "drain", "revoked", "total_timeout", None]
)
def test_a_stream_that_the_upstream_did_not_end_says_nothing_about_it(cause: Cause | None) -> None:
    result, failure = of_end(cause)

    assert (result, failure) == ("cancelled", None)
    assert verdict_of(result, failure) is Verdict.NONE


@pytest.mark.parametrize(
    "cause",
    [
        "idle_timeout",
        "upstream_reset",
        "upstream_truncated",
        "bad_framing",
        "line_too_long",
        "error_event",
        "encoded",
    ],
)
def test_a_stream_that_the_upstream_broke_is_a_strike_and_never_tried_again(cause: Cause) -> None:
    result, failure = of_end(cause)

    assert failure is not None
    assert (result, failure.result, failure.retry) == (cause, cause, NEVER)
    assert verdict_of(result, failure) is Verdict.FAILED


def test_every_cause_of_an_end_is_judged() -> None:
    judged = {cause: of_end(cause)[0] for cause in get_args(Cause)}

    assert set(judged.values()) - {"ok", "cancelled"} == {
        cause for cause, result in judged.items() if result == cause
    }
