"""Server-sent events as bytes: where one ends, what it says, and the one member we take out of it.

Bytes in, the same bytes out: events are never decoded and written anew. Lines end in LF, CRLF, CR or any mixture;
there is no limit to a line, only one to an event. Junk is an event like any other (`Kind.UNPARSED`): nothing
here raises on what an upstream sends, but for an event beyond `MAX_EVENT`.
Source: WHATWG HTML, server-sent events; what the official SDKs do with broken ones.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from relay.jsonscan import UNREADABLE, cuts, members
from relay.shapes import (
    Choice,
    Chunk,
    Delta,
    ForeignChunk,
    decode_anything,
    decode_chunk,
    decode_usage_alone,
)
from relay.usage import ChatUsage, Usage, read_usage

MAX_EVENT: Final = 16 * 1024 * 1024
"""Bytes. Tool arguments and images make events of megabytes; what is larger is an attack or a bug."""

_BOM: Final = b"\xef\xbb\xbf"

_BLANK_LINE = re.compile(rb"\n(?:\n|\r\n|\r(?!\n|\Z))|\r\r")
"""The end of a line and the blank line after it.

A CR at the end of the buffer is a line end, or half of one. After LF it waits for the next byte, as CRLF streams are
common and LF CR is not. After CR it is the blank line of a CR stream, which must not wait; an LF after it opens the
next event.
"""

_LINE_ENDS = re.compile(rb"[\r\n]*+")


class EventTooLong(Exception):
    """An event grew past `MAX_EVENT`. `events` are the whole ones that came before it in the same data."""

    def __init__(self, events: list[bytes]) -> None:
        super().__init__(f"an event is longer than {MAX_EVENT} bytes")
        self.events = events


class EventSplitter:
    """Cuts a stream into events. Remembers the bytes of the one that is not whole yet; dies with the stream.

    Blank lines before an event belong to it. The cutting of the input makes no difference to the events.
    """

    __slots__ = ("_from", "_held", "_inside", "_mixed", "_opened")

    def __init__(self) -> None:
        self._held = bytearray()
        self._from = 0
        """Offset in `_held` up to which no event ends."""
        self._inside = False
        """`_held` has more than blank lines."""
        self._mixed = False
        """A CR was seen: until then a blank line is LF LF, which `find` finds faster."""
        self._opened = False
        """The stream's first bytes were seen, and are no BOM any more."""

    @property
    def pending(self) -> int:
        """Bytes held back because their event is not whole."""
        return len(self._held)

    def feed(self, data: bytes) -> list[bytes]:
        """The events that are whole now, each with its blank line. Raises `EventTooLong`."""
        events: list[bytes] = []
        if self._opened and not self._mixed and not self._held and data.find(b"\r") < 0:
            # Whole events that end in LF LF, one behind the other: what nearly all servers send.
            start, size = 0, len(data)
            while start < size and data[start] > 13:
                end = data.find(b"\n\n", start) + 2
                if end < 2 or end - start > MAX_EVENT:
                    break
                events.append(data[start:end])
                start = end
            if start == size:
                return events
            data = data[start:]
        self._feed(data, events)
        return events

    def _feed(self, data: bytes, events: list[bytes]) -> None:
        """Adds to `events`, whatever their ends."""
        buffer: bytes | bytearray = data
        if self._held:
            self._held += data
            buffer = self._held
        if not self._opened:
            if len(buffer) < 3 and _BOM.startswith(buffer):
                self._held = bytearray(buffer)
                return
            self._opened = True
            if buffer.startswith(_BOM):
                self._held = bytearray()
                buffer = bytes(buffer[3:])
        if not self._mixed and data.find(b"\r") >= 0:
            self._mixed = True
        start = self._cut(buffer, events)
        self._keep(buffer, start)
        if len(self._held) > MAX_EVENT:
            raise EventTooLong(events)

    def _cut(self, buffer: bytes | bytearray, events: list[bytes]) -> int:
        """Adds the whole events of the buffer; returns where the rest begins."""
        start, at, inside = 0, self._from, self._inside
        size = len(buffer)
        while True:
            if not inside:
                if at < size and buffer[at] < 14 and (blank := _LINE_ENDS.match(buffer, at)):
                    at = blank.end()
                if at >= size:
                    break
                inside = True
            end = self._end_of_event(buffer, at)
            if end < 0:
                # The longest blank line is CR LF CR LF; its first three bytes may be the last ones here.
                at = max(at, size - 3)
                break
            if end - start > MAX_EVENT:
                raise EventTooLong(events)
            events.append(bytes(buffer[start:end]))
            start = at = end
            inside = False
        self._from, self._inside = at - start, inside
        return start

    def _end_of_event(self, buffer: bytes | bytearray, at: int) -> int:
        if self._mixed:
            blank = _BLANK_LINE.search(buffer, at)
            return -1 if blank is None else blank.end()
        end = buffer.find(b"\n\n", at)
        return end if end < 0 else end + 2

    def _keep(self, buffer: bytes | bytearray, start: int) -> None:
        if buffer is self._held:
            del self._held[:start]
        elif start < len(buffer):
            self._held += buffer[start:]


def data_of(event: bytes) -> bytes | None:
    """The joined data lines; None when the event has none (a comment, an `event:` alone)."""
    if (
        event.startswith(b"data: ")
        and event.find(b"\n") == len(event) - 2
        and event.find(b"\r") < 0
    ):
        return event[6:-2]
    if b"data" not in event:
        return None
    lines = _data_spans(event)
    if not lines:
        return None
    return b"\n".join([event[start:end] for start, end in lines])


_LINE = re.compile(rb"([^\r\n]*+)(?:\r\n|\n|\r|\Z)")


def _data_spans(event: bytes) -> list[tuple[int, int]]:
    """Where the values of the data lines stand."""
    spans: list[tuple[int, int]] = []
    for line in _LINE.finditer(event):
        start, end = line.span(1)
        if event.startswith(b"data:", start, end):
            start += 5
            # One blank after the colon is not part of the value.
            spans.append((start + (event[start : start + 1] == b" "), end))
        elif event[start:end] == b"data":
            spans.append((end, end))
    return spans


class Kind:
    """What an event means to a stream. Plain numbers, which compile to constants."""

    COMMENT: Final = 0
    """No data."""
    EMPTY: Final = 1
    """A role, an empty delta, JSON that we do not know: the answer has not begun."""
    CONTENT: Final = 2
    FINAL: Final = 3
    """A choice has its finish reason."""
    USAGE: Final = 4
    """No choice, only the usage."""
    ERROR: Final = 5
    DONE: Final = 6
    UNPARSED: Final = 7
    """Its data is not JSON."""


class Event:
    """An event that was looked into."""

    __slots__ = ("data", "error", "finish", "finished", "kind", "null_usage", "raw", "usage")

    def __init__(
        self,
        raw: bytes,
        kind: int,
        data: bytes | None = None,
        usage: Usage | None = None,
        error: Any = None,
        finish: str | None = None,
        finished: tuple[int, ...] = (),
        null_usage: bool = False,
    ) -> None:
        self.raw = raw
        """As it came, with its blank line."""
        self.kind = kind
        self.data = data
        self.usage = usage
        self.error = error
        """The value of the top-level `error`, decoded."""
        self.finish = finish
        """The first finish reason."""
        self.finished = finished
        """The indexes of all choices that have one."""
        self.null_usage = null_usage
        """There is a top-level `"usage": null`."""


def classify(event: bytes) -> Event:
    """What a whole event says. For the time before the commit and the slow path; never raises."""
    data = data_of(event)
    if not data:
        return Event(event, Kind.COMMENT, data)
    if data.startswith(b"[DONE]"):
        # SDKs take whatever begins so for the end.
        return Event(event, Kind.DONE, data)
    try:
        chunk = decode_chunk(data)
    except msgspec.ValidationError:
        return _classify_foreign(event, data)
    except UNREADABLE:
        return Event(event, Kind.UNPARSED, data)
    return _read(event, data, chunk)


def _read(event: bytes, data: bytes, chunk: Chunk | ForeignChunk) -> Event:
    if chunk.error is not None:
        return Event(event, Kind.ERROR, data, error=chunk.error)
    kind = Kind.EMPTY
    finish: str | None = None
    finished: tuple[int, ...] = ()
    for choice in chunk.choices or ():
        if choice.finish_reason is not None:
            if finish is None:
                finish = str(choice.finish_reason)
            finished += (choice.index,)
            kind = Kind.FINAL
        elif kind == Kind.EMPTY and (choice.text or (choice.delta and _says(choice.delta))):
            kind = Kind.CONTENT
    usage = chunk.usage
    if usage is msgspec.UNSET:
        return Event(event, kind, data, None, None, finish, finished)
    if not chunk.choices and isinstance(usage, ChatUsage | dict):
        kind = Kind.USAGE
    told = usage.believed() if isinstance(usage, ChatUsage) else read_usage(usage)
    return Event(event, kind, data, told, None, finish, finished, usage is None)


def _says(delta: Delta) -> bool:
    return bool(
        delta.content
        or delta.reasoning_content
        or delta.reasoning
        or delta.tool_calls
        or delta.function_call
        or delta.refusal
        or delta.audio
    )


def _classify_foreign(event: bytes, data: bytes) -> Event:
    """JSON that is not quite a chunk: what can be read of it counts, such as an error, or content with an odd index."""
    try:
        root = decode_anything(data)
    except UNREADABLE:
        return Event(event, Kind.UNPARSED, data)
    if not isinstance(root, dict):
        return Event(event, Kind.EMPTY, data)
    choices = root.get("choices")
    return _read(
        event,
        data,
        ForeignChunk(
            [_foreign_choice(choice) for choice in choices if isinstance(choice, dict)]
            if isinstance(choices, list)
            else None,
            root.get("usage", msgspec.UNSET),
            root.get("error"),
        ),
    )


def _foreign_choice(choice: dict[str, Any]) -> Choice:
    delta, index = choice.get("delta"), choice.get("index")
    return Choice(
        Delta(*map(delta.get, Delta.__struct_fields__)) if isinstance(delta, dict) else None,
        choice.get("text"),
        choice.get("finish_reason"),
        index if type(index) is int else 0,
    )


def strip_usage(event: bytes, null: bool) -> bytes:
    """The event without its top-level `"usage"`, if that is null or an object, as asked; else the same object."""
    if b"usage" not in event:
        return event
    data = data_of(event)
    if not data:
        return event
    try:
        usage = decode_usage_alone(data).usage
        if not (usage is None if null else isinstance(usage, dict)):
            return event
        if null and (at := _null_usage_at(event, data)) > 0:
            return event[:at] + event[at + len(_NULL_USAGE) :]
        ranges = cuts(members(data), b"usage")
    except UNREADABLE:
        return event
    return _cut_data(event, ranges) if ranges else event


_NULL_USAGE = b',"usage":null'


def _null_usage_at(event: bytes, data: bytes) -> int:
    """Where the member stands in the event of a common server, of which we know that it has one; -1: look closer."""
    at = event.find(_NULL_USAGE)
    one_line = event.startswith(b"data: ") and len(event) == len(data) + 8
    if at < 0 or not one_line or event.count(b'"usage"') != 1:
        return -1
    # The last brace of valid JSON closes the root: a member that ends there is one of the root.
    if event.endswith(b"}\n\n") and at + len(_NULL_USAGE) == len(event) - 3:
        return at
    # The only key of that name that there is, for none is spelled with escapes.
    if event[at + len(_NULL_USAGE)] in b",}" and b"\\u" not in event:
        return at
    return -1


def _cut_data(event: bytes, ranges: list[tuple[int, int]]) -> bytes:
    """Takes ranges of the data out of the event. A range that spans data lines leaves their line ends in place."""
    kept: list[bytes] = []
    done = 0
    offset = 0
    for start, end in _data_spans(event):
        for first, last in ranges:
            a = max(first - offset, 0) + start
            b = min(last - offset + start, end)
            if a < b:
                kept.append(event[done:a])
                done = b
        # The line end between two data lines is one byte of the data.
        offset += end - start + 1
    kept.append(event[done:])
    return b"".join(kept)
