"""A committed stream that another upstream may continue when the first one breaks it.

Every event of it is looked into, which costs some microseconds each: only routes with `resume` have such streams. While
the successor is asked the client gets the usual signs of life; when nobody can go on, the stream ends as any other
that broke.
"""

from __future__ import annotations

from math import inf
from typing import Protocol

from relay.endings import Limits
from relay.records import Cause
from relay.resume import Transcript, is_an_echo
from relay.sse import Event, EventSplitter, Kind, classify
from relay.stream import Stream
from relay.upstream.encoding import Inflater
from relay.upstream.wire import Connection


class Resumer(Protocol):
    """Who knows whether and how to go on."""

    def may_continue(self, cause: Cause) -> bool:
        """The upstream broke the stream by `cause`: whether another one can be asked for the rest."""

    def continue_after(self, cause: Cause) -> None:
        """Asks it. `go_on` or `break_off` follows."""


class ResumableStream(Stream):
    """Dies at its last end; between two upstreams it has no connection."""

    __slots__ = ("_awaits", "_begins", "_patience", "_resumer", "transcript")

    _resumer: Resumer
    _awaits: bool
    """A successor has been asked."""
    _begins: bool
    """The successor has not said anything that the client does not know yet."""
    _patience: Limits
    """Those that hold while there is an upstream; kept while none is."""
    transcript: Transcript

    def listens_to(self, resumer: Resumer) -> None:
        """Before it begins: who is asked when it breaks."""
        self._resumer = resumer
        self._awaits = False
        self._begins = False
        self.transcript = Transcript()

    def go_on(
        self,
        events: list[Event],
        connection: Connection,
        splitter: EventSplitter,
        inflater: Inflater | None,
    ) -> None:
        """The successor has committed."""
        self._awaits = False
        self._begins = True
        self._limits = self._patience
        self._connection = connection
        self._splitter = splitter
        self._inflater = inflater
        connection.receiver = self
        out = self._pass_events(events)
        if out:
            self._client.send(self._framed(out))
        self._after()
        if not self.over and not self._awaits:
            self._wheel.drop(self)
            self._wheel.add(self, self._next_deadline(self.last))
            if self._client.choked:
                self.pause()

    # -- inside --

    def _pass_raw(self, raw: list[bytes]) -> bytes:
        return self._pass_events([classify(event) for event in raw])

    def _pass_events(self, events: list[Event]) -> bytes:
        out: list[bytes] = []
        for event in events:
            if self.over or self.done or self._awaits:
                break
            self._pass(event, out)
        return b"".join(out)

    def _pass(self, event: Event, out: list[bytes]) -> None:
        transcript = self.transcript
        if event.kind == Kind.ERROR:
            if self._resumer.may_continue("error_event"):
                if out:
                    self._client.send(self._framed(b"".join(out)))
                    out.clear()
                self._suspend("error_event")
            else:
                super()._pass(event, out)
            return
        if not transcript.resumed:
            if event.kind != Kind.COMMENT:
                transcript.add(event)
            super()._pass(event, out)
            return
        if self._begins:
            if is_an_echo(event):
                return
            self._begins = event.kind == Kind.COMMENT
        event.raw = transcript.rewritten(event)
        super()._pass(event, out)
        if event.usage is not None:
            self.usage = transcript.sum(event.usage)

    def _after(self) -> None:
        if not self._awaits:
            super()._after()
            self._slow = True

    def _fail(self, cause: Cause) -> None:
        if self._resumer.may_continue(cause):
            self._suspend(cause)
        else:
            super()._fail(cause)

    def _suspend(self, cause: Cause) -> None:
        """Lets go of the upstream that broke, and asks another."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.receiver is self:
            connection.close()
        self._awaits = True
        self._stalled = 0.0
        limits = self._patience = self._limits
        # Silence is nobody's now: the successor has a deadline of its own.
        self._limits = Limits(inf, limits.total_deadline, limits.write_stall, limits.heartbeat)
        self._wheel.drop(self)
        self._wheel.add(self, self._next_deadline(self.last))
        self._resumer.continue_after(cause)
