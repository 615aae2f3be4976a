"""How a committed answer may end: by which limits, with which words, and who is told.

`Stream` and `Passage` share it.
"""

from __future__ import annotations

from typing import Final, Protocol

from relay.records import Cause

MESSAGES: dict[Cause, tuple[str, str]] = {
    "idle_timeout": ("The upstream stopped sending before the answer was complete.", "timeout"),
    "slow_stream": ("The upstream sent nothing but scraps for too long.", "timeout"),
    "total_timeout": ("The answer took longer than this server allows.", "timeout"),
    "revoked": ("The API key was revoked; the answer is not complete.", "key_revoked"),
    "drain": ("The server is shutting down; the answer is not complete.", "server_shutting_down"),
}
BROKEN = ("The upstream failed before the answer was complete.", "upstream_stream_error")

CAUSES: Final[dict[str, Cause]] = {
    "truncated": "upstream_truncated",
    "bad_framing": "bad_framing",
}
"""What a connection reports, as the ending is called; anything else is a reset."""

KEEP_ALIVE: Final = b": keep-alive\n\n"
"""The one thing that OpenAI SDKs safely ignore."""


class Ending(Protocol):
    """Who started the stream and must settle it."""

    def stream_ended(self, cause: Cause) -> None:
        """Called once. The client has been told already."""


class Committed:
    """An answer that has its head, and goes on to the client."""

    __slots__ = ()

    def headed(self, head: object) -> None:
        raise AssertionError("it has its head")

    def whole(self, head: object, body: bytes) -> None:
        raise AssertionError("it has its head")


class Limits:
    """Seconds of silence and patience, from the snapshot that the call started with."""

    __slots__ = ("heartbeat", "idle", "total_deadline", "write_stall")

    def __init__(
        self, idle: float, total_deadline: float, write_stall: float, heartbeat: float
    ) -> None:
        self.idle = idle
        self.total_deadline = total_deadline
        self.write_stall = write_stall
        self.heartbeat = heartbeat
