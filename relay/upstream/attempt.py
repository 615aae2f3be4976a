"""One try of one member: from the request's bytes to a committed answer or a failure.

An attempt holds back what its upstream sends until it knows what it is: the first event with content, reasoning
or a tool call of a stream, the whole body of a plain answer. Only then does its `Owner` hear of it, and only then
may a byte go to the client. It decides nothing about what comes next: its failure says how safe another try is.

Phases: dialling → waiting (sent) → answering (head read) → over. A committed stream is handed on together with the
connection; the attempt then only remembers what to tell its endpoint at the end of the stream (`close`).
"""

from __future__ import annotations

import asyncio
from time import monotonic, time
from typing import Final, Protocol

from relay.chunked import unframed
from relay.records import AttemptRecord
from relay.sse import MAX_EVENT, Event, EventSplitter, EventTooLong, Kind, classify
from relay.timers import NEVER, Wheel
from relay.upstream import failures
from relay.upstream.connections import connections_of
from relay.upstream.dial import Dialer
from relay.upstream.encoding import BadCoding, Inflater
from relay.upstream.failures import Failure, Scrubber
from relay.upstream.headers import ResponseHead
from relay.upstream.plain import judge
from relay.upstream.pool import Member
from relay.upstream.request import Request
from relay.upstream.wire import Connection
from relay.usage import Usage

MAX_HELD: Final = 1024 * 1024
"""Bytes of a plain answer that are held back so that a short, cut or wrong one can still fail over."""
MAX_DECODED: Final = 16 * 1024 * 1024
"""Bytes of a plain answer that was compressed."""
MAX_ERROR_BODY: Final = 65536
"""Bytes read of an error answer."""


class Tools:
    """What every attempt of this process works with."""

    __slots__ = ("dialer", "wheel")

    def __init__(self, dialer: Dialer, wheel: Wheel) -> None:
        self.dialer = dialer
        self.wheel = wheel


class Owner(Protocol):
    """Who wants the answer. Nothing is called after `cancel`, and each attempt ends by one of the calls below."""

    def attempt_failed(self, attempt: Attempt, failure: Failure) -> None: ...

    def broke(self) -> None:
        """A bug of ours lost the answer."""

    def connection_was_stale(self, member: Member) -> None:
        """An idle connection died under the request; the attempt goes on on a fresh one."""

    def stream_committed(self, attempt: Attempt, events: list[Event]) -> None:
        """The first event that counts is the last of those held; `attempt.take()` gives the connection."""

    def answer_complete(self, attempt: Attempt, body: bytes, usage: Usage | None) -> None: ...

    def answer_large(self, attempt: Attempt, body: bytes) -> None:
        """A plain answer passed `MAX_HELD`: it goes on as it comes."""


class Attempt:
    """One try; alive until its stream ends."""

    __slots__ = (
        "_body",
        "_connection",
        "_dial",
        "_events",
        "_fresh",
        "_held",
        "_inflater",
        "_owner",
        "_scrub",
        "_splitter",
        "_ticket",
        "_tools",
        "first_event",
        "head",
        "member",
        "over",
        "request",
        "result",
        "sent",
        "slot",
        "started",
    )

    _events: list[Event]
    """What a stream said before it committed."""

    def __init__(
        self, tools: Tools, owner: Owner, member: Member, request: Request, scrub: Scrubber
    ) -> None:
        self._tools = tools
        self._owner = owner
        self.request = request
        self._scrub = scrub
        self.member = member
        self.head: ResponseHead | None = None
        self.over = False
        """No more is to be expected of it before the commit: it failed, was cancelled, or has committed."""
        self.sent = False
        """The request's bytes are on their way: from here on it may have cost money."""
        self.first_event = 0.0
        self.result = ""
        self.started = 0.0
        self.slot = NEVER
        self._connection: Connection | None = None
        self._dial: asyncio.Task[None] | None = None
        self._fresh = False
        self._inflater: Inflater | None = None
        self._splitter: EventSplitter | None = None
        self._body: list[bytes] = []
        self._held = 0
        self._ticket = 0

    # -- from the owner --

    def start(self, now: float, deadline: float) -> None:
        """Begins; `deadline` (clock seconds) ends the silence it is allowed before it commits."""
        self.started = now
        self._ticket = self.member.begin(now)
        self._tools.wheel.add(self, deadline)
        connection = connections_of(self.member.endpoint).take(now)
        if connection is not None:
            self._send(connection)
        else:
            self._open()

    def cancel(self, overtaken: bool = False, outrun: bool = False) -> None:
        """Gives up without a verdict: the client left, or another attempt won, which has `overtaken` this one.

        `outrun`: and had begun later.
        """
        if not self.over:
            if overtaken:
                self.member.endpoint.spoke(monotonic() - self.started, overtaken=True)
            self._finish()
            self.close(failures.CANCELLED, failures.outrun() if outrun else None)

    def take(self) -> tuple[Connection | None, EventSplitter | None, Inflater | None]:
        """Hands on the connection and what decodes it, after the commit."""
        return self._connection, self._splitter, self._inflater

    def close(self, result: str, failure: Failure | None) -> None:
        """The verdict, once, at the end of everything: load is released and health learns what happened."""
        if self.result:
            return
        self.result = result
        now = monotonic()
        verdict = failures.verdict_of(result, failure)
        self.member.end(now, verdict, failure, self._ticket)

    def record(self, received: float) -> AttemptRecord:
        """`received`: when its call came in, seconds of the loop's clock."""
        started, now = self.started, monotonic()
        ms = ((self.first_event or now) - started) * 1000
        at, result, span = self.member.endpoint, self.result or "ok", self.request.span
        begun, lasted = started - received, now - started
        return AttemptRecord(at.name, result, ms, begun, lasted, span, at.host, at.port)

    # -- timers.Timed --

    def expired(self, now: float) -> None:
        if not self.over:
            plain = (
                failures.answer_timeout if not self.request.stream else failures.first_token_timeout
            )
            if self.request.hurried:
                plain = failures.hurried
            if not self.sent:
                # Never got so far as to ask: the dial took all the silence there was.
                hurried = self.request.hurried
                plain = failures.hurried_dial if hurried else failures.connect_timeout
            self._fail(plain())

    # -- connecting --

    def _open(self) -> None:
        endpoint = self.member.endpoint
        self._fresh = True
        self._dial = self._tools.dialer.dial(endpoint, connections_of(endpoint), self._dialled)

    def _dialled(self, connection: Connection | None, fault: str) -> None:
        self._dial = None
        if self.over:
            if connection is not None:
                connection.close()
            return
        if connection is None:
            self._fail(failures.by_fault(fault))
        else:
            try:
                self._send(connection)
            except Exception as error:
                connections_of(self.member.endpoint).report(error)
                self._owner.broke()

    def _send(self, connection: Connection) -> None:
        self._connection = connection
        self.sent = True
        request = self.request
        head = request.head or self.member.endpoint.request_head
        body = request.body
        length = str(len(body)).encode()
        whole = b"".join((head, request.forward, b"content-length: ", length, b"\r\n\r\n"))
        connection.send(self, whole, body)

    # -- wire.Receiver --

    def headed(self, head: ResponseHead) -> None:
        self.head = head
        status = head.status
        if status != 200:
            if 300 <= status < 400 and status != 304:
                self._fail(failures.redirect())
            elif status < 400:
                self._fail(failures.bad_status())
            return
        if head.encoding:
            try:
                self._inflater = Inflater(head.encoding)
            except BadCoding:
                self._fail(failures.encoded())
                return
        if self.request.stream and head.content_type == b"text/event-stream":
            self._splitter = EventSplitter()
            self._events = []
        elif not self.request.stream and head.content_type == b"text/event-stream":
            self._fail(failures.bad_content_type())

    def whole(self, head: ResponseHead, body: bytes) -> None:
        if head.status == 200 and not head.encoding and not self.request.stream:
            self.head = head
            self._body.append(body)
            self._judge_body()
            return
        self.headed(head)
        if body and not self.over:
            self.payload(body)
        if not self.over:
            self.ended(False)

    def chunks(self, data: bytes, first: int) -> None:
        self.payload(unframed(data, first))

    def payload(self, data: bytes) -> None:
        if self._inflater is not None:
            try:
                data = self._inflater.feed(data)
            except BadCoding:
                self._fail(failures.encoded())
                return
            if not data:
                return
        if self._splitter is not None:
            self._read_events(data)
        else:
            self._hold(data)

    def ended(self, by_close: bool) -> None:
        if self._inflater is not None and not self._inflater.complete:
            self._fail(failures.truncated())
        elif self._splitter is not None:
            # No commit, no terminal event: whatever this was, it was not an answer.
            self._fail(failures.empty_stream())
        else:
            self._judge_body()

    def lost(self, fault: str) -> None:
        if self.over:
            # It had handed over, and yet is still the one who hears: a bug came between.
            self._owner.broke()
        elif fault == "stale_conn" and not self._fresh:
            # The upstream closed an idle connection while we were sending: nobody's fault, and once only.
            self._connection = None
            self.sent = False
            self._owner.connection_was_stale(self.member)
            self._open()
        elif self.head is None:
            label = "bad_framing" if fault == "bad_framing" else "reset_before_headers"
            self._fail(failures.by_fault(label))
        elif self.head.status != 200:
            self._judge_body()
        elif fault == "bad_framing":
            self._fail(failures.bad_framing())
        elif self._splitter is not None or not self._body:
            self._fail(failures.reset_before_first_event())
        else:
            self._fail(failures.truncated())

    # -- judging --

    def _read_events(self, data: bytes) -> None:
        splitter = self._splitter
        assert splitter is not None, "events are read only from a stream"
        self._held += len(data)
        try:
            whole = splitter.feed(data)
        except EventTooLong:
            self._fail(failures.line_too_long())
            return
        if self._held > MAX_EVENT:
            self._fail(failures.line_too_long())
            return
        commit = False
        for raw in whole:
            event = classify(raw)
            kind = event.kind
            if commit:
                self._events.append(event)
            elif kind == Kind.ERROR:
                self._fail(failures.from_error_object(event.error, self._scrub, wall=time()))
                return
            elif kind != Kind.COMMENT:
                # Comments end here: they are the upstream's way of saying that nothing has happened yet.
                self._events.append(event)
                commit = kind in COMMITS
        if commit:
            self._commit()
            events, self._events = self._events, []  # we live as long as the stream, they do not
            self._owner.stream_committed(self, events)

    def _hold(self, data: bytes) -> None:
        self._body.append(data)
        self._held += len(data)
        assert self.head is not None, "a body follows its head"
        if self.head.status != 200 or self.request.stream:
            if self._held > MAX_ERROR_BODY:
                self._judge_body()
        elif self._inflater is not None:
            # Decoded, it cannot be passed on as it comes: it is whole or it is too much.
            if self._held > MAX_DECODED:
                self._fail(failures.encoded())
        elif self._held > MAX_HELD:
            self._commit()
            body, self._body = b"".join(self._body), []
            self._owner.answer_large(self, body)

    def _judge_body(self) -> None:
        """The body is whole: an answer, an error, or neither."""
        head = self.head
        assert head is not None, "a body follows its head"
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        verdict = judge(head, body, self._scrub, time(), streamed=self.request.stream)
        if isinstance(verdict, Failure):
            early = self._connection is not None and self._connection.early
            if early and verdict.result == "client_error":
                verdict.result = "early_response"
            self._fail(verdict)
        else:
            self._commit()
            self._owner.answer_complete(self, body, verdict)

    def _commit(self) -> None:
        self.first_event = now = monotonic()
        endpoint = self.member.endpoint
        endpoint.committed(now, self._ticket)
        if self.request.stream:
            # A plain answer's time is that of all its tokens.
            endpoint.spoke(now - self.started)
        # Nothing is sent again: the prompt must not be held for the minutes of an answer.
        self.request.body = b""
        self._finish(keep=True)

    def _fail(self, failure: Failure) -> None:
        if self.over:
            return
        self._finish()
        self.close(failure.result, failure)
        self._owner.attempt_failed(self, failure)

    def _finish(self, keep: bool = False) -> None:
        self.over = True
        self._tools.wheel.drop(self)
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        if not keep and self._connection is not None:
            # Free of its answer already, or closed: a connection that went back to the pool is not ours any more.
            if self._connection.receiver is self:
                self._connection.close()
            self._connection = None


COMMITS = frozenset((Kind.CONTENT, Kind.FINAL, Kind.DONE, Kind.UNPARSED))
"""What the client is told of: content, or that there is none."""
