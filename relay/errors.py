"""Every error a client can meet, as one class each, and the one place that renders them.

An error knows its answer: status, OpenAI `type`, `code`, `param`, the wait it may promise and the
outcome it counts as. Messages are sentences of ours: never a key, a prompt, a header or an upstream's body
(`PassedThrough` alone carries an upstream's words, scrubbed before they get here).
Source of the table: the OpenAI error catalogue and what the official SDKs do with it.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import msgspec

Outcome = Literal[
    "ok",
    "client_error",
    "rate_limited",
    "overloaded",
    "upstream_error",
    "timeout",
    "stream_truncated",
    "client_cancelled",
    "degraded",
]
"""How a call ended, as metrics, log and ledger name it."""

LONGEST_RETRIED_WAIT = 60.0
"""Seconds. Above it node SDKs ignore the wait and python SDKs may give up: we say `x-should-retry: false`."""

_encode = msgspec.json.Encoder().encode


class RelayError(Exception):
    """An error answer. `wait` is in seconds, None when no honest wait is known."""

    status: int = 500
    type: str = "server_error"
    code: str | None = None
    outcome: Outcome = "client_error"
    key: str | None = None
    """Whose key it was, where the error itself must tell the log."""
    reason: str | None = None
    """The label of `relay_refused_total`: a limit's name, `unpriced`, `queue`, `overload`, `store`."""
    default: ClassVar[str] = "The relay failed to answer this request."

    def __init__(
        self, message: str | None = None, *, param: str | None = None, wait: float | None = None
    ) -> None:
        super().__init__(message or self.default)
        self.message = message or self.default
        self.param = param
        self.wait = wait

    def body(self) -> bytes:
        """The OpenAI error object, all four keys present."""
        return _encode({"error": self.as_object()})

    def as_object(self) -> dict[str, str | None]:
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code}

    def headers(self) -> bytes:
        """Header lines that belong to this error: the wait, and whether an SDK should retry."""
        status = self.status
        if status < 500 and status not in (408, 429):
            return b""
        wait = self.wait
        if wait is None or not math.isfinite(wait):
            return b"x-should-retry: false\r\n"
        # The milliseconds round up, so that a client which waits exactly so long is never early;
        # a zero would be a hot loop in the node SDK.
        ms = max(1, math.ceil(wait * 1000))
        retry = b"true" if wait <= LONGEST_RETRIED_WAIT else b"false"
        return b"retry-after: %d\r\nretry-after-ms: %d\r\nx-should-retry: %s\r\n" % (
            -(-ms // 1000),
            ms,
            retry,
        )


class InvalidRequest(RelayError):
    """The client's own fault; the base of all 4xx that a retry cannot mend."""

    status = 400
    type = "invalid_request_error"
    default = "The request is not valid."


class BadField(InvalidRequest):
    """A field we act on is missing, of the wrong type, out of range or given twice: say `param`."""


class BadJson(InvalidRequest):
    default = "We could not parse the JSON body of your request."


class NoKey(InvalidRequest):
    status = 401
    default = (
        "You didn't provide an API key: send it in the header 'Authorization: Bearer YOUR_KEY'."
    )


class InvalidKey(InvalidRequest):
    status = 401
    code = "invalid_api_key"
    default = "Incorrect API key provided."


class KeyRevoked(InvalidRequest):
    """The key was good when the call came, and is gone."""

    status = 401
    code = "key_revoked"
    default = "This API key has been revoked."


class AddressNotAllowed(InvalidRequest):
    status = 401
    code = "ip_not_authorized"
    default = "This API key may not be used from your address."


class ModelNotFound(InvalidRequest):
    """Unknown and forbidden models get the same answer: there is nothing to enumerate."""

    status = 404
    code = "model_not_found"
    default = "The model does not exist or you do not have access to it."

    def __init__(self, model: str | None = None) -> None:
        text = None
        if model is not None:
            text = f"The model `{model[:128]}` does not exist or you do not have access to it."
        super().__init__(text, param="model")


class ModelNotPriced(InvalidRequest):
    """A key with a limit in dollars asks for a model of which nobody has said what it costs."""

    status = 403
    code = "model_not_priced"
    reason = "unpriced"
    default = "The model has no price here, and your key has a limit in US dollars."

    def __init__(self, model: str) -> None:
        text = (
            f"The model `{model[:128]}` has no price here, and your key has a limit in US dollars."
        )
        super().__init__(text, param="model")


class UnsupportedContentType(InvalidRequest):
    code = "unsupported_content_type"
    default = "Unsupported content type: this API method only accepts 'application/json' requests."


class UnsupportedContentEncoding(InvalidRequest):
    status = 415
    code = "unsupported_content_encoding"
    default = "Request bodies must not be compressed: send them without Content-Encoding."


class BodyTooLarge(InvalidRequest):
    status = 413
    code = "request_too_large"
    default = "The request body is larger than this server accepts."


class RequestTimeout(InvalidRequest):
    status = 408
    code = "request_timeout"
    default = "The request was not received completely in time."


class UnknownUrl(InvalidRequest):
    status = 404
    default = "Invalid URL."


class MethodNotSupported(InvalidRequest):
    status = 405
    code = "method_not_supported"

    def __init__(self, allow: str) -> None:
        super().__init__(f"This URL accepts only: {allow}.")
        self.allow = allow

    def headers(self) -> bytes:
        return b"allow: %s\r\n" % self.allow.encode("ascii")


class MalformedRequest(InvalidRequest):
    """What the HTTP parser refuses."""

    code = "bad_request"
    default = "The request is not valid HTTP."


class VersionNotSupported(InvalidRequest):
    status = 505
    default = "Only HTTP/1.1 and HTTP/1.0 are served here."


class ExpectationFailed(InvalidRequest):
    status = 417
    default = "Unknown expectation: only 100-continue is understood."


class LoopDetected(InvalidRequest):
    status = 508
    code = "loop_detected"
    default = "This request has already passed through this relay."


class RateLimited(RelayError):
    """A rate of the key (`rpm`, `tpm`, `concurrent`) is reached; `limit` is its name."""

    status = 429
    code = "rate_limit_exceeded"
    outcome = "rate_limited"

    def __init__(self, limit: str, message: str, wait: float | None) -> None:
        super().__init__(message, wait=wait)
        self.reason = limit
        self.type = "tokens" if limit == "tpm" else "requests"


class BudgetSpent(RelayError):
    """A budget of the key (per day, per month) is spent, or could never hold this call."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"
    outcome = "rate_limited"

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(message)
        self.reason = limit


class Overloaded(RelayError):
    """The queue of the upstream is full, or this relay itself is short of something."""

    status = 503
    type = "service_unavailable_error"
    code = "server_is_overloaded"
    outcome = "overloaded"
    default = "The server is overloaded, please try again later."

    def __init__(self, reason: str = "overload", wait: float | None = 1.0) -> None:
        super().__init__(wait=wait)
        self.reason = reason


class StoreUnavailable(RelayError):
    status = 503
    code = "quota_store_unavailable"
    outcome = "overloaded"
    reason = "store"
    default = "Your quota cannot be checked at the moment, please try again later."

    def __init__(self) -> None:
        super().__init__(wait=5.0)


class NoUpstream(RelayError):
    """Nothing usable: every member is parked, paused, ejected or lost."""

    status = 503
    code = "no_upstream_available"
    outcome = "upstream_error"
    default = "No upstream is available for this model at the moment."


class UpstreamOverloaded(RelayError):
    status = 503
    code = "upstream_overloaded"
    outcome = "upstream_error"
    default = "The upstream is overloaded, please try again later."


class UpstreamRateLimited(RelayError):
    status = 429
    type = "rate_limit_error"
    code = "upstream_rate_limited"
    outcome = "upstream_error"
    default = "The upstreams of this model are throttled at the moment."


class UpstreamUnreachable(RelayError):
    status = 502
    code = "upstream_unreachable"
    outcome = "upstream_error"
    default = "The upstream could not be reached."


class UpstreamFailed(RelayError):
    status = 502
    code = "upstream_error"
    outcome = "upstream_error"
    default = "The upstream failed to answer."


class BadUpstreamResponse(RelayError):
    status = 502
    code = "bad_upstream_response"
    outcome = "upstream_error"
    default = "The upstream sent an unusable answer."


class UpstreamTimeout(RelayError):
    status = 504
    code = "timeout"
    outcome = "timeout"
    default = "The upstream did not answer in time."


class PassedThrough(RelayError):
    """An upstream's verdict on the client's own request (400, 404, 413, 415, 422), scrubbed."""

    def __init__(
        self, status: int, message: str, type: str | None, param: str | None, code: str | None
    ) -> None:
        super().__init__(message or "The upstream refused this request.", param=param)
        self.status = status
        self.type = type or "invalid_request_error"
        self.code = code


class InternalError(RelayError):
    """A bug of ours: the one error whose cause is in the log and nowhere else."""

    code = "internal_error"
    outcome = "upstream_error"
    default = "The relay had an internal error."


def error_event(message: str, code: str | None, type: str = "server_error") -> bytes:
    """The one in-band event after which a committed stream ends broken: SDKs raise on it.

    The message is never empty: an empty `error` object is not raised by the python SDK.
    """
    error = {"message": message or "error", "type": type, "param": None, "code": code}
    return b"data: " + _encode({"error": error}) + b"\n\n"
