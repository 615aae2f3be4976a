"""A committed stream: the upstream's events, passed on as they come, until the one true end.

Rules that hold here:
- only whole events leave, so that every failure finds the client at an event boundary;
- a stream is complete when `[DONE]` came or every choice has a `finish_reason`; everything else is told to the client
  by one error event, no `[DONE]`, and a connection that ends without its last chunk;
- per event there is a framing check, a few searches for what matters, a clock read and one write. No JSON, no log,
  no metric, no queue, no task. What an event holds is looked at only when a search hits (`_pass`).
"""

from __future__ import annotations

from time import monotonic

from relay.call import Client
from relay.chunked import LAST_CHUNK, frame, unframed
from relay.endings import BROKEN, CAUSES, KEEP_ALIVE, MESSAGES, Committed, Ending, Limits
from relay.errors import error_event
from relay.gaps import GapCounts, bucket_of
from relay.records import Cause
from relay.sse import Event, EventSplitter, EventTooLong, Kind, classify, strip_usage
from relay.timers import NEVER, Wheel
from relay.upstream.encoding import BadCoding, Inflater
from relay.upstream.failures import Scrubber, describe
from relay.upstream.sips import SIP
from relay.upstream.tail import Tail
from relay.upstream.wire import Connection
from relay.usage import Usage


class Stream(Committed):
    """Passes one committed stream on. Dies at its end; `over` says so to callbacks that come later."""

    __slots__ = (
        "_begun",
        "_chunked",
        "_client",
        "_connection",
        "_counts",
        "_finished",
        "_gaps",
        "_heard",
        "_inflater",
        "_keep_alive",
        "_limits",
        "_owner",
        "_scrub",
        "_slow",
        "_splitter",
        "_stalled",
        "_summed",
        "_wheel",
        "_withhold",
        "_wrote",
        "choices",
        "done",
        "events",
        "hides_running",
        "last",
        "max_gap",
        "over",
        "slot",
        "usage",
    )

    _splitter: EventSplitter
    """The attempt's: it may hold the beginning of an event."""

    def __init__(
        self,
        owner: Ending,
        client: Client,
        wheel: Wheel,
        limits: Limits,
        gaps: GapCounts,
        scrub: Scrubber,
        chunked: bool,
        keep_alive: bool,
        withhold_usage: bool,
        choices: int,
    ) -> None:
        self._owner = owner
        self._client = client
        self._wheel = wheel
        self._limits = limits
        self._gaps = gaps
        self._counts = gaps.counts
        self._scrub = scrub
        self._chunked = chunked
        self._keep_alive = keep_alive
        self._withhold = withhold_usage
        self.choices = choices
        self._connection: Connection | None = None
        self._inflater: Inflater | None = None
        self._slow = True
        """The next segment must be taken apart: something is held, or this client or answer needs another framing."""
        self._begun = False
        self._stalled = 0.0
        self._summed = False
        self._wrote = 0.0
        self._heard = 0.0
        """When something came that had to be taken apart, be it less than an event."""
        self.done = False
        self._finished: set[int] = set()
        """Choices whose `finish_reason` came."""
        self.events = 0
        self.last = 0.0
        self.max_gap = 0.0
        self.over = False
        self.slot = NEVER
        self.usage: Usage | None = None
        self.hides_running = False
        """Events have token counts in them that the client has not asked for."""

    # -- from the owner --

    def begin(
        self,
        head: bytes,
        events: list[Event],
        connection: Connection,
        splitter: EventSplitter,
        inflater: Inflater | None,
        now: float,
    ) -> None:
        """Sends the head and the events held so far in one write and takes the connection over."""
        self._connection = connection
        self._splitter = splitter
        self._inflater = inflater
        self._wrote = self.last = now
        connection.receiver = self
        if any(event.kind == Kind.ERROR for event in events):
            # Passing them ends the stream: the head must be out before.
            self._client.send(head)
            head = b""
        out = self._pass_events(events)
        self._begun = True
        if out:
            head += self._framed(out)
        for at in range(0, len(head), SIP):
            # Nearly always one. What a client takes only a part of stays in memory whole, so it must not be much.
            self._client.send(head[at : at + SIP])
        self._after()
        if not self.over:
            self._wheel.add(self, self._next_deadline(now))
            if self._client.choked:
                self.pause()

    def pause(self) -> None:
        """The client reads slower than the upstream sends: stop reading, start counting."""
        if self._connection is not None and not self.over:
            self._connection.pause()
            self._stalled = monotonic()
            self._wheel.drop(self)
            self._wheel.add(self, self._stalled + self._limits.write_stall)

    def resume(self) -> None:
        if self._connection is not None and self._stalled:
            self._stalled = 0.0
            # The silence was the client's: the upstream gets its whole time again.
            self.last = now = monotonic()
            self._wheel.drop(self)
            self._wheel.add(self, self._next_deadline(now))
            self._connection.resume()

    def cancel(self) -> None:
        """Ends without a word: the client is gone."""
        self._release()

    def read_on(self, nobody: Client) -> None:
        """The client has left; the rest is read for its token counts."""
        self._client = nobody
        self.resume()

    def break_off(self, cause: Cause, message: str, code: str | None) -> None:
        """The error end: one event, no `[DONE]`, no last chunk."""
        if self.over:
            return
        self._release()
        self._client.send(self._framed(error_event(message, code)))
        self._client.break_off()
        self._owner.stream_ended(cause)

    # -- wire.Receiver --

    def chunks(self, data: bytes, first: int) -> None:
        # The splice: an event boundary at both ends, nothing inside that we act on, so the bytes go on as they are.
        # (`in` would raise and clear a TypeError inside CPython for each of these: `find` costs half.)
        find = data.find
        if (
            self._slow
            or not data.endswith(b"\n\n\r\n")
            or data[first : first + 5] != b"data:"
            or find(b'"usage"') >= 0
            or find(b'"error"') >= 0
            or find(b"[DONE]") >= 0
            or find(b'_reason":"') >= 0
            or find(b'_reason": "') >= 0
        ):
            self.payload(unframed(data, first))
            return
        now = monotonic()
        gap = now - self.last
        self.last = now
        self._counts[bucket_of(gap)] += 1
        self._gaps.total += gap
        if gap > self.max_gap:
            self.max_gap = gap
        self.events += data.count(b"\n\n")
        self._client.send(data)

    def payload(self, data: bytes) -> None:
        if self.over:
            return
        self._heard = monotonic()
        try:
            if self._inflater is not None:
                data = self._inflater.feed(data)
            raw = self._splitter.feed(data)
        except EventTooLong:
            self._fail("line_too_long")
            return
        except BadCoding:
            self._fail("encoded")
            return
        if raw:
            out = self._pass_raw(raw)
            if out:
                self._wrote = monotonic()
                self._client.send(self._framed(out))
        self._after()

    def ended(self, by_close: bool) -> None:
        if self.over:
            return
        if self._inflater is not None and not self._inflater.complete:
            self._fail("encoded")
        elif self._complete():
            self._end("done_missing")
        else:
            self._fail("upstream_truncated")

    def lost(self, fault: str) -> None:
        if self.over:
            return
        if self._complete():
            self._end("done_missing")
        else:
            self._fail(CAUSES.get(fault, "upstream_reset"))

    # -- timers.Timed --

    def expired(self, now: float) -> None:
        if self.over:
            return
        limits = self._limits
        if self._stalled:
            if now - self._stalled >= limits.write_stall:
                self._release()
                self._client.abort()
                self._owner.stream_ended("write_stall")
                return
        elif now >= limits.total_deadline:
            self.break_off("total_timeout", *MESSAGES["total_timeout"])
            return
        elif now - self.last >= limits.idle:
            trickles = self._heard - self.last >= limits.idle / 2
            self._fail("slow_stream" if trickles else "idle_timeout")
            return
        elif now - max(self._wrote, self.last) >= limits.heartbeat:
            self._wrote = now
            self._client.send(self._framed(KEEP_ALIVE))
        self._wheel.add(self, self._next_deadline(now))

    # -- inside --

    def _next_deadline(self, now: float) -> float:
        limits = self._limits
        if self._stalled:
            return self._stalled + limits.write_stall
        heartbeat = max(self._wrote, self.last) + limits.heartbeat
        return min(limits.total_deadline, self.last + limits.idle, heartbeat)

    def _framed(self, payload: bytes) -> bytes:
        return frame(payload) if self._chunked else payload

    def _pass_raw(self, raw: list[bytes]) -> bytes:
        """What of these whole events goes to the client."""
        out: list[bytes] = []
        for event in raw:
            if self.over or self.done:
                break
            find = event.find
            if (
                event.startswith(b"data:")
                and find(b'"usage"') < 0
                and find(b'"error"') < 0
                and find(b"[DONE]") < 0
                and find(b'_reason":"') < 0
                and find(b'_reason": "') < 0
            ):
                self._count()
                out.append(event)
            else:
                self._pass(classify(event), out)
        return b"".join(out)

    def _pass_events(self, events: list[Event]) -> bytes:
        out: list[bytes] = []
        for event in events:
            if self.over or self.done:
                break
            self._pass(event, out)
        return b"".join(out)

    def _pass(self, event: Event, out: list[bytes]) -> None:
        """Acts on one event that was looked into, and keeps it for the client or not."""
        kind = event.kind
        if kind == Kind.ERROR:
            if out:
                self._client.send(self._framed(b"".join(out)))
                out.clear()
            self.break_off("error_event", *describe(event.error, self._scrub))
            return
        if kind == Kind.COMMENT:
            out.append(event.raw)
            return
        if event.usage is not None:
            self.usage = event.usage
        if kind == Kind.USAGE:
            # Servers send it last: a stream that got here without `[DONE]` is whole.
            self._summed = True
            if self._withhold:
                self.last = monotonic()
                return
        self._count()
        if kind == Kind.DONE:
            self.done = True
        elif event.finished:
            self._finished.update(event.finished)
        raw = event.raw
        if event.null_usage:
            if self._withhold:
                raw = strip_usage(raw, null=True)
        elif self.hides_running and event.usage is not None and kind != Kind.USAGE:
            raw = strip_usage(raw, null=False)
        out.append(raw)

    def _count(self) -> None:
        now = monotonic()
        gap = now - self.last
        self.last = now
        if self._begun:
            # What was held together until the commit has no gaps that anybody saw.
            self._gaps.add(gap)
            if gap > self.max_gap:
                self.max_gap = gap
        self.events += 1

    def _after(self) -> None:
        """Settles what the last events left behind: the end, or how the next segment may be taken."""
        if self.over:
            return
        if self.done:
            self._end("done")
            return
        self._slow = not self._chunked or self._inflater is not None or self._splitter.pending > 0

    def _complete(self) -> bool:
        """All that was promised came: `[DONE]`, the closing usage, or the last word of every choice."""
        return self.done or self._summed or len(self._finished) >= self.choices

    def _fail(self, cause: Cause) -> None:
        self.break_off(cause, *MESSAGES.get(cause, BROKEN))

    def _end(self, cause: Cause) -> None:
        """The stream is complete."""
        connection = self._connection
        self._release(tail=True)
        if connection is not None and connection.receiver is self:
            # `[DONE]` came, the last chunk did not yet: the client must not wait for it.
            connection.receiver = Tail(connection, self._wheel)
        if self._chunked:
            self._client.send(LAST_CHUNK)
        self._client.end(self._keep_alive)
        self._owner.stream_ended(cause)

    def _release(self, tail: bool = False) -> None:
        self.over = True
        self._wheel.drop(self)
        if not tail and self.usage is not None and not self._complete():
            self.usage = self.usage.running()
        connection = self._connection
        self._connection = None
        if connection is not None and not tail and connection.receiver is self:
            connection.close()
