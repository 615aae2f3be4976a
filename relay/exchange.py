"""The life of a call, told in order: admit → open an answer → commit → stream → settle → record.

An `Exchange` is one call under way. It runs without a task or a future: each phase is a method, called by the
event it waited for, and the methods stand below in the order in which they happen. Rules that hold here:
- a call reads the one snapshot it started with;
- nothing goes to the client before the commit, and nothing can be tried again after it;
- `_finish` is the last act: it releases, settles and records without waiting for anything, so nothing can split it.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING

from relay import replies
from relay.bill import Bill
from relay.call import Call
from relay.chatbody import ChatBody, decode
from relay.chatedit import edit
from relay.endings import BROKEN, MESSAGES, Limits
from relay.errors import InternalError, Overloaded, RelayError, UpstreamTimeout
from relay.passage import Passage
from relay.records import AttemptRecord, Cause
from relay.snapshot import Route, Snapshot
from relay.sse import Event
from relay.static import static_reply
from relay.stream import Stream
from relay.timers import NEVER
from relay.upstream import failures
from relay.upstream.attempt import Attempt, Request
from relay.upstream.failover import Failover
from relay.upstream.failures import Failure
from relay.upstream.pool import Member
from relay.usage import Usage
from relay.waits import Waits

if TYPE_CHECKING:
    from relay.proxy import Proxy


class Exchange(Waits):
    """One call under way. Dies when it has been settled and recorded (`over`)."""

    __slots__ = (
        "_attempts",
        "_bill",
        "_fallbacks",
        "_serving",
        "_snapshot",
        "_stream",
        "chat",
    )

    chat: ChatBody
    _fallbacks: Iterator[Route]

    def __init__(self, proxy: Proxy, call: Call, snapshot: Snapshot) -> None:
        super().__init__(proxy, call)
        self._snapshot = snapshot
        self._bill: Bill | None = None
        self._attempts: list[Attempt] = []
        """Under way and not committed."""
        self._serving: Attempt | None = None
        self._stream: Stream | Passage | None = None
        self.slot = NEVER

    # -- admit --

    def begin(self) -> None:
        call = self.call
        record = call.record
        try:
            self.chat = chat = decode(call.body)
            record.model = chat.model
            record.stream = chat.stream
            self._route = route = self._snapshot.route(chat.model, call.principal)
            record.served_model = route.name
            self._fallbacks = iter(route.fallbacks)
            self._bill = bill = Bill(call, chat, route, self._snapshot, self._proxy.gate, self)
        except RelayError as error:
            self._refuse(error)
            return
        if not bill.waits:
            self._run(route)

    def _run(self, route: Route) -> None:
        call = self.call
        if route.static is not None:
            self._serve_static(route.static)
            return
        self._failover = self._through(route, call.received)
        call.record.overhead = monotonic() - call.received
        self._open(call.received, asked_around=False)

    # -- open an answer: failover ends here --

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
            rest = self._failover.repeat(now)
            if rest is not None:
                self._proxy.tools.wheel.add(self, now + rest)
                return
            if not self._fall_back(now):
                return
            member = self._failover.next(now)
            since = now
            if self._proxy.shares is not None and self._waits_for_permit(member, now):
                return
        call, route = self.call, self._route
        endpoint = member.endpoint
        if now >= call.received + endpoint.total:
            self._refuse(UpstreamTimeout())
            return
        if self.chat.stream:
            patience = route.first_token or endpoint.first_token
            asked = call.head.first_token
            deadline = since + (patience if asked is None else min(patience, asked))
        else:
            deadline = now + endpoint.answer
        body = self._body_for(member.model, route)
        request = Request(call.head.forward, body, self.chat.stream)
        attempt = Attempt(self._proxy.tools, self, member, request, self._snapshot.scrub)
        self._attempts.append(attempt)
        call.record.upstream = endpoint.name
        attempt.start(now, min(deadline, call.received + endpoint.total))

    def _body_for(self, model: str, route: Route) -> bytes:
        """The client's own bytes, with the edits that are ours."""
        chat = self.chat
        capped = self._bill is not None and self._bill.caps_output
        return edit(
            self.call.body,
            chat,
            model=model,
            include_usage=chat.stream and chat.include_usage is not True,
            max_tokens=route.max_output if capped else None,
        )

    def attempt_failed(self, attempt: Attempt, failure: Failure) -> None:
        now = monotonic()
        self._attempts.remove(attempt)
        self.call.record.tried(attempt.record())
        self._failover.failed(failure, now)
        if not self._attempts:
            self._go_on(now, asked_around=False)

    def connection_was_stale(self, member: Member) -> None:
        self.call.record.tried(AttemptRecord(member.endpoint.name, "stale_conn", 0.0))

    def _fall_back(self, now: float) -> bool:
        """The pool is at its end: on to the next model of the fallback list, a static answer, or the refusal."""
        failover, route = self._failover, self._route
        if failover.budget_empty:
            route.memory.budget_empty += 1
        following = next(self._fallbacks, None) if failover.may_fall_back else None
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

    def _through(self, route: Route, now: float) -> Failover:
        prefix = self.chat.prefix if route.by_prefix else None
        return Failover(route.pool, route.attempts, prefix, now)

    # -- commit --

    def stream_committed(self, attempt: Attempt, events: list[Event]) -> None:
        call, route = self.call, self._route
        now = self._commit(attempt)
        call.record.ttft = now - call.received
        connection, splitter, inflater = attempt.take()
        assert connection is not None and splitter is not None, "a committed stream has both"
        http11 = call.head.http11
        keep_alive = http11 and call.head.keep_alive and not self._proxy.draining
        stream = Stream(
            self,
            call.client,
            self._proxy.tools.wheel,
            self._limits(attempt),
            self._snapshot.gaps(route.name, attempt.member.endpoint.name),
            self._snapshot.scrub,
            chunked=http11,
            keep_alive=keep_alive,
            withhold_usage=self.chat.include_usage is not True,
            choices=self.chat.n,
        )
        self._stream = stream
        self._proxy.count_stream(call.record, 1)
        head = replies.stream_head(self._lines(attempt), http11=http11, keep_alive=keep_alive)
        stream.begin(head, events, connection, splitter, inflater, now)

    def answer_complete(self, attempt: Attempt, body: bytes, usage: Usage | None) -> None:
        call = self.call
        self._commit(attempt)
        call.record.usage = usage
        head = call.head
        keep_alive = head.keep_alive and not self._proxy.draining
        # Settled first: the headers of this very answer tell what is left after it.
        self._settle(spent=True)
        lines = self._lines(attempt)
        reply = replies.whole_head(200, len(body), lines, http11=head.http11, keep_alive=keep_alive)
        call.client.send(reply + body)
        self._finish("done")
        call.client.end(keep_alive)

    def answer_large(self, attempt: Attempt, body: bytes) -> None:
        call = self.call
        now = self._commit(attempt)
        head = call.head
        connection, _, _ = attempt.take()
        assert connection is not None and attempt.head is not None, "a committed answer has both"
        length = attempt.head.length
        chunked = length is None and head.http11
        keep_alive = head.keep_alive and head.http11 and not self._proxy.draining
        passage = Passage(
            self,
            call.client,
            self._proxy.tools.wheel,
            self._limits(attempt),
            chunked=chunked,
            keep_alive=keep_alive,
        )
        self._stream = passage
        lines = self._lines(attempt)
        reply = replies.large_head(length, lines, http11=head.http11, keep_alive=keep_alive)
        passage.begin(reply, body, connection, now)

    def _serve_static(self, text: str) -> None:
        call = self.call
        record, head = call.record, call.head
        record.upstream, record.outcome, record.code = "static", "degraded", 200
        keep_alive = head.keep_alive and not self._proxy.draining
        lines = self._base_lines() + b"x-relay-fallback: static\r\n"
        reply, record.events = static_reply(text, self.chat, call, lines, keep_alive=keep_alive)
        call.client.send(reply)
        self._finish("done")
        call.client.end(keep_alive and (head.http11 or not self.chat.stream))

    def _commit(self, attempt: Attempt) -> float:
        """From here on there is one answer. Returns when its first event came."""
        self._attempts.remove(attempt)
        self._give_up()
        self._serving = attempt
        # A prompt of 100 KB held for the minutes of an answer, times the streams, would be the memory of the host.
        self.call.body = b""
        self.chat.messages = b""
        record = self.call.record
        record.code = 200
        record.upstream = attempt.member.endpoint.name
        if attempt.head is not None:
            record.upstream_request_id = attempt.head.request_id
        record.overhead = (record.overhead or 0.0) + monotonic() - attempt.first_event
        return attempt.first_event

    def _base_lines(self) -> bytes:
        call = self.call
        return self._proxy.lines(self._snapshot, call.head, call.request_id, call.principal)

    def _lines(self, attempt: Attempt) -> bytes:
        lines = self._base_lines()
        if attempt.head is not None:
            lines += attempt.head.forwarded
        fallback = self.call.record.fallback
        if fallback is not None:
            lines += b"x-relay-fallback: %b\r\n" % fallback.encode("ascii", "replace")
        return lines

    def _limits(self, attempt: Attempt) -> Limits:
        at, began = attempt.member.endpoint, self.call.received
        return Limits(at.idle, began + at.total, self._snapshot.write_stall, self._route.heartbeat)

    # -- the client --

    def pause(self) -> None:
        if self._stream is not None:
            self._stream.pause()

    def resume(self) -> None:
        if self._stream is not None:
            self._stream.resume()

    def client_gone(self) -> None:
        """The client left: every upstream is told at once, and nobody is blamed."""
        if self.over:
            return
        if self._stream is not None:
            self._stream.cancel()
        sent = self._give_up() or self._stream is not None
        record = self.call.record
        record.outcome = "client_cancelled"
        if self._stream is None:
            record.code = 499
        self._finish("client_gone", sent=sent)

    def drained(self) -> None:
        """The drain limit is over: an honest end for a stream, and an error for what has not committed."""
        self._stop("drain", MESSAGES["drain"], Overloaded())

    def broke(self) -> None:
        """A bug of ours, reported elsewhere: the client gets an error, and nothing stays in flight."""
        self._stop("upstream_reset", BROKEN, InternalError())

    def _stop(self, cause: Cause, words: tuple[str, str], error: RelayError) -> None:
        if self._stream is not None:
            self._stream.break_off(cause, *words)
        elif not self.over:
            self._refuse(error, spent=self._give_up())

    def _give_up(self) -> bool:
        """Cancels what has not committed. Whether an upstream may have begun to work."""
        sent = False
        for attempt in self._attempts:
            sent = sent or attempt.sent
            attempt.cancel()
            self.call.record.tried(attempt.record())
        self._attempts = []
        return sent

    # -- settle and record --

    def stream_ended(self, cause: Cause) -> None:
        if cause not in ("done", "done_missing"):
            record = self.call.record
            record.outcome = "client_cancelled" if cause == "write_stall" else "stream_truncated"
        self._finish(cause)

    def _refuse(self, error: RelayError, *, spent: bool = False) -> None:
        """The answer is an error. Its headers tell the quota as it is once the reservation is given back."""
        call = self.call
        head = call.head
        self._settle(spent=spent)
        lines = self._base_lines() + error.headers()
        body = error.body()
        keep_alive = head.keep_alive and not self._proxy.draining
        reply = replies.whole_head(
            error.status, len(body), lines, http11=head.http11, keep_alive=keep_alive
        )
        call.record.refused(error)
        call.client.send(reply + body)
        self._finish(None)
        call.client.end(keep_alive)

    def _finish(self, cause: Cause | None, sent: bool = True) -> None:
        self.over = True
        self._proxy.tools.wheel.drop(self)
        proxy, record = self._proxy, self.call.record
        proxy.ended(self)
        now = monotonic()
        # They know this call, too: in a circle, all of it would be left to the garbage collector.
        attempt, self._serving = self._serving, None
        stream, self._stream = self._stream, None
        if attempt is not None:
            attempt.close(*failures.of_end(cause))
            record.tried(attempt.record())
            record.cause = cause
        if isinstance(stream, Passage):
            record.usage = stream.usage
        elif stream is not None:
            record.events = stream.events
            record.max_gap = stream.max_gap if stream.events > 1 else None
            record.usage = stream.usage
            proxy.count_stream(record, -1)
        self._settle(spent=sent and (attempt is not None or cause == "client_gone"))
        record.duration = now - self.call.received
        proxy.emit(record)

    def _settle(self, *, spent: bool) -> None:
        bill = self._bill
        if bill is not None:
            self._bill = None
            bill.settle(self._route, spent=spent)
