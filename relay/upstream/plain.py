"""Whole bodies that are no stream: an answer, an error, or neither.

Decoding a body proves that all of it is JSON; of its content only `error`, `choices` and `usage` are built.
"""

from __future__ import annotations

import msgspec

from relay.upstream import failures
from relay.upstream.failures import Failure, Scrubber
from relay.upstream.headers import ResponseHead
from relay.usage import ChatUsage, Usage, read_usage


class _Answer(msgspec.Struct, gc=False):
    error: object = None
    usage: ChatUsage | None = None
    choices: msgspec.Raw = msgspec.Raw()


class _StrangeAnswer(msgspec.Struct, gc=False):
    """The same, with a usage of any shape."""

    error: object = None
    usage: object = None
    choices: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Answer).decode
_decode_strange = msgspec.json.Decoder(_StrangeAnswer).decode


def judge(
    head: ResponseHead, body: bytes, scrub: Scrubber, wall: float, *, streamed: bool
) -> Failure | Usage | None:
    """The failure that a body is, or the usage that an answer reports (None: it reports none).

    `wall` is the Unix time, for a `Retry-After` date. `streamed`: the caller asked for a stream, so that no whole body
    can be the answer.
    """
    if head.status != 200:
        return failures.from_status(head.status, head.headers, body, scrub, wall)
    if head.content_type == b"text/event-stream":
        return failures.bad_content_type()
    answer: _Answer | _StrangeAnswer
    usage: Usage | None = None
    try:
        try:
            answer = _decode(body)
            if answer.usage is not None:
                usage = answer.usage.believed()
        except msgspec.ValidationError:
            answer = _decode_strange(body)
            usage = read_usage(answer.usage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        cut = head.content_type.endswith(b"json") and body.strip()
        return failures.truncated() if cut else failures.bad_content_type()
    if answer.error is not None:
        return failures.from_error_object(answer.error, scrub, wall, result="error_in_200")
    if streamed or not answer.choices:
        return failures.bad_content_type()
    return usage
