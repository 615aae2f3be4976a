"""What becomes of a call whose client leaves: upstreams are told at once, or read on where the key pays for all of it.

With `abort_billing: drain` an upstream that works on the call goes on, up to a cap, as if somebody listened: what it
reports at the end is billed. `Nobody` is who listens. At the cap it is let go, and what was counted by then is billed.
"""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final

from relay.call import Call
from relay.opening import Opening
from relay.passage import Passage
from relay.records import Cause
from relay.snapshot import Snapshot
from relay.stream import Stream
from relay.upstream import failures
from relay.upstream.attempt import Attempt

if TYPE_CHECKING:
    from relay.proxy import Proxy

LONGEST: Final = 60.0
"""Seconds that an answer is read on."""
MOST_EVENTS: Final = 4096
"""Events of a stream that are read on: about as many tokens."""
LOOK: Final = 0.5
"""Seconds between two looks at whether it is enough."""


class Nobody:
    """Stands in for the client. Implements `call.Client`."""

    __slots__ = ("_events", "_until", "choked", "unheard")

    def __init__(self, now: float, *, unheard: bool) -> None:
        self.choked = False
        self.unheard = unheard
        """The client had got nothing when it left."""
        self._until = now + LONGEST
        self._events = 0

    def send(self, data: bytes) -> None:
        self._events += data.count(b"\n\n")

    def end(self, keep_alive: bool) -> None:
        pass

    def break_off(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def sated(self, now: float) -> bool:
        """It has heard as much as is paid for."""
        return now >= self._until or self._events >= MOST_EVENTS


class Leaving(Opening):
    """A call whose client may leave at any moment; `Exchange` tells the rest."""

    __slots__ = ("_nobody", "_serving", "_stream")

    def __init__(self, proxy: Proxy, call: Call, snapshot: Snapshot) -> None:
        super().__init__(proxy, call, snapshot)
        self._serving: Attempt | None = None
        self._stream: Stream | Passage | None = None
        self._nobody: Nobody | None = None
        """Who listens when the client has left, and its key pays for all of the answer."""

    def client_gone(self) -> None:
        """The client left: every upstream is told at once, and nobody is blamed."""
        if not self.over and not self._reads_on():
            self._let_go()

    def _let_go(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
        sent = self._give_up() or self._stream is not None
        record = self.call.record
        record.outcome = "client_cancelled"
        if self._stream is None:
            record.code = 499
        self._finish("client_gone", sent=sent)

    def _reads_on(self) -> bool:
        """Whether the upstream shall go on for a client that has left. No attempt begins for it that has not begun."""
        if self.call.principal.abort_billing != "drain" or self._proxy.draining:
            return False
        stream = self._stream
        if stream is None and not any(attempt.sent for attempt in self._attempts):
            return False
        now = monotonic()
        self._nobody = self.call.client = nobody = Nobody(now, unheard=stream is None)
        self._beat = inf
        self._look_again(now)
        if stream is not None:
            stream.read_on(nobody)
        return True

    def _look_again(self, now: float) -> None:
        self._wake = now + LOOK
        self._expect()

    def _woken(self, now: float) -> None:
        if self._nobody is None:
            super()._woken(now)
        elif self._nobody.sated(now):
            self._let_go()
        else:
            self._wake = now + LOOK

    def _fell_away(self, attempt: Attempt) -> None:
        self._attempts.remove(attempt)
        self.call.record.tried(attempt.record(self.call.received))
        if not self._attempts:
            self._finish("client_gone", sent=False)

    def _ended_unheard(self, cause: Cause | None) -> Cause:
        """The end as the client's, which came first; an upstream that has answered to the end did well all the same."""
        record, serving = self.call.record, self._serving
        record.outcome = "client_cancelled"
        if self._nobody is not None and self._nobody.unheard:
            record.code, record.ttft = 499, None
        if serving is not None and cause in ("done", "done_missing"):
            serving.close(*failures.of_end(cause))
        return "client_gone"
