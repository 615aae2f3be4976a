"""What a call may have to wait for before an upstream is asked, and how it goes on: the base of `Exchange`.

A rest before the last member is tried again; and where several workers serve, the answer of the quota authority and
permits that idle in another worker. Nobody waits in a task: whoever knows the answer calls one of these methods. A call
that has ended meanwhile (`over`) is told nothing, or does not listen.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from relay.call import Call
from relay.errors import RelayError
from relay.snapshot import Route
from relay.upstream.failover import Failover
from relay.upstream.pool import Member

if TYPE_CHECKING:
    from relay.proxy import Proxy


class Waits:
    """Implements `timers.Timed`, `gate.Applicant` and `shares.Caller`."""

    __slots__ = ("_failover", "_proxy", "_route", "call", "over", "slot")

    _failover: Failover
    _route: Route
    slot: int

    def __init__(self, proxy: Proxy, call: Call) -> None:
        self._proxy = proxy
        self.call = call
        self.over = False

    # -- the story's next chapters, told by `Exchange` --

    def _run(self, route: Route) -> None:
        """The call is admitted."""
        raise NotImplementedError

    def _open(self, since: float, asked_around: bool) -> None:
        raise NotImplementedError

    def _refuse(self, error: RelayError) -> None:
        raise NotImplementedError

    def broke(self) -> None:
        raise NotImplementedError

    # -- what it is told --

    def admitted(self) -> None:
        """The authority, another process, says yes."""
        try:
            self._run(self._route)
        except Exception as error:
            self._proxy.report(error)
            self.broke()

    def refused(self, error: RelayError) -> None:
        """The authority says no."""
        self._refuse(error)

    def permits_came(self) -> None:
        """The other workers have given what idled there: pick again, with what there is."""
        if not self.over:
            first = not self.call.record.attempts
            self._go_on(self.call.received if first else monotonic(), asked_around=True)

    def expired(self, now: float) -> None:
        """The rest before the second try of the last member is over."""
        if not self.over:
            self._go_on(now, asked_around=False)

    def _go_on(self, since: float, asked_around: bool) -> None:
        try:
            self._open(since, asked_around)
        except Exception as error:
            self._proxy.report(error)
            self.broke()

    def _waits_for_permit(self, picked: Member | None, now: float) -> bool:
        """Whether a better member than this one is full here only, and the other workers are asked."""
        shares = self._proxy.shares
        short = self._failover.short(now, picked)
        return shares is not None and bool(short) and shares.wait(short, self, now)
