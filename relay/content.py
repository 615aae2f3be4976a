"""What was asked and answered, of the calls of those keys that `observability.log_content` names, and of no others.

The answer is taken from what is written to the client, so that it is what the client got; of a stream its words are
kept, and the rest of each event is not. Everything is bounded. Not compiled: such calls are looked into anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from relay.chunked import BadFraming, Chunked
from relay.jsonscan import UNREADABLE
from relay.shapes import decode_anything
from relay.sse import EventSplitter, EventTooLong, data_of

if TYPE_CHECKING:
    from relay.call import Client

MOST: Final = 64 * 1024
"""Bytes of a prompt, and of an answer."""

_SPOKEN: Final = ("content", "refusal", "text")
_THOUGHT: Final = ("reasoning_content", "reasoning")


class Content:
    """One call's. Lives as long as its record."""

    __slots__ = ("_chunked", "_events", "_head", "_left", "_parts", "cut", "prompt", "thoughts")

    def __init__(self, prompt: bytes) -> None:
        """`prompt`: the call's messages, as the client wrote them."""
        self.prompt = prompt[:MOST].decode("utf-8", "replace")
        self.cut = len(prompt) > MOST
        """There was more, of the prompt or of the answer."""
        self._parts: list[str] = []
        self.thoughts: list[str] = []
        """What came as reasoning, piece by piece."""
        self._left = MOST
        self._head: bytes | None = b""
        """What has come of the answer's head; None after it."""
        self._chunked: Chunked | None = None
        self._events: EventSplitter | None = None

    @property
    def answer(self) -> str:
        """The words of a stream, or the body of a plain answer."""
        return "".join(self._parts)

    def hear(self, data: bytes) -> None:
        """These bytes went to the client."""
        if self._head is not None:
            self._head += data
            head, blank, data = self._head.partition(b"\r\n\r\n")
            if not blank:
                return
            self._head = None
            lines = head.lower()
            if b"\r\ntransfer-encoding: chunked" in lines:
                self._chunked = Chunked()
            if b"\r\ncontent-type: text/event-stream" in lines:
                self._events = EventSplitter()
        if not data or not self._left:
            self.cut = self.cut or bool(data)
            return
        try:
            payload = data if self._chunked is None else self._chunked.feed(data)
            if self._events is None:
                self._keep(payload.decode("utf-8", "replace"), self._parts)
                return
            for event in self._events.feed(payload):
                self._read(event)
        except (BadFraming, EventTooLong):
            self._left, self.cut = 0, True

    def _read(self, event: bytes) -> None:
        data = data_of(event)
        if data is None or data == b"[DONE]":
            return
        try:
            said = decode_anything(data)
        except UNREADABLE:
            return
        if not isinstance(said, dict):
            return
        if said.get("error") is not None:
            self._keep(data.decode("utf-8", "replace"), self._parts)
        choices = said.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                delta = choice.get("delta")
                self._take(delta if isinstance(delta, dict) else choice)

    def _take(self, delta: dict[str, Any]) -> None:
        for name in _SPOKEN:
            if isinstance(text := delta.get(name), str):
                self._keep(text, self._parts)
        for name in _THOUGHT:
            if isinstance(text := delta.get(name), str):
                self._keep(text, self.thoughts)
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict):
                for name in ("name", "arguments"):
                    if isinstance(text := function.get(name), str):
                        self._keep(text, self._parts)

    def _keep(self, text: str, where: list[str]) -> None:
        written = text.encode("utf-8", "replace")
        if len(written) > self._left:
            text, self.cut = written[: self._left].decode("utf-8", "ignore"), True
        self._left -= min(len(written), self._left)
        if text:
            where.append(text)


class Overheard:
    """A client whose answer is kept. Implements `call.Client`."""

    __slots__ = ("_client", "_content")

    def __init__(self, client: Client, content: Content) -> None:
        self._client = client
        self._content = content

    @property
    def choked(self) -> bool:
        return self._client.choked

    @choked.setter
    def choked(self, choked: bool) -> None:
        self._client.choked = choked

    def send(self, data: bytes) -> None:
        self._client.send(data)
        self._content.hear(data)

    def end(self, keep_alive: bool) -> None:
        self._client.end(keep_alive)

    def break_off(self) -> None:
        self._client.break_off()

    def abort(self) -> None:
        self._client.abort()
