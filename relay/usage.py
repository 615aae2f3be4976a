"""What a call used, as its upstream reports it.

Reports are the word of another machine: whatever cannot be a count of tokens makes the whole report void
(`None`, and the caller estimates), a detail larger than its total is cut to the total, and nothing here raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from relay.jsonscan import UNREADABLE

Source = Literal["reported", "continuous", "estimated"]
"""Where the figures come from: a final report, a running report of a broken stream, our own counting."""

MOST_TOKENS = 1 << 40
"""No call comes near a million million tokens: a larger report is junk, and would overflow money in 64 bits."""


_Tokens = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one call. `cached` is part of `input`; `reasoning` is part of `output`; `audio` of both."""

    input: int
    output: int
    cached: int = 0
    reasoning: int = 0
    audio: int = 0
    source: Source = "reported"

    def running(self) -> Usage:
        """The same as the last word of a stream that broke off."""
        return msgspec.structs.replace(self, source="continuous")

    def beyond(self, earlier: Usage) -> Usage:
        """What is left of a sum when the first part's totals are taken away; the details are the second one's."""
        taken, given = max(self.input - earlier.input, 0), max(self.output - earlier.output, 0)
        return Usage(
            taken, given, min(self.cached, taken), min(self.reasoning, given), source=self.source
        )


class _Holder(msgspec.Struct, gc=False):
    """A chunk or a completion: all of it is validated, only `usage` is built."""

    usage: Any = None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: _Tokens = 0
    reasoning_tokens: _Tokens = 0
    audio_tokens: _Tokens = 0


class ChatUsage(msgspec.Struct, gc=False):
    """The usage object of nearly every upstream, typed: read without building what nobody looks at."""

    prompt_tokens: _Tokens
    completion_tokens: _Tokens
    prompt_cache_hit_tokens: _Tokens = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None

    def believed(self) -> Usage:
        """The same cuts as `read_usage` makes."""
        taken, given, cached = (
            self.prompt_tokens,
            self.completion_tokens,
            self.prompt_cache_hit_tokens,
        )
        prompt, answer = self.prompt_tokens_details, self.completion_tokens_details
        if prompt is None and answer is None and not cached:
            return Usage(taken, given)
        audio = reasoning = 0
        if prompt is not None:
            cached, audio = prompt.cached_tokens or cached, prompt.audio_tokens
        if answer is not None:
            reasoning, audio = answer.reasoning_tokens, audio + answer.audio_tokens
        return Usage(
            taken, given, min(cached, taken), min(reasoning, given), min(audio, taken + given)
        )


_holder = msgspec.json.Decoder(_Holder).decode
_anything = msgspec.json.Decoder().decode


def parse_usage(event_or_body: bytes) -> Usage | None:
    """The usage in the JSON of a chunk or of a whole completion; None if it has none that can be believed."""
    try:
        return read_usage(_holder(event_or_body).usage)
    except UNREADABLE:
        return None


def usage_of(value: bytes) -> Usage | None:
    """The same from the JSON of the usage object alone."""
    try:
        return read_usage(_anything(value))
    except UNREADABLE:
        return None


def usage_at_end(tail: bytes) -> Usage | None:
    """The same from the last bytes of a completion too large to keep; None if they do not hold all of it."""
    at = tail.rfind(b'"usage"')
    start = tail.find(b"{", at)
    if at < 0 or start < 0 or tail[at + 7 : start].strip() != b":":
        return None
    depth = 0
    for end in range(start, len(tail)):
        # Counts only: a usage object holds numbers, and one with braces inside strings is no usage.
        depth += {0x7B: 1, 0x7D: -1}.get(tail[end], 0)
        if not depth:
            return usage_of(tail[start : end + 1])
    return None


def read_usage(usage: object) -> Usage | None:
    """The same from the decoded usage object. Chat's names, DeepSeek's cache names, the Responses API's names."""
    if not isinstance(usage, dict):
        return None
    counted_input = _count(usage, "prompt_tokens", "input_tokens")
    counted_output = _count(usage, "completion_tokens", "output_tokens")
    if counted_input is None and counted_output is None:
        return None
    prompt = _details(usage, "prompt_tokens_details", "input_tokens_details")
    answer = _details(usage, "completion_tokens_details", "output_tokens_details")
    counts = (
        counted_input or 0,
        counted_output or 0,
        _count(prompt, "cached_tokens") or _count(usage, "prompt_cache_hit_tokens") or 0,
        _count(answer, "reasoning_tokens") or 0,
        (_count(prompt, "audio_tokens") or 0) + (_count(answer, "audio_tokens") or 0),
    )
    if not all(0 <= count <= MOST_TOKENS for count in counts):
        return None
    taken, given, cached, reasoning, audio = counts
    # More cached than taken would be a negative price for the rest.
    return Usage(taken, given, min(cached, taken), min(reasoning, given), min(audio, taken + given))


def _count(usage: Mapping[str, Any], *names: str) -> int | None:
    """The first of these members that is there: -1 for what is no count, as it voids the report."""
    for name in names:
        value = usage.get(name)
        if value is not None:
            return value if type(value) is int else -1
    return None


def _details(usage: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        value = usage.get(name)
        if isinstance(value, dict):
            return value
    return {}
