"""What an upstream says went wrong: the many shapes of error bodies, brought into one.

Read shapes: OpenAI's nested object, flat bodies (SGLang), `{"error": "text"}` (vLLM's 401, Ollama), FastAPI's
`{"detail": …}`, and an array around any of them (Gemini). Nothing here raises, whatever an upstream sends: HTML, cut
JSON, wrong types and deep nesting are a body that says nothing. What is found is *not* scrubbed yet.
"""

from __future__ import annotations

import msgspec

LARGEST = 256 * 1024
"""Bytes. A larger body is no error object; decoding it would only hold up the loop."""
_FEW = 5
"""Entries of a validation report that are worth telling."""

_decode = msgspec.json.Decoder().decode


class ErrorBody:
    """An upstream's words, normalised: empty strings and wrong types are None (`message`: the empty string)."""

    __slots__ = ("code", "message", "param", "retry_after", "status", "type")

    def __init__(
        self,
        message: str = "",
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        retry_after: str | None = None,
    ) -> None:
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.status = status
        """The HTTP status the object itself names (an int `code`, Azure's `status`), 400-599."""
        self.retry_after = retry_after


def read(body: bytes) -> ErrorBody:
    """The error of a whole response body."""
    if not body or len(body) > LARGEST:
        return ErrorBody()
    try:
        root = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ErrorBody()
    if isinstance(root, list) and root:
        root = root[0]
    if not isinstance(root, dict):
        return ErrorBody()
    error = root.get("error")
    if error is not None:
        return describe(error)
    if "detail" in root:
        return _detail(root["detail"])
    return describe(root)


def describe(error: object) -> ErrorBody:
    """The error that the value of an `error` key stands for."""
    if isinstance(error, str):
        return ErrorBody(error)
    if not isinstance(error, dict):
        return ErrorBody()
    code = error.get("code")
    message = error.get("message")
    return ErrorBody(
        message if isinstance(message, str) else "",
        _text(error.get("type")),
        _text(error.get("param")),
        _text(code),
        _status(code) or _status(error.get("status")) or _status(error.get("status_code")),
        _text(error.get("retry_after")),
    )


def _detail(detail: object) -> ErrorBody:
    """FastAPI: a sentence, an object of our shape, or a list of `{loc, msg}`."""
    if not isinstance(detail, list):
        return describe(detail)
    lines = []
    for entry in detail[:_FEW]:
        if isinstance(entry, dict) and isinstance(entry.get("msg"), str):
            place = entry.get("loc")
            where = ".".join(str(step) for step in place) if isinstance(place, list) else ""
            lines.append(f"{where}: {entry['msg']}" if where else entry["msg"])
    return ErrorBody("; ".join(lines))


def _text(value: object) -> str | None:
    """A non-empty string, or an integer as the SDKs show it; anything else is nothing."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value else None


def _status(value: object) -> int | None:
    if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
        return value
    return None
