"""Whole bodies that are no stream: an answer, an error, or neither.

Decoding a body proves that all of it is JSON; of its content only `error`, `choices` and `usage` are built.
"""

from __future__ import annotations

import msgspec

from relay.shapes import Answer, StrangeAnswer, decode_answer, decode_strange_answer
from relay.upstream import failures
from relay.upstream.failures import Failure, Scrubber
from relay.upstream.headers import ResponseHead
from relay.usage import Usage, read_usage


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
    answer: Answer | StrangeAnswer
    usage: Usage | None = None
    try:
        try:
            answer = decode_answer(body)
            if answer.usage is not None:
                usage = answer.usage.believed()
        except msgspec.ValidationError:
            answer = decode_strange_answer(body)
            usage = read_usage(answer.usage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        cut = head.content_type.endswith(b"json") and body.strip()
        return failures.truncated() if cut else failures.bad_content_type()
    if answer.error is not None:
        return failures.from_error_object(answer.error, scrub, wall, result="error_in_200")
    if streamed or not answer.choices:
        return failures.bad_content_type()
    return usage
