"""What a row of the matrix is: a fault, and what must come of it.

A fault is played in two modes (a streamed call, a plain one) and two settings (with a healthy second member, alone).
What must come of it is one of three: `Failure` before the commit, `Break` after it, `Whole` when it is no failure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.rig import scripts as say
from tests.rig.scripts import Script

Mode = Literal["stream", "plain"]
Setting = Literal["with second", "alone"]
State = Literal["closed", "open", "half_open", "paused", "parked"]

MODES: tuple[Mode, ...] = ("stream", "plain")
SETTINGS: tuple[Setting, ...] = ("with second", "alone")

Play = Script | Callable[[int], Script]
"""What the upstream says; to the n-th request of a case, counted from 0, where it differs."""

SECRET = "sk-upstream-secret-7Qx9"
"""The upstream's own key: what no client may ever see."""

BAD = "bad_upstream_response"
DOWN = "upstream_unreachable"
FAILED = "upstream_error"
NONE = "no_upstream_available"
BUSY = "upstream_overloaded"
THROTTLED = "upstream_rate_limited"
BROKE = "upstream_stream_error"

SHORT = "300ms"
"""The patience with an upstream that stalls."""


@dataclass(frozen=True, slots=True)
class Failure:
    """It fails before the commit."""

    status: int
    code: str | None
    """The client's answer when nobody else is there."""
    result: str
    """How the attempt is labelled."""
    tries: int = 2
    """Attempts at it when it is alone: the last member is tried once more, where that can help."""
    state: State = "closed"
    """What is remembered of the endpoint afterwards."""
    wait: tuple[int, int] | None = None
    """Between how many seconds the promised wait lies."""
    elsewhere: bool = True
    """Another member may be asked; otherwise the client's answer is the same with one."""
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Break:
    """It fails after the commit: the failure is told, and nobody else is asked."""

    code: str
    """Of the one error event."""
    cause: str
    seen: tuple[bytes, ...] = say.EVENTS[:3]
    """The events before it."""
    message: str | None = None
    """Of the error event, where it is the upstream's own."""
    source: str = "estimated"
    tokens: tuple[int, int] | None = None
    """Input and output as billed; None: estimated from what was delivered."""


@dataclass(frozen=True, slots=True)
class Whole:
    """The answer is whole, and nothing was tried again."""

    stream: bytes = b"".join(say.EVENTS)
    plain: bytes | None = None
    """The exact body; None: that of the usual completion."""
    cause: str = "done"
    result: str = "ok"
    before: tuple[str, ...] = ()
    """Attempts that came first, of the same member."""
    reported: bool = True
    """A plain answer tells its usage; streams of the tables do not, unless this is what they are about."""
    stream_usage: tuple[int, int] | None = None


Must = Failure | Break | Whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    name: str
    group: str
    """The line of the fault matrix."""
    must: Must
    stream: Play | None = None
    """What a streamed call meets; None: there is no such fault for streams."""
    plain: Play | None = None
    place: str = "scripted"
    """Where the upstream is: a place of `places.py`."""
    calls: int = 1
    """Calls made one after the other; the last one is looked at."""
    first: Must | None = None
    """What must come of the calls before it when it is alone, where it is not the same."""
    both: bool = False
    """The second member has the same fault."""
    left_out: bool = False
    """By the last call the faulty one is left alone as long as there is a second."""
    left_as: State | None = None
    """What is remembered of the faulty one then, where it is not what is remembered of it alone."""
    unheard: bool = False
    """The upstream never gets the request."""
    timeouts: Mapping[str, str] = field(default_factory=dict)
    connections: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Of the call's body."""

    def play(self, mode: Mode) -> Play | None:
        return self.stream if mode == "stream" else self.plain


def both(name: str, group: str, play: Play, must: Must, **more: Any) -> Row:
    """The same fault for streamed and plain calls."""
    return Row(name=name, group=group, stream=play, plain=play, must=must, **more)


def streamed(name: str, group: str, play: Play, must: Must, **more: Any) -> Row:
    return Row(name=name, group=group, stream=play, must=must, **more)


def plain(name: str, group: str, play: Play, must: Must, **more: Any) -> Row:
    return Row(name=name, group=group, plain=play, must=must, **more)


def in_turn(*scripts: Script) -> Play:
    """The n-th script to the n-th request; the last one from there on."""
    return lambda number: scripts[min(number, len(scripts) - 1)]
