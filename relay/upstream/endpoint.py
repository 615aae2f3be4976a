"""What we remember of the places we call: health, load, speed.

An `Endpoint` is one base URL with one credential. A reload gives it its new settings and frees its parks; breaker,
pauses, load and averages stay. Rules that hold here:
- load falls and the verdict is given once, at the end of an attempt, which is the end of its stream;
- a success frees from a park only if its attempt began after it, and moves the breaker only if it began after the
  breaker last moved: streams that were under way prove nothing about now;
- nothing that the listener is told, and no name, is made from a credential.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Final

from relay.upstream.account import Account, Park
from relay.upstream.address import Address
from relay.upstream.breaker import RAMP, Breaker, State
from relay.upstream.percentile import Silences
from relay.upstream.reporting import Reporting
from relay.upstream.verdicts import Effect, Failure, Verdict

FORBIDDEN_ROW: Final = 3
"""A 403 may be one client's content; so many in a row are the credential."""
LEARNING: Final = 0.2
"""Weight of the newest TTFT in the average: the last ten make up nine tenths of it."""

PAUSED = "paused"
PARKED = "parked"
"""States beside the breaker's own."""

_CLOSED = State.CLOSED
_OK, _FAILED, _OVERLOADED = Verdict.OK, Verdict.FAILED, Verdict.OVERLOADED
_KEY_ACCEPTED = frozenset({Effect.NONE, Effect.PAUSE, Effect.MODEL_ABSENT})
"""Failures that an upstream answers only after it has let the credential in."""

Listener = Callable[["Endpoint", str, str], None]
"""Is told (endpoint, new state, reason), for the log. Must neither block nor raise."""


class Endpoint:
    """One base URL with one credential: its settings, and our memory of it. Lives while it is configured."""

    __slots__ = (
        "_forbidden",
        "_listener",
        "account",
        "answer",
        "authority",
        "base_path",
        "breaker",
        "ca_file",
        "ceiling",
        "clear_from",
        "connect",
        "connections",
        "credential",
        "demo",
        "first_token",
        "held_until",
        "host",
        "idle",
        "inflight",
        "label",
        "max_concurrent",
        "name",
        "park",
        "port",
        "ramp_from",
        "reporting",
        "request_head",
        "seed",
        "silences",
        "tls",
        "total",
        "ttft",
    )

    connect: float
    first_token: float
    idle: float
    answer: float
    total: float
    """The timeouts, seconds."""
    max_concurrent: int | None
    """Attempts in flight that the account allows: the least that an upstream of it names."""
    ceiling: int
    """The same as a number; where workers share it out, this one's part."""

    def __init__(
        self,
        name: str,
        label: str,
        account: Account,
        address: Address | None,
        credential: str | None,
        breaker: Breaker,
        listener: Listener | None,
    ) -> None:
        self.name = name
        """The upstream's name in the configuration."""
        self.label = label
        """Unique: the name, and a number if the upstream has several endpoints."""
        self.account = account
        self.credential = credential
        self.ca_file: Path | None = None
        self.demo = False
        self.tls = address is not None and address.tls
        self.host = "" if address is None else address.host
        self.port = 0 if address is None else address.port
        self.authority = b"" if address is None else address.authority
        self.base_path = b"" if address is None else address.path
        self.connections: object | None = None
        """The wire's connections; kept here because they live as long."""
        self.request_head = b""
        """The wire's prepared head of a request."""
        self.seed = 0
        """A number of its own, the same in every process: what `prefix` hashes with."""
        self.breaker = breaker
        self.reporting = Reporting()
        self.park = Park()
        """Of the credential."""
        self.held_until = -inf
        """The end of the time it asked to be left alone for (a 503's Retry-After)."""
        self.inflight = 0
        self.ttft = 0.0
        """Moving average, seconds; 0 as long as nothing is known."""
        self.ramp_from = -inf
        """When it came back, or will, from being left alone: its share grows for `RAMP` seconds (see `balance`)."""
        self.silences: Silences | None = None
        """Its times to first token, if somebody hedges by them."""
        self.clear_from = 0.0
        """From when on nothing of its own stands in the way of its whole share; infinite while it is ejected."""
        self._forbidden = 0
        self._listener = listener

    def __repr__(self) -> str:
        return f"<Endpoint {self.label}>"

    # -- the life of an attempt --

    def begin(self, now: float) -> int:
        """An attempt begins. Returns its ticket, which `committed` and `end` want back."""
        self.inflight += 1
        account = self.account
        account.inflight += 1
        account.begun = ticket = account.begun + 1
        if self.breaker.state is not _CLOSED and self.breaker.begin(now, ticket):
            self._tell(State.HALF_OPEN.value, self.breaker.reason)
        return ticket

    def committed(self, now: float, ticket: int) -> None:
        """The attempt brought content. Enough for a probe: its stream may go on for minutes."""
        breaker = self.breaker
        breaker.outrun_row = 0
        if breaker.state is not _CLOSED and breaker.succeeded(now, ticket, self.account.begun):
            self.moved()

    def spoke(self, seconds: float, overtaken: bool = False) -> None:
        """A stream had its first token after so long; or none so far, when another has `overtaken` it."""
        average = self.ttft
        if not overtaken or seconds > average:
            self.ttft = average + (seconds - average) * LEARNING if average else seconds
        if self.silences is not None:
            self.silences.add(seconds)

    def end(
        self,
        now: float,
        verdict: Verdict,
        failure: Failure | None = None,
        ticket: int | None = None,
    ) -> None:
        """An attempt ended. Without a ticket it counts as the newest; a straggler may then pass for the probe."""
        self.inflight -= 1
        account = self.account
        account.inflight -= 1
        if account.queue is not None and account.queue.waiting:
            account.queue.freed(now)
        latest = account.begun
        if ticket is None:
            ticket = latest
        if verdict is _OK:
            if self.breaker.succeeded(now, ticket, latest):
                self.moved()
            if self._forbidden or self.park.until or account.park.until:
                self._proved(ticket)
        elif self._judge(now, verdict, ticket, latest):
            self.moved()
        if failure is not None:
            self._apply(failure, now)

    def _judge(self, now: float, verdict: Verdict, ticket: int, latest: int) -> bool:
        if verdict is _FAILED:
            return self.breaker.failed(now, ticket, latest)
        if verdict is _OVERLOADED:
            return self.breaker.throttled(now, ticket, latest)
        if verdict is Verdict.OUTRUN:
            return self.breaker.outrun(now, ticket, latest)
        return self.breaker.given_back(now, ticket)

    # -- what failures do to it --

    def _apply(self, failure: Failure, now: float) -> None:
        effect = failure.effect
        if effect in _KEY_ACCEPTED:
            self._forbidden = 0
        elif effect is Effect.HOLD and failure.wait is not None:
            if self.held_until <= now and self.breaker.state is _CLOSED:
                self._tell(State.OPEN.value, f"asks to be left alone for {failure.wait:g} s")
            self.held_until = max(self.held_until, now + failure.wait)
            self._survey()
        elif effect is Effect.PARK_CREDENTIAL:
            self._park_credential(now, failure.result)
        elif effect is Effect.PARK_ACCOUNT:
            account = self.account
            if account.park.begin(now, account.begun):
                account.survey()
                self._tell(PARKED, f"{failure.result}: the whole account {account.name}")
        elif effect is Effect.FORBIDDEN:
            self._forbidden += 1
            if self._forbidden >= FORBIDDEN_ROW:
                self._park_credential(now, f"{failure.result}: {FORBIDDEN_ROW} in a row")

    def pause(self, model: str, now: float, wait: float) -> None:
        """The provider throttles this model of the account."""
        if self.account.pause(model, now, wait):
            self._tell(PAUSED, f"rate_limited: {model} for {wait:g} s")

    def _park_credential(self, now: float, reason: str) -> None:
        self._forbidden = 0
        if self.park.begin(now, self.account.begun):
            self._survey()
            self._tell(PARKED, reason)

    def _proved(self, ticket: int) -> None:
        self._forbidden = 0
        own, shared = self.park.proved(ticket), self.account.park.proved(ticket)
        if own or shared:
            self._survey()
            self.account.survey()
            self._tell(self.breaker.state.value, "accepted again")

    def moved(self) -> None:
        """The breaker has changed."""
        self._survey()
        self._tell(self.breaker.state.value, self.breaker.reason)

    def _survey(self) -> None:
        self.ramp_from = max(self.breaker.closed_at, self.held_until)
        clear = max(self.park.until, self.ramp_from + RAMP)
        self.clear_from = clear if self.breaker.state is _CLOSED else inf

    def _tell(self, state: str, reason: str) -> None:
        if self._listener is not None:
            self._listener(self, state, reason)

    def bound(self) -> None:
        """The limit of the account, or this process's share of it, has changed."""
        self.ceiling = self.account.ceiling(self.max_concurrent)
        queue = self.account.queue
        if queue is not None and queue.waiting:
            queue.pass_on()

    def learn_park(self, until: float) -> None:
        """Another process has parked this credential."""
        self.park.until = max(self.park.until, until)
        self._survey()

    # -- what is asked of it --

    def passes(self, model: str, now: float) -> bool:
        """Nothing forbids the use for this model, be it the last of its pool: no park, no pause."""
        return self.park.until <= now and self.account.passes(model, now)

    def well(self, now: float) -> bool:
        """Nothing advises against its use. The last of a pool is used all the same."""
        return self.held_until <= now and self.breaker.admits(now)

    def free_at(self, model: str, now: float) -> float:
        """When it may be used for this model, as far as is known; infinite for a park."""
        if self.park.until > now or self.account.park.until > now:
            return inf
        probe = 0.0 if self.breaker.state is _CLOSED else self.breaker.until
        return max(now, self.held_until, probe, self.account.paused.get(model, 0.0))

    def state(self, now: float) -> str:
        """One word for gauge and status page: what keeps it out, the longest first."""
        account = self.account
        if self.park.until > now or account.park.until > now:
            return PARKED
        if self.breaker.state is not _CLOSED:
            return self.breaker.state.value
        if self.held_until > now:
            return State.OPEN.value
        if account.clear_from > now:
            return PAUSED
        return _CLOSED.value

    def freed(self) -> None:
        """The configuration was read anew: the admin may have paid, or mended the key."""
        self._forbidden = 0
        self.park.free()
        self.account.park.free()
        self._survey()
        self.account.survey()
