"""Every way an attempt can fail, and the three answers each failure carries.

How safe is another try (`Retry`), what is it a sign of (`Effect`), and what does the client get if it was the last
(`error`). Faults of the wire stand here, one row each; what an upstream *answered* is judged in `answers`. Users of
either import this module.
"""

from __future__ import annotations

from collections.abc import Callable

from relay.errors import (
    BadUpstreamResponse,
    Overloaded,
    RelayError,
    UpstreamFailed,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from relay.records import Cause
from relay.upstream.answers import describe, from_error_object, from_status
from relay.upstream.scrub import Scrubber
from relay.upstream.verdicts import CANCELLED, OK, Effect, Failure, Retry, Verdict

__all__ = [
    "CANCELLED",
    "OK",
    "Effect",
    "Failure",
    "Retry",
    "Scrubber",
    "Verdict",
    "by_fault",
    "describe",
    "from_error_object",
    "from_status",
    "of_end",
    "verdict_of",
]


def _wire(
    result: str, retry: Retry, effect: Effect, error: type[RelayError]
) -> Callable[[], Failure]:
    def failure() -> Failure:
        return Failure(result, retry, effect, error())

    return failure


_FREE, _PAID, _NEVER = Retry.FREE, Retry.PAID, Retry.NEVER
_STRIKE = Effect.STRIKE

connect_refused = _wire("connect_refused", _FREE, _STRIKE, UpstreamUnreachable)
connect_timeout = _wire("connect_timeout", _FREE, _STRIKE, UpstreamUnreachable)
no_descriptor = _wire("no_descriptor", _FREE, Effect.NONE, Overloaded)
dns_error = _wire("dns_error", _FREE, _STRIKE, UpstreamUnreachable)
tls_error = _wire("tls_error", _FREE, _STRIKE, UpstreamUnreachable)
reset_before_headers = _wire("reset_before_headers", _PAID, _STRIKE, UpstreamUnreachable)
reset_before_first_event = _wire("reset_before_first_event", _PAID, _STRIKE, BadUpstreamResponse)
stale_conn = _wire("stale_conn", _FREE, Effect.NONE, UpstreamUnreachable)
first_token_timeout = _wire("first_token_timeout", _PAID, _STRIKE, UpstreamTimeout)
answer_timeout = _wire("first_token_timeout", _PAID, _STRIKE, UpstreamTimeout)
hurried = _wire("first_token_timeout", _PAID, Effect.NONE, UpstreamTimeout)
hurried_dial = _wire("connect_timeout", _FREE, Effect.NONE, UpstreamUnreachable)
"""Silence that only this client found too long: whoever asks for 1 ms must not eject an upstream for the others."""
outrun = _wire("cancelled", _NEVER, Effect.OUTRUN, UpstreamTimeout)
bad_framing = _wire("bad_framing", _PAID, _STRIKE, BadUpstreamResponse)
bad_content_type = _wire("bad_content_type", _PAID, _STRIKE, BadUpstreamResponse)
bad_status = _wire("bad_status", _PAID, _STRIKE, BadUpstreamResponse)
redirect = _wire("redirect", _FREE, _STRIKE, BadUpstreamResponse)
truncated = _wire("upstream_truncated", _PAID, _STRIKE, BadUpstreamResponse)
empty_stream = _wire("upstream_truncated", _PAID, _STRIKE, BadUpstreamResponse)
line_too_long = _wire("line_too_long", _PAID, _STRIKE, BadUpstreamResponse)
encoded = _wire("encoded", _PAID, _STRIKE, BadUpstreamResponse)

_reset = _wire("upstream_reset", _NEVER, _STRIKE, UpstreamFailed)
_silent = _wire("idle_timeout", _NEVER, _STRIKE, UpstreamTimeout)
_slow = _wire("slow_stream", _NEVER, _STRIKE, UpstreamTimeout)
_cut = _wire("upstream_truncated", _NEVER, _STRIKE, BadUpstreamResponse)
_garbled = _wire("bad_framing", _NEVER, _STRIKE, BadUpstreamResponse)
_overlong = _wire("line_too_long", _NEVER, _STRIKE, BadUpstreamResponse)
_undecoded = _wire("encoded", _NEVER, _STRIKE, BadUpstreamResponse)
_broke = _wire("error_event", _NEVER, _STRIKE, UpstreamFailed)

_BY_FAULT = {
    "connect_refused": connect_refused,
    "connect_timeout": connect_timeout,
    "dns_error": dns_error,
    "no_descriptor": no_descriptor,
    "tls_error": tls_error,
    "reset_before_headers": reset_before_headers,
    "reset_before_first_event": reset_before_first_event,
    "stale_conn": stale_conn,
    "bad_framing": bad_framing,
    "truncated": truncated,
    "reset": reset_before_first_event,
}

_AFTER_COMMIT: dict[str, Callable[[], Failure]] = {
    "upstream_reset": _reset,
    "idle_timeout": _silent,
    "slow_stream": _slow,
    "upstream_truncated": _cut,
    "bad_framing": _garbled,
    "line_too_long": _overlong,
    "encoded": _undecoded,
    "error_event": _broke,
}


def by_fault(fault: str) -> Failure:
    """The failure that a dial or a connection reports by its label, before the commit."""
    return _BY_FAULT[fault]()


def of_end(cause: Cause | None) -> tuple[str, Failure | None]:
    """The result and the failure of an attempt whose committed stream ended by `cause`."""
    if cause in ("done", "done_missing"):
        return OK, None
    make = None if cause is None else _AFTER_COMMIT.get(cause)
    if make is None:
        # The client, its reading, or we ourselves (drain, `total`) ended it: the upstream did nothing wrong.
        return CANCELLED, None
    failure = make()
    return failure.result, failure


def verdict_of(result: str, failure: Failure | None) -> Verdict:
    """What an attempt that ended so says about its endpoint."""
    if failure is not None:
        return failure.verdict
    return Verdict.OK if result == OK else Verdict.NONE
