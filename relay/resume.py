"""Going on with a stream that its upstream broke: what was said so far, and how another is asked for the rest.

Only where the route says so, only plain text of one choice, and once a call: never inside a tool call or reasoning,
which a model cannot take up in the middle. The second answer comes under the first one's id, and the usage of both is
one.
Sources: DeepSeek's chat prefix completion (a last message with `prefix`), vLLM's and SGLang's `continue_final_message`.
"""

from __future__ import annotations

from typing import Final

import msgspec

from relay.chatbody import ChatBody
from relay.jsonscan import UNREADABLE
from relay.records import Cause
from relay.shapes import decode_members, decode_spoken, decode_usage_alone
from relay.sse import Event, Kind
from relay.upstream.endpoint import Endpoint
from relay.upstream.headers import request_head
from relay.usage import Usage

DEEPSEEK_PREFIX: Final = "deepseek-prefix"
CONTINUE: Final = "continue-final-message"

BREAKS: Final[frozenset[Cause]] = frozenset(
    {
        "upstream_reset",
        "upstream_truncated",
        "idle_timeout",
        "slow_stream",
        "bad_framing",
        "error_event",
        "encoded",
    }
)
"""The ends that are an upstream's failure, after which another may go on."""

MAX_TEXT: Final = 1024 * 1024
"""Characters that are kept; a longer answer is not continued."""

DEEPSEEK: Final = "api.deepseek.com"
DEEPSEEK_PATH: Final = b"/beta/chat/completions"
"""Where DeepSeek itself takes prefixes."""

_encode = msgspec.json.Encoder().encode


class Transcript:
    """What one stream has said, as far as it could be continued. Dies with it."""

    __slots__ = ("_created", "_id", "_length", "_text", "earlier", "plain", "resumed")

    def __init__(self) -> None:
        self._text: list[str] = []
        self._length = 0
        self._id = b""
        self._created = b""
        """As the first upstream spells them."""
        self.earlier: Usage | None = None
        """What the first part comes to, once there is a second."""
        self.plain = True
        """Nothing but text of one choice that has not ended."""
        self.resumed = False

    def text(self) -> str:
        return "".join(self._text)

    def add(self, event: Event) -> None:
        """An event is on its way to the client."""
        if not self.plain or event.kind not in (Kind.CONTENT, Kind.EMPTY):
            # A finish reason: there is nothing to go on with. A usage or `[DONE]`: even less.
            self.plain = self.plain and event.kind == Kind.COMMENT
            return
        try:
            spoken = decode_spoken(event.data or b"")
        except UNREADABLE:
            self.plain = False
            return
        if not self._id:
            self._id, self._created = bytes(spoken.id), bytes(spoken.created)
        for choice in spoken.choices:
            delta = choice.delta
            if choice.index or choice.logprobs is not None or delta is None or delta.more:
                self.plain = False
            elif delta.content:
                self._text.append(delta.content)
                self._length += len(delta.content)
        if self._length > MAX_TEXT:
            self.plain = False

    def go_on(self, earlier: Usage) -> None:
        """Another upstream takes over: what follows is told under the first one's id. Once."""
        self.resumed = True
        self.plain = False
        self.earlier = earlier
        self._text = []

    def sum(self, usage: Usage) -> Usage:
        """The usage of both parts."""
        earlier = self.earlier
        if earlier is None:
            return usage
        return Usage(
            usage.input + earlier.input,
            usage.output + earlier.output,
            usage.cached,
            usage.reasoning,
            source=usage.source,
        )

    def estimate(self, events: int) -> Usage | None:
        """The usage of both parts if the second reported none: its prompt was the first one's and what that said."""
        first = self.earlier
        if first is None:
            return None
        prompts = 2 * first.input + first.output
        return Usage(prompts, max(events, first.output), source="estimated")

    def rewritten(self, event: Event) -> bytes:
        """An event of the second upstream as if it came from the first one."""
        if event.kind in (Kind.COMMENT, Kind.DONE, Kind.UNPARSED):
            return event.raw
        try:
            chunk = decode_members(event.data or b"")
            if self._id:
                chunk["id"] = msgspec.Raw(self._id)
            if self._created:
                chunk["created"] = msgspec.Raw(self._created)
            if event.usage is not None and "usage" in chunk:
                chunk["usage"] = self._summed(event.usage, event.data or b"")
            return b"data: " + _encode(chunk) + b"\n\n"
        except UNREADABLE:
            return event.raw

    def _summed(self, usage: Usage, data: bytes) -> msgspec.Raw:
        """The usage object, its totals those of both parts; the details are the second one's."""
        both = self.sum(usage)
        told = decode_usage_alone(data).usage
        told |= {
            "prompt_tokens": both.input,
            "completion_tokens": both.output,
            "total_tokens": both.input + both.output,
        }
        return msgspec.Raw(_encode(told))


def may_go_on(chat: ChatBody, transcript: Transcript | None, cause: Cause) -> bool:
    """Whether the rest of this answer can be asked for elsewhere."""
    return (
        transcript is not None
        and transcript.plain
        and not transcript.resumed
        and cause in BREAKS
        and chat.n == 1
    )


def body_of_the_rest(body: bytes, chat: ChatBody, way: str, text: str, delivered: int) -> bytes:
    """The request for the rest: the call's own (edited for the member), and after it what was said so far.

    `delivered`: about how many tokens that was. They do not count against the call's limit a second time.
    """
    members = decode_members(body)
    said: dict[str, object] = {"role": "assistant", "content": text}
    if way == DEEPSEEK_PREFIX:
        said["prefix"] = True
    else:
        members["continue_final_message"] = msgspec.Raw(b"true")
        members["add_generation_prompt"] = msgspec.Raw(b"false")
    messages = chat.messages.rstrip()
    comma = b"," if messages[1:-1].strip() else b""
    members["messages"] = msgspec.Raw(messages[:-1] + comma + _encode(said) + b"]")
    if chat.max_tokens is not None:
        left = msgspec.Raw(b"%d" % max(1, chat.max_tokens - delivered))
        for name in ("max_tokens", "max_completion_tokens"):
            if name in members:
                members[name] = left
    return _encode(members)


def head_of_the_rest(endpoint: Endpoint, way: str) -> bytes | None:
    """The prepared head of such a request, where it is not the endpoint's usual one."""
    if way == DEEPSEEK_PREFIX and endpoint.host == DEEPSEEK:
        return request_head(DEEPSEEK_PATH, endpoint.authority, endpoint.credential)
    return None


def is_an_echo(event: Event) -> bool:
    """A role without content: the client has had its role."""
    return event.kind == Kind.EMPTY
