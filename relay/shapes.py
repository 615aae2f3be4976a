"""The JSON of others, as far as we read it: the shapes that msgspec builds, and their decoders.

Types are the rule here: what does not fit raises `msgspec.ValidationError`, what is not looked at is skipped unbuilt.
They stand together in one module because it must stay interpreted: the compiler that the modules around it go
through keeps no annotations, and msgspec reads them (`setup.py`).
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from relay.usage import ChatUsage

# -- what a chat call asks --

LARGEST_COUNT: Final = 2**53 - 1
"""The largest integer that every JSON parser reads exactly; times `n` it still fits 64 bits."""
MOST_CHOICES: Final = 128

_Count = Annotated[int, Meta(ge=1, le=LARGEST_COUNT)]
_Choices = Annotated[int, Meta(ge=1, le=MOST_CHOICES)]
_Name = Annotated[str, Meta(min_length=1)]


class Body(msgspec.Struct, gc=False):
    """The fields of a chat call that we act on; what is only measured or forwarded stays raw."""

    model: _Name | UnsetType | None = UNSET
    messages: Raw = Raw()
    stream: bool | UnsetType | None = UNSET
    stream_options: Raw = Raw()
    max_tokens: _Count | UnsetType | None = UNSET
    max_completion_tokens: _Count | UnsetType | None = UNSET
    n: _Choices | UnsetType | None = UNSET
    user: str | UnsetType | None = UNSET
    prompt_cache_key: str | UnsetType | None = UNSET
    tools: Raw = Raw()
    functions: Raw = Raw()
    response_format: Raw = Raw()


FIELDS: Final = Body.__struct_fields__
"""The fields we act on, the ones that are only measured among them: none may be given twice."""


class StreamOptions(msgspec.Struct, gc=False):
    include_usage: bool | None = None


class Nothing(msgspec.Struct, gc=False):
    """Any object; only counted."""


decode_body = msgspec.json.Decoder(Body).decode
decode_options = msgspec.json.Decoder(StreamOptions).decode
count_objects = msgspec.json.Decoder(list[Nothing]).decode
decode_string = msgspec.json.Decoder(str).decode

# -- what its messages hold --


class Content(msgspec.Struct, gc=False):
    content: Raw = Raw()
    role: Raw = Raw()


class Part(msgspec.Struct, gc=False):
    """The members of a content part that are no text, as OpenAI and vLLM name them."""

    image_url: Raw = Raw()
    input_audio: Raw = Raw()
    file: Raw = Raw()
    video_url: Raw = Raw()
    video: Raw = Raw()
    audio_url: Raw = Raw()


decode_contents = msgspec.json.Decoder(list[Content]).decode
decode_parts = msgspec.json.Decoder(list[Part]).decode
decode_raws = msgspec.json.Decoder(list[Raw]).decode

# -- what a streamed event says --


class Delta(msgspec.Struct, gc=False):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: Any = None
    function_call: Any = None
    refusal: Any = None
    audio: Any = None


class Choice(msgspec.Struct, gc=False):
    delta: Delta | None = None
    text: Any = None
    finish_reason: Any = None
    index: int = 0


class Chunk(msgspec.Struct, gc=False):
    choices: list[Choice] | None = None
    usage: ChatUsage | UnsetType | None = UNSET
    error: Any = None


class ForeignChunk(msgspec.Struct, gc=False):
    """The same, with a usage of any shape."""

    choices: list[Choice] | None
    usage: Any
    error: Any


class UsageAlone(msgspec.Struct, gc=False):
    usage: Any = UNSET


decode_chunk = msgspec.json.Decoder(Chunk).decode
decode_usage_alone = msgspec.json.Decoder(UsageAlone).decode
decode_anything = msgspec.json.Decoder().decode

# -- what a stream said, for whoever goes on with it --


class SpokenDelta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: Any = None
    function_call: Any = None
    refusal: Any = None
    audio: Any = None

    @property
    def more(self) -> bool:
        """It says something that is not text."""
        return bool(
            self.reasoning_content
            or self.reasoning
            or self.tool_calls
            or self.function_call
            or self.refusal
            or self.audio
        )


class SpokenChoice(msgspec.Struct, gc=False):
    index: int = 0
    delta: SpokenDelta | None = None
    logprobs: Any = None


class Spoken(msgspec.Struct, gc=False):
    id: Raw = Raw()
    created: Raw = Raw()
    choices: list[SpokenChoice] = []


decode_spoken = msgspec.json.Decoder(Spoken).decode
decode_members = msgspec.json.Decoder(dict[str, Raw]).decode

# -- a whole answer --


class Answer(msgspec.Struct, gc=False):
    """Decoding it proves that all of a body is JSON."""

    error: Any = None
    usage: ChatUsage | None = None
    choices: Raw = Raw()


class StrangeAnswer(msgspec.Struct, gc=False):
    """The same, with a usage of any shape."""

    error: Any = None
    usage: Any = None
    choices: Raw = Raw()


decode_answer = msgspec.json.Decoder(Answer).decode
decode_strange_answer = msgspec.json.Decoder(StrangeAnswer).decode
