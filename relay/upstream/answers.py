"""Judges what an upstream answered instead of a completion.

By codes first, where they are unmistakable, then by status. Rules that hold here:
- whatever a client can provoke by its content alone neither strikes an endpoint nor parks a credential at once;
- an upstream's words reach an error only as `PassedThrough`, scrubbed; all others are sentences of ours;
- nothing an upstream sends makes this module raise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from relay.errors import (
    BadUpstreamResponse,
    ModelNotFound,
    NoUpstream,
    PassedThrough,
    UpstreamFailed,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamTimeout,
)
from relay.upstream import errorbody, retry_after
from relay.upstream.errorbody import ErrorBody
from relay.upstream.scrub import Scrubber
from relay.upstream.verdicts import Effect, Failure, Retry

_FREE, _PAID, _NEVER = Retry.FREE, Retry.PAID, Retry.NEVER
_STRIKE = Effect.STRIKE

_QUOTA = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
        # Resellers on new-api and one-api:
        "insufficient_user_quota",
        "pre_consume_token_quota_failed",
    }
)
"""Codes and types that say: this account has no money. Waiting does not help."""
_NO_MONEY = re.compile(r"insufficient (?:account )?balance\.?", re.IGNORECASE)
_ACCOUNT = frozenset(
    {
        "account_deactivated",
        "account_disabled",
        "account_suspended",
        "organization_deactivated",
        "organization_disabled",
        "access_terminated",
        "authentication_error",
        "invalid_api_key",
        "invalid_authentication",
        "mismatched_organization",
    }
)
"""Codes and types that name the account or the key, whatever the call's content was."""
_ACCOUNT_SAID = re.compile(
    r"(?:your|the|this) (?:account|organi[sz]ation|team|project|(?:api[ -]?)?key|token)\b"
    r"[^\"'`]{0,80}\b(?:deactivated|disabled|suspended|banned|blocked|terminated|revoked|expired)\b",
    re.IGNORECASE,
)
"""Matched at the start only: further on an upstream may be quoting the client."""
_BAD_KEY_SAID = re.compile(
    r"(?:incorrect|invalid) api key|api key not valid|api key expired", re.IGNORECASE
)
"""How xAI and Gemini begin a 400 about our key. A client's text could begin so too: it counts as a mere 403."""
_RESELLER = re.compile(r"channel:.*|get_channel_failed", re.DOTALL)
"""new-api codes: the reseller has nobody to send this to. Not the client's fault at any status."""
_THROTTLED = frozenset(
    {"slow_down", "rate_limit_exceeded", "rate_limit_error", "token_concurrency_limit_reached"}
)
_NO_MODEL_SAID = re.compile(
    r"(?:the )?model\b.{0,200}?(?:does not exist|not found|not exist)", re.IGNORECASE | re.DOTALL
)
_NO_MODEL_SAID_400 = re.compile(r"model not exist\.?", re.IGNORECASE)
"""DeepSeek's whole sentence. No more than that: a 400 often quotes what the client wrote."""
_TOO_LONG = re.compile(
    r"maximum context length|context[_ ]length[_ ]exceeded|longer than the model's context length",
    re.IGNORECASE,
)

_STATUS_OF = {
    "invalid_api_key": 401,
    "authentication_error": 401,
    "account_deactivated": 401,
    "mismatched_organization": 401,
    "permission_error": 403,
    "permission_denied": 403,
    "model_not_found": 404,
    "not_found_error": 404,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "slow_down": 429,
    "insufficient_quota": 429,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "server_is_overloaded": 503,
    "service_unavailable_error": 503,
    "overloaded_error": 529,
    "server_error": 500,
    "internal_error": 500,
    "api_error": 500,
    "timeout": 504,
    "timeout_error": 504,
}
"""What an error without a status means. `invalid_request_error` comes last: DeepSeek's 401 has it as its code."""

_PASSED = frozenset({400, 404, 413, 415, 422})
"""Statuses that are the upstream's verdict on the client's own request."""
_SHORT = 128
"""Characters of `type`, `param` and `code`."""


def from_status(
    status: int, headers: Mapping[bytes, bytes], body: bytes, scrub: Scrubber, wall: float
) -> Failure:
    """Judges an answer that is not a 200; `wall` is the Unix time, for a `Retry-After` date."""
    if status < 300 or status == 304:
        return Failure("bad_status", _PAID, _STRIKE, BadUpstreamResponse())
    if status < 400:
        return Failure("redirect", _FREE, _STRIKE, BadUpstreamResponse())
    return _judge(status, errorbody.read(body), retry_after.from_headers(headers, wall), scrub)


def from_error_object(
    error: object, scrub: Scrubber, wall: float, result: str = "error_event"
) -> Failure:
    """Judges the `error` of an event, or of a JSON body under a 200 (`result="error_in_200"`)."""
    said = errorbody.describe(error)
    status = said.status or _STATUS_OF.get(said.code or "") or _STATUS_OF.get(said.type or "")
    if status is None and "invalid_request_error" in (said.code, said.type):
        status = 400
    wait = None
    if said.retry_after is not None:
        wait = retry_after.from_value(said.retry_after.encode("utf-8", "replace"), wall)
    failure = _judge(status or 0, said, wait, scrub)
    failure.result = result
    return failure


def describe(error: object, scrub: Scrubber) -> tuple[str, str | None]:
    """The scrubbed message and code of an upstream's own error event, for the one event that ends a stream."""
    said = errorbody.describe(error)
    return scrub(said.message), _short(said.code, scrub)


def _judge(status: int, said: ErrorBody, wait: float | None, scrub: Scrubber) -> Failure:
    names = (said.code, said.type)
    if status == 402 or not _QUOTA.isdisjoint(names) or _NO_MONEY.fullmatch(said.message):
        return Failure("payment", _FREE, Effect.PARK_ACCOUNT, NoUpstream())
    if said.code is not None and _RESELLER.fullmatch(said.code):
        return Failure("5xx", _PAID, _STRIKE, UpstreamFailed())
    if status == 401:
        return Failure("auth_failed", _FREE, Effect.PARK_CREDENTIAL, NoUpstream())
    if _names_no_model(status, said):
        error = ModelNotFound() if status < 500 else UpstreamFailed()
        return Failure("model_missing", _FREE, Effect.MODEL_ABSENT, error)
    if status == 429 or (status >= 500 and said.code in _THROTTLED):
        wait = retry_after.WITHOUT_VALUE if wait is None else wait
        return Failure("rate_limited", _FREE, Effect.PAUSE, UpstreamRateLimited(wait=wait), wait)
    if status == 403:
        return _forbidden(said)
    if status == 400 and _BAD_KEY_SAID.match(said.message):
        return Failure("auth_failed", _FREE, Effect.FORBIDDEN, NoUpstream())
    if status in _PASSED:
        return Failure("client_error", _NEVER, Effect.NONE, _passed(status, said, scrub))
    return _server_fault(status, wait)


def _names_no_model(status: int, said: ErrorBody) -> bool:
    if said.code == "model_not_found":
        return True
    if status == 404:
        return said.param == "model" or _NO_MODEL_SAID.match(said.message) is not None
    return status == 400 and _NO_MODEL_SAID_400.fullmatch(said.message) is not None


def _forbidden(said: ErrorBody) -> Failure:
    if not _ACCOUNT.isdisjoint((said.code, said.type)) or _ACCOUNT_SAID.match(said.message):
        return Failure("auth_failed", _FREE, Effect.PARK_CREDENTIAL, NoUpstream())
    return Failure("forbidden", _FREE, Effect.FORBIDDEN, NoUpstream())


def _server_fault(status: int, wait: float | None) -> Failure:
    if status in (503, 529):
        effect = _STRIKE if wait is None else Effect.HOLD
        return Failure("5xx", _PAID, effect, UpstreamOverloaded(wait=wait), wait)
    if status in (504, 522, 524):
        return Failure("5xx", _PAID, _STRIKE, UpstreamTimeout())
    if status == 0 or status in (408, 409, 425) or 500 <= status < 600:
        return Failure("5xx", _PAID, _STRIKE, UpstreamFailed())
    if status < 500:
        # A 405 or 451 may be a firewall's opinion of what this client wrote: no strike.
        return Failure("bad_status", _PAID, Effect.NONE, UpstreamFailed())
    return Failure("bad_status", _PAID, _STRIKE, BadUpstreamResponse())


def _passed(status: int, said: ErrorBody, scrub: Scrubber) -> PassedThrough:
    code = _short(said.code, scrub)
    if status == 400 and _TOO_LONG.search(said.message):
        code = "context_length_exceeded"
    return PassedThrough(
        status, scrub(said.message), _short(said.type, scrub), _short(said.param, scrub), code
    )


def _short(text: str | None, scrub: Scrubber) -> str | None:
    return None if text is None else scrub(text, _SHORT)
