"""How a call comes to its answer, before the commit: failover and hedging, which are one loop.

An attempt that failed is followed by the next; one that has been silent for long is joined by another, and whichever
brings content first is the answer. When nobody is left, another model answers, or a static text, or the error says why.
Until then nothing goes to the client, unless its route has asked for signs of life.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from relay import replies
from relay.bill import Bill
from relay.call import Call
from relay.chatedit import edit
from relay.endings import KEEP_ALIVE
from relay.errors import RelayError, UpstreamTimeout
from relay.records import AttemptRecord, Cause
from relay.routes import Route
from relay.snapshot import Snapshot
from relay.sse import Event
from relay.static import static_reply
from relay.tracecontext import new_span
from relay.upstream.attempt import Attempt
from relay.upstream.endpoint import Endpoint
from relay.upstream.failover import Failover
from relay.upstream.failures import Failure
from relay.upstream.pool import Member
from relay.upstream.reporting import NOTHING, RUNNING, is_refusal
from relay.upstream.request import Request
from relay.usage import Usage
from relay.waits import Waits

if TYPE_CHECKING:
    from relay.proxy import Proxy


class Opening(Waits):
    """A call until its commit; `Exchange` tells what comes before and after."""

    __slots__ = (
        "_attempts",
        "_bare",
        "_begun",
        "_bill",
        "_fallbacks",
        "_hedge",
        "_keep",
        "_snapshot",
    )

    _fallbacks: Iterator[Route]

    def __init__(self, proxy: Proxy, call: Call, snapshot: Snapshot) -> None:
        super().__init__(proxy, call)
        self._snapshot = snapshot
        self._bill: Bill | None = None
        self._attempts: list[Attempt] = []
        """Under way and not committed."""
        self._hedge: Attempt | None = None
        """The one of them that was begun because of silence."""
        self._begun = False
        """The head of a stream has been sent already, as a sign of life."""
        self._bare: Endpoint | None = None
        """It refused to be asked for token counts."""
        self._keep = False
        """Whether that head lets the connection live on."""

    # -- told by `Exchange` --

    def stream_committed(self, attempt: Attempt, events: list[Event]) -> None:
        raise NotImplementedError

    def answer_complete(self, attempt: Attempt, body: bytes, usage: Usage | None) -> None:
        raise NotImplementedError

    def answer_large(self, attempt: Attempt, body: bytes) -> None:
        raise NotImplementedError

    def _finish(self, cause: Cause | None, sent: bool = True) -> None:
        raise NotImplementedError

    # -- admitted --

    def _run(self, route: Route) -> None:
        call = self.call
        call.record.admitted = True
        if route.static is not None:
            self._serve_static(route.static)
            return
        self._failover = self._through(route, call.received)
        record = call.record
        record.admission = record.overhead = monotonic() - call.received
        if route.beats_early and self.chat.stream:
            self._beat = call.received + route.heartbeat
            self._expect()
        self._open(call.received, asked_around=False)

    # -- attempts --

    def _open(self, since: float, asked_around: bool) -> None:
        """Starts the next attempt; `since` is when the silence it is charged with began.

        `asked_around`: the other workers have been asked for permits already.
        """
        now = monotonic()
        member = self._failover.next(now)
        if (
            self._proxy.shares is not None
            and not asked_around
            and self._waits_for_permit(member, now)
        ):
            return
        while member is None:
            if self._queues(since, now):
                return
            rest = self._failover.repeat(now)
            if rest is not None:
                self._wake = now + rest
                self._expect()
                return
            if not self._fall_back(now):
                return
            member = self._failover.next(now)
            since = now
            if self._proxy.shares is not None and self._waits_for_permit(member, now):
                return
        self._attempt(member, since, now)

    def _attempt(self, member: Member, since: float, now: float, hedge: bool = False) -> None:
        call, route = self.call, self._route
        endpoint = member.endpoint
        if now >= call.received + endpoint.total:
            self._refuse(UpstreamTimeout())
            return
        deadline = now + endpoint.answer
        if self.chat.stream:
            deadline = since + self._patience(endpoint)
        asks = self._asks(member)
        attempt = self._made(member, self._body_for(member, route, asks), asks)
        if hedge:
            self._hedge = attempt
        call.record.upstream = endpoint.name
        if route.hedged:
            self._watch(attempt, now)
        attempt.start(now, min(deadline, call.received + endpoint.total))

    def _made(self, member: Member, body: bytes, asks: int, head: bytes | None = None) -> Attempt:
        """An attempt that is ready to start; `asks` is what its body asks for, `head` replaces the member's own."""
        asked, trace = self.call.head, self.call.record.trace
        if trace is None:
            request = Request(asked.forward, body, self.chat.stream, head)
        else:
            span = new_span()
            request = Request(asked.untraced + trace.lines(span), body, self.chat.stream, head)
            request.span = span
        request.asked = asks
        request.hurried = self.chat.stream and self._hurried(member.endpoint)
        attempt = Attempt(self._proxy.tools, self, member, request, self._snapshot.scrub)
        self._attempts.append(attempt)
        if self._bill is not None:
            self._bill.price = member.price
        return attempt

    def _body_for(self, member: Member, route: Route, asks: int) -> bytes:
        """The client's own bytes, with the edits that are ours."""
        capped = self._bill is not None and self._bill.caps_output
        return edit(
            self.call.body,
            self.chat,
            model=member.model,
            usage=asks,
            max_tokens=route.max_output if capped else None,
        )

    def _asks(self, member: Member) -> int:
        """The token counts to ask it for, which the client has not asked for."""
        chat, endpoint = self.chat, member.endpoint
        if not chat.stream or endpoint is self._bare:
            return NOTHING
        asks = endpoint.reporting.asks(monotonic())
        own = chat.include_usage is True and (asks < RUNNING or chat.own_running)
        return NOTHING if own else asks

    def attempt_failed(self, attempt: Attempt, failure: Failure) -> None:
        now = monotonic()
        self._attempts.remove(attempt)
        self.call.record.tried(attempt.record(self.call.received))
        if attempt is self._hedge:
            self._hedge_ended("failed")
        if attempt.request.asked and is_refusal(failure):
            self._bare = attempt.member.endpoint
            self._failover.forgive(attempt.member)
        else:
            self._failover.failed(failure, now, len(self._attempts))
        if not self._attempts:
            self._wake = inf
            self._go_on(now, asked_around=False)
        elif self._route.hedged:
            # Its partner is alone again, and silent.
            self._watch(self._attempts[0], now)

    def connection_was_stale(self, member: Member) -> None:
        at = monotonic() - self.call.received
        self.call.record.tried(AttemptRecord(member.endpoint.name, "stale_conn", 0.0, at))

    # -- hedging --

    def _watch(self, attempt: Attempt, now: float) -> None:
        """Sets how long it may be silent before another joins it; one pair at a time."""
        if not self.chat.stream or len(self._attempts) > 1:
            return
        after = self._route.hedge_after
        if not after:
            silences = attempt.member.endpoint.silences
            p95 = None if silences is None else silences.p95()
            if p95 is None:
                return
            after = p95
        self._wake = now + after
        self._expect()

    def _silent(self, now: float) -> None:
        route = self._route
        member = self._failover.hedge(now, len(self._attempts))
        if member is None:
            route.memory.hedged("refused")
            return
        self.call.record.hedged = True
        self._attempt(member, now, now, hedge=True)

    def _hedge_ended(self, outcome: str) -> None:
        self._hedge = None
        self._route.memory.hedged(outcome)

    def _under_way(self) -> bool:
        return bool(self._attempts)

    def _overtaken(self, winner: Attempt) -> None:
        """Cancels whoever was slower than the winner, and counts what that has cost."""
        if self._hedge is not None:
            self._hedge_ended("won" if self._hedge is winner else "lost")
        for attempt in self._attempts:
            if attempt.sent:
                tokens = round(len(self.call.body) * self._route.memory.ratio)
                self._route.memory.wasted(attempt.member.endpoint.name, tokens)
            attempt.cancel(overtaken=True, outrun=attempt.started < winner.started)
            self.call.record.tried(attempt.record(self.call.received))
        self._attempts = []

    def _give_up(self) -> bool:
        """Cancels what has not committed. Whether an upstream may have begun to work."""
        if self._hedge is not None:
            self._hedge_ended("lost")
        sent = False
        for attempt in self._attempts:
            sent = sent or attempt.sent
            attempt.cancel()
            self.call.record.tried(attempt.record(self.call.received))
        self._attempts = []
        return sent

    # -- degradation --

    def _fall_back(self, now: float) -> bool:
        """The pool is at its end: on to the next model of the fallback list, a static answer, or the refusal."""
        failover, route = self._failover, self._route
        if failover.budget_empty:
            route.memory.budget_empty += 1
        following = self._following() if failover.may_fall_back else None
        if following is None:
            self._refuse(failover.error(now))
            return False
        self._route = following
        record = self.call.record
        record.served_model = following.name
        record.fallback = following.name if following.static is None else "static"
        if following.static is not None:
            self._serve_static(following.static)
            return False
        self._failover = self._through(following, now)
        return True

    def _following(self) -> Route | None:
        """The next of the fallback list; where money is limited, a model without a price is passed over."""
        limits_money = self._bill is not None and self._bill.limits_money
        for route in self._fallbacks:
            if not (limits_money and route.unpriced):
                return route
        return None

    def _through(self, route: Route, now: float) -> Failover:
        prefix = self.chat.prefix if route.by_prefix else None
        return Failover(route.pool, route.attempts, prefix, now)

    def _serve_static(self, text: str) -> None:
        call = self.call
        record, head = call.record, call.head
        record.upstream, record.outcome, record.code = "static", "degraded", 200
        keep_alive = self._keep if self._begun else head.keep_alive and not self._proxy.draining
        lines = self._base_lines() + b"x-relay-fallback: static\r\n"
        reply, body, record.events = static_reply(
            text, self.chat, call, lines, keep_alive=keep_alive
        )
        call.client.send(body if self._begun else reply + body)
        self._finish(None)
        call.client.end(keep_alive and (head.http11 or not self.chat.stream))

    def _base_lines(self) -> bytes:
        call = self.call
        model = call.record.model
        return self._proxy.lines(self._snapshot, call.head, call.request_id, call.principal, model)

    # -- signs of life --

    def _sign_of_life(self, now: float) -> None:
        """The head of a stream, once, and a comment: some proxies in between take silence for death."""
        call = self.call
        self._beat = now + self._route.heartbeat
        head = b""
        if not self._begun:
            self._begun = True
            http11 = call.head.http11
            self._keep = http11 and call.head.keep_alive and not self._proxy.draining
            lines = self._base_lines()
            head = replies.stream_head(lines, http11=http11, keep_alive=self._keep)
        comment = replies.part(KEEP_ALIVE, http11=call.head.http11)
        call.client.send(head + comment)

    def _end_begun(self, error: RelayError) -> None:
        """Its status cannot be told any more: the error is an event, after which the transfer breaks off."""
        call = self.call
        event = b"data: " + error.body() + b"\n\n"
        call.client.send(replies.part(event, http11=call.head.http11))
