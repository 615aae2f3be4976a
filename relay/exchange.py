"""The life of a call, told in order: admit → open an answer (`opening`) → commit → stream → settle → record.

An `Exchange` is one call under way. It runs without a task or a future: each phase is a method, called by the
event it waited for, and the methods stand below in the order in which they happen. Rules that hold here:
- a call reads the one snapshot it started with;
- nothing goes to the client before the commit, and nothing can be tried again after it;
- `_finish` is the last act: it releases, settles and records without waiting for anything, so nothing can split it.
"""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from relay import replies
from relay.bill import Bill
from relay.call import Call
from relay.chatbody import decode
from relay.content import Content, Overheard
from relay.endings import BROKEN, MESSAGES, Limits
from relay.errors import InternalError, KeyRevoked, Overloaded, RelayError
from relay.leaving import Leaving
from relay.passage import Passage
from relay.records import Cause
from relay.resumable import ResumableStream
from relay.resume import body_of_the_rest, head_of_the_rest, may_go_on
from relay.snapshot import Snapshot
from relay.sse import Event
from relay.stream import Stream
from relay.upstream import failures
from relay.upstream.attempt import Attempt
from relay.upstream.failures import Failure
from relay.upstream.pool import Member
from relay.upstream.reporting import RUNNING
from relay.usage import Usage

if TYPE_CHECKING:
    from relay.proxy import Proxy


class Exchange(Leaving):
    """One call under way. Dies when it has been settled and recorded (`over`)."""

    __slots__ = ("_broken_by", "_successor")

    def __init__(self, proxy: Proxy, call: Call, snapshot: Snapshot) -> None:
        super().__init__(proxy, call, snapshot)
        self._successor: Member | None = None
        """Who is to go on with a stream that broke."""
        self._broken_by: Cause | None = None

    # -- admit --

    def begin(self) -> None:
        call = self.call
        record = call.record
        try:
            if call.principal.revoked:
                raise KeyRevoked
            self.chat = chat = decode(call.body)
            if self._snapshot.heard and call.principal.id in self._snapshot.heard:
                record.content = content = Content(chat.messages)
                call.client = Overheard(call.client, content)
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

    # -- commit --

    def stream_committed(self, attempt: Attempt, events: list[Event]) -> None:
        broken = self._stream
        if isinstance(broken, ResumableStream):
            self._resumed(attempt, broken, events)
            return
        call, route = self.call, self._route
        now = self._commit(attempt)
        call.record.ttft = now - call.received
        connection, splitter, inflater = attempt.take()
        assert connection is not None and splitter is not None, "a committed stream has both"
        http11 = call.head.http11
        keep_alive = http11 and call.head.keep_alive and not self._proxy.draining
        head = b""
        if self._begun:
            keep_alive = self._keep
        else:
            lines = self._lines(attempt)
            head = replies.stream_head(lines, http11=http11, keep_alive=keep_alive)
        chat, wheel = self.chat, self._proxy.tools.wheel
        limits, scrub = self._limits(attempt), self._snapshot.scrub
        gaps = self._snapshot.gaps(route.name, attempt.member.endpoint.name)
        withhold = chat.include_usage is not True
        # Each by its name: a class in a variable is called the slow way.
        if route.resume is None:
            stream = Stream(
                self, call.client, wheel, limits, gaps, scrub, http11, keep_alive, withhold, chat.n
            )
        else:
            stream = resumable = ResumableStream(
                self, call.client, wheel, limits, gaps, scrub, http11, keep_alive, withhold, chat.n
            )
            resumable.listens_to(self)
        stream.hides_running = self._hides_running(attempt)
        self._stream = stream
        self._proxy.count_stream(call.record, 1)
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

    def _commit(self, attempt: Attempt) -> float:
        """From here on there is one answer. Returns when its first event came."""
        self._attempts.remove(attempt)
        if self._attempts or self._hedge is not None:
            self._overtaken(attempt)
        self._wake = self._beat = inf
        self._proxy.tools.wheel.drop(self)
        self._serving = attempt
        if self._bill is not None:
            self._bill.price = attempt.member.price
        if self._nobody is not None:
            self._look_again(attempt.first_event)
        if self._route.resume is None or not self.chat.stream:
            # A prompt of 100 KB held for the minutes of an answer, times the streams, would be the memory of the host.
            self.call.body = b""
            self.chat.messages = b""
        record = self.call.record
        if attempt.member.endpoint is self._bare:
            self._bare.reporting.refused(attempt.first_event)
        record.code = 200
        record.upstream = attempt.member.endpoint.name
        if attempt.head is not None:
            record.upstream_request_id = attempt.head.request_id
        record.overhead = (record.overhead or 0.0) + monotonic() - attempt.first_event
        return attempt.first_event

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

    def _hides_running(self, attempt: Attempt) -> bool:
        """We asked this upstream for token counts in every event, and the client did not."""
        return attempt.request.asked == RUNNING and not self.chat.own_running

    # -- a stream that broke --

    def may_continue(self, cause: Cause) -> bool:
        stream, serving = self._stream, self._serving
        if not isinstance(stream, ResumableStream) or serving is None or self._nobody is not None:
            return False
        if not may_go_on(self.chat, stream.transcript, cause):
            return False
        silent = cause in ("idle_timeout", "slow_stream")
        self._successor = self._failover.successor(serving.member, silent, monotonic())
        return self._successor is not None

    def continue_after(self, cause: Cause) -> None:
        stream, serving, member = self._stream, self._serving, self._successor
        assert isinstance(stream, ResumableStream), "asked before"
        assert serving is not None and member is not None, "asked before"
        call, route, chat = self.call, self._route, self.chat
        now = monotonic()
        self._serving, self._broken_by = None, cause
        serving.close(*failures.of_end(cause))
        call.record.tried(serving.record(call.received))
        transcript, way = stream.transcript, route.resume
        assert way is not None and self._bill is not None, (
            "it serves this route, and is not settled"
        )
        asks = self._asks(member)
        body = body_of_the_rest(
            self._body_for(member, route, asks), chat, way, transcript.text(), stream.events
        )
        so_far = stream.usage or self._bill.estimate(stream.events)
        transcript.go_on(so_far)
        self._bill.part(so_far)
        stream.usage = None
        attempt = self._made(member, body, asks, head_of_the_rest(member.endpoint, way))
        deadline = min(now + self._patience(member.endpoint), call.received + member.endpoint.total)
        attempt.start(now, deadline)

    def _resumed(self, attempt: Attempt, stream: ResumableStream, events: list[Event]) -> None:
        """The successor goes on."""
        record = self.call.record
        self._attempts.remove(attempt)
        self._serving = attempt
        self._route.memory.resumed("continued")
        self._proxy.count_stream(record, -1)
        record.resumed = True
        record.upstream = attempt.member.endpoint.name
        self._proxy.count_stream(record, 1)
        connection, splitter, inflater = attempt.take()
        assert connection is not None and splitter is not None, "a committed stream has both"
        stream.hides_running = self._hides_running(attempt)
        stream.go_on(events, connection, splitter, inflater)

    def attempt_failed(self, attempt: Attempt, failure: Failure) -> None:
        stream, cause = self._stream, self._broken_by
        if stream is None or cause is None:
            if self._nobody is None:
                super().attempt_failed(attempt, failure)
            else:
                self._fell_away(attempt)
            return
        # Nobody can go on: the honest end after all.
        self._attempts.remove(attempt)
        self.call.record.tried(attempt.record(self.call.received))
        self._route.memory.resumed("failed")
        stream.break_off(cause, *MESSAGES.get(cause, BROKEN))

    # -- the client --

    def pause(self) -> None:
        if self._stream is not None:
            self._stream.pause()

    def resume(self) -> None:
        if self._stream is not None:
            self._stream.resume()

    def drained(self) -> None:
        """The drain limit is over: an honest end for a stream, and an error for what has not committed."""
        self._stop("drain", MESSAGES["drain"], Overloaded())

    def revoked(self) -> None:
        """The key is gone, and its running answers are to end with it."""
        self._stop("revoked", MESSAGES["revoked"], KeyRevoked())

    def broke(self) -> None:
        """A bug of ours, reported elsewhere: the client gets an error, and nothing stays in flight."""
        self._stop("upstream_reset", BROKEN, InternalError())

    def _stop(self, cause: Cause, words: tuple[str, str], error: RelayError) -> None:
        if self._stream is not None:
            self._stream.break_off(cause, *words)
        elif not self.over:
            self._refuse(error, spent=self._give_up())

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
        call.record.refused(error)
        if self._begun:
            self._end_begun(error)
            call.record.code = 200
            self._finish(None)
            call.client.break_off()
            return
        reply = replies.whole_head(
            error.status, len(body), lines, http11=head.http11, keep_alive=keep_alive
        )
        call.client.send(reply + body)
        self._finish(None)
        call.client.end(keep_alive)

    def _finish(self, cause: Cause | None, sent: bool = True) -> None:
        self.over = True
        self._proxy.tools.wheel.drop(self)
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._waited(monotonic())
            ticket.leave()
        if self._attempts:
            self._give_up()
        proxy, record = self._proxy, self.call.record
        proxy.ended(self)
        now = monotonic()
        if self._nobody is not None:
            cause = self._ended_unheard(cause)
        # They know this call, too: in a circle, all of it would be left to the garbage collector.
        attempt, self._serving = self._serving, None
        stream, self._stream = self._stream, None
        if attempt is not None:
            attempt.close(*failures.of_end(cause))
            record.tried(attempt.record(self.call.received))
        worked = attempt is not None or stream is not None
        if worked:
            record.cause = cause
        if isinstance(stream, Passage):
            record.usage = stream.usage
        elif stream is not None:
            record.events = stream.events
            record.max_gap = stream.max_gap if stream.events > 1 else None
            record.usage = stream.usage
            if stream.usage is None and isinstance(stream, ResumableStream):
                record.usage = stream.transcript.estimate(stream.events)
            proxy.count_stream(record, -1)
        self._settle(spent=sent and (worked or cause == "client_gone"))
        record.duration = now - self.call.received
        proxy.emit(record)

    def _settle(self, *, spent: bool) -> None:
        bill = self._bill
        if bill is not None:
            self._bill = None
            bill.settle(self._route, spent=spent)
