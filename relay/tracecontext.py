"""W3C Trace Context: which trace a request belongs to, read strictly, and what an upstream is told of it.

A `traceparent` that is malformed is as if it had not been sent, and takes the `tracestate` with it; nothing of either
raises. Without a `Tracer` what was read travels on unchanged; with one each attempt is a span of its own.
Source: W3C Recommendation "Trace Context", 2021-11-23, with the keys of level 2.
"""

from __future__ import annotations

import re
from secrets import randbits, token_hex
from typing import Final

MAX_STATE: Final = 2048
"""Characters of a tracestate; the recommendation asks for at least 512."""
MAX_MEMBERS: Final = 32

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]{0,200})?")
_MEMBER = re.compile(
    r"[a-z0-9][a-z0-9_*/@-]{0,255}=[ -+\x2d-<>-~]{0,255}[!-+\x2d-<>-~]|",
)


class Parent:
    """The span of the client's that a request belongs to. Immutable."""

    __slots__ = ("lines", "sampled", "span", "state", "trace_id")

    def __init__(
        self, traceparent: str, trace_id: str, span: int, sampled: bool, state: bytes
    ) -> None:
        self.trace_id = trace_id
        """32 hexadecimal digits, as sent."""
        self.span = span
        self.sampled = sampled
        """The client records it, and asks the same of us."""
        self.state = state
        """The line of the tracestate with its CR LF, or nothing."""
        self.lines = b"traceparent: %b\r\n%b" % (traceparent.encode(), state)
        """Both header lines as they came."""


def read(parents: list[str], states: list[str]) -> Parent | None:
    """What the values of all `traceparent` and `tracestate` lines of a request say; None if it belongs to no trace."""
    if len(parents) != 1:
        return None
    match = _PARENT.fullmatch(parents[0])
    if match is None:
        return None
    version, trace_id, span = match[1], match[2], int(match[3], 16)
    if version == "ff" or (version == "00" and match[5] is not None):
        return None
    if span == 0 or int(trace_id, 16) == 0:
        return None
    sampled = bool(int(match[4], 16) & 1)
    return Parent(parents[0], trace_id, span, sampled, _state(states))


def _state(states: list[str]) -> bytes:
    text = ",".join(states)
    if len(text) > MAX_STATE:
        return b""
    members = [member.strip(" \t") for member in text.split(",")]
    if not any(members) or len(members) > MAX_MEMBERS:
        return b""
    if not all(_MEMBER.fullmatch(member) for member in members):
        return b""
    return b"tracestate: %b\r\n" % text.encode()


class Trace:
    """One call that is traced: its own span, and what it tells of itself. Lives as long as the call's record."""

    __slots__ = ("_state", "parent", "span", "trace_id")

    def __init__(self, trace_id: str, parent: int, state: bytes) -> None:
        self.trace_id = trace_id
        self.parent = parent
        """The client's span; 0 when the trace begins with us."""
        self.span = new_span()
        self._state = state

    def lines(self, span: int) -> bytes:
        """The header lines of an attempt whose span this is."""
        return b"traceparent: 00-%b-%016x-01\r\n%b" % (self.trace_id.encode(), span, self._state)


class Tracer:
    """Decides which calls are traced: the samplers that OpenTelemetry's environment variables can name."""

    __slots__ = ("_bound", "_follows")

    def __init__(self, ratio: float = 1.0, *, follows_parent: bool = True) -> None:
        """`ratio` of all traces, by their id; with `follows_parent` of those that begin with us."""
        self._bound = round(ratio * (1 << 64))
        self._follows = follows_parent

    def begin(self, parent: Parent | None) -> Trace | None:
        """The trace of a call that comes in now; None if it is not recorded."""
        if parent is None:
            trace_id = token_hex(16)
            return Trace(trace_id, 0, b"") if self._samples(trace_id) else None
        if not (parent.sampled if self._follows else self._samples(parent.trace_id)):
            return None
        return Trace(parent.trace_id, parent.span, parent.state)

    def _samples(self, trace_id: str) -> bool:
        # The half of the id that OpenTelemetry's own sampler looks at, so that all of them choose the same traces.
        return int(trace_id[16:], 16) < self._bound


def new_span() -> int:
    """The id of a span: 64 bits, never zero."""
    return randbits(64) or 1
