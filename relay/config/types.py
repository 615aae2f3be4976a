"""The field types of the configuration: readers and writers of values, with what a schema says of them.

Here too are the readers that look into the file system (paths and secrets, relative to the configuration's own file)
and `Section`, the base of all models. No message shows a secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from relay.config import values
from relay.config.storeaddress import read_address
from relay.config.values import UNKNOWN, Listen, Network, Substituted, expect_text, plain

SHORTEST_KEY: Final = 16
"""Characters. A shorter key can be guessed, or was typed as an example."""

LARGEST_SECRET_FILE: Final = 64 * 1024
"""Bytes. A `file:` that is larger is not a secret."""

LARGEST_COUNT = 10**12
"""Of calls or tokens: far above any limit, far below where the integers of the stores end."""
LARGEST_USD = 10**9
"""In nano-dollars this still fits a signed 64 bit integer."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What validators must know of the file they read: handed to pydantic as its context."""

    base: Path
    """Relative paths start here."""


def _base(info: ValidationInfo) -> Path:
    return info.context.base if isinstance(info.context, Reading) else Path()


# Whole values only, with separators no random key has, so that none can be taken for one of them.
_PLACEHOLDER: Final = re.compile(
    r"(?:sk[-_])?(?:"
    r"your[-_ ].*|.*[-_ ]your[-_ ].*|your(?:api)?key"
    r"|(?:change|replace)[-_ ]?(?:me|this|it)(?:[-_ ].*)?"
    r"|(?:.*[-_ ])?(?:key|secret|token)[-_ ]here"
    r"|placeholder(?:[-_ ].*)?|x{3,}[-x]*|\*{3,}|.*\.{3}.*|.*….*|<.*>"
    r")",
    re.IGNORECASE,
)

_HINTS: Final = ("your", "here", "change", "replace", "placeholder", "xxx", "***", "...", "<")
"""What has none of these is no placeholder."""


def read_path(value: Any, info: ValidationInfo) -> Path:
    if not isinstance(value, Path) and (not isinstance(value, str) or not value.strip()):
        raise ValueError("must be the path of a file")
    return _base(info) / value


def read_existing(value: Any, info: ValidationInfo) -> Path:
    path = read_path(value, info)
    if not path.is_file():
        raise ValueError("must be a file that exists")
    return path


def secret_text(value: str, base: Path) -> str:
    """The secret itself: `file:PATH` stands for what is in that file. ValueError when unreadable."""
    if not value.startswith("file:"):
        return value
    name = value[len("file:") :]
    try:
        with (base / name).open("rb") as file:
            data = file.read(LARGEST_SECRET_FILE + 1)
        text = data.decode().strip()
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ValueError(f"cannot read the secret from {name}: {reason}") from None
    if len(data) > LARGEST_SECRET_FILE:
        raise ValueError(f"cannot read the secret from {name}: the file is too large")
    return text


def is_sendable(text: str) -> bool:
    """Whether a text can be a token in a header: ASCII signs, none of them a blank."""
    return text.isascii() and text.isprintable() and " " not in text


def is_placeholder(text: str) -> bool:
    """Whether it stands for a key that somebody forgot to put there."""
    # Of a hundred thousand keys none is one: the pattern alone would take half a second.
    if text.isascii() and not any(map(text.lower().__contains__, _HINTS)):
        return False
    return _PLACEHOLDER.fullmatch(text) is not None


def read_secret(value: Any, info: ValidationInfo) -> SecretStr:
    """A text that may be empty (its variable is), and goes into a header as it stands."""
    if isinstance(value, SecretStr):
        return value
    text = secret_text(expect_text(value, "is not text: put it in quotes"), _base(info))
    if text and not is_sendable(text):
        raise ValueError("is no key: spaces and signs beyond ASCII cannot be sent")
    return SecretStr(text)


def refuse_placeholder(secret: SecretStr) -> SecretStr:
    if is_placeholder(secret.get_secret_value()):
        raise ValueError("is a placeholder: put the real one here")
    return secret


def refuse_known(secret: SecretStr) -> SecretStr:
    if is_placeholder(secret.get_secret_value()):
        raise ValueError("is a placeholder that others know: `relay keys new` makes a good one")
    return secret


def refuse_weak(secret: SecretStr) -> SecretStr:
    if 0 < len(refuse_known(secret).get_secret_value()) < SHORTEST_KEY:
        raise ValueError(
            f"is shorter than {SHORTEST_KEY} characters: `relay keys new` makes a good one"
        )
    return secret


def read_hash(value: Any) -> bytes:
    match = re.fullmatch(r"sha256:([0-9A-Fa-f]{64})", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("is not a hash: write sha256: and 64 hex digits, as `relay keys new` does")
    return bytes.fromhex(match[1])


def write_hash(digest: bytes) -> str:
    return f"sha256:{digest.hex()}"


def read_store(value: Any, info: ValidationInfo) -> str:
    """Where budgets are kept. The address may hold a password, so it can be a file and is not shown."""
    text = read_secret(value, info).get_secret_value()
    address = read_address(text, _base(info))
    if address is not None and address.ca_file is not None and not Path(address.ca_file).is_file():
        raise ValueError("ca_file must be a file that exists")
    return text


# --- the types ------------------------------------------------------------------------------------


def _pattern(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^({pattern})$"})


_STRING: Final = WithJsonSchema({"type": "string", "minLength": 1})
_WRITTEN_DURATION: Final = (
    PlainSerializer(values.write_duration, return_type=str),
    _pattern(r"0|([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+"),
)
_WRITTEN_SECRET: Final = (
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string"}),
)

Duration = Annotated[float, PlainValidator(values.read_duration), *_WRITTEN_DURATION]
TimeLimit = Annotated[float, PlainValidator(values.read_time_limit), *_WRITTEN_DURATION]
Size = Annotated[
    int,
    PlainValidator(values.read_size),
    PlainSerializer(values.write_size, return_type=str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": f"^{values.SIZE.pattern}$"},
            ]
        }
    ),
]
Share = Annotated[
    float,
    PlainValidator(values.read_share),
    PlainSerializer(values.write_share, return_type=str),
    _pattern(values.SHARE.pattern),
]
Silence = Annotated[
    float | str,
    PlainValidator(values.read_silence),
    PlainSerializer(values.write_silence, return_type=str),
    _pattern(r"p95|([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+"),
]
Workers = Annotated[
    int | str,
    PlainValidator(values.read_workers),
    WithJsonSchema(
        {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 1024}]}
    ),
]
Connections = Annotated[
    int | str,
    PlainValidator(values.read_connections),
    WithJsonSchema(
        {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 1_000_000}]}
    ),
]
Address = Annotated[
    Listen,
    PlainValidator(values.read_listen),
    PlainSerializer(str, return_type=str),
    _pattern(r"\S*:[0-9]{1,5}"),
]
NetworkAddress = Annotated[
    Network, PlainValidator(values.read_network), PlainSerializer(str, return_type=str), _STRING
]
Origin = Annotated[str, PlainValidator(values.read_origin), _STRING]
UrlPath = Annotated[str, PlainValidator(values.read_url_path), _pattern("/[^?#]*")]
BaseUrl = Annotated[str, PlainValidator(values.read_base_url), _STRING]
PublicUrl = Annotated[str, PlainValidator(values.read_public_url), _STRING]
Store = Annotated[str, PlainValidator(read_store), _STRING]
FilePath = Annotated[
    Path, PlainValidator(read_path), PlainSerializer(str, return_type=str), _STRING
]
ExistingFile = Annotated[
    Path, PlainValidator(read_existing), PlainSerializer(str, return_type=str), _STRING
]
ProviderKey = Annotated[
    SecretStr, PlainValidator(read_secret), AfterValidator(refuse_placeholder), *_WRITTEN_SECRET
]
ClientKey = Annotated[
    SecretStr, PlainValidator(read_secret), AfterValidator(refuse_known), *_WRITTEN_SECRET
]
AdminToken = Annotated[
    SecretStr, PlainValidator(read_secret), AfterValidator(refuse_weak), *_WRITTEN_SECRET
]
KeyHash = Annotated[
    bytes,
    PlainValidator(read_hash),
    PlainSerializer(write_hash, return_type=str),
    _pattern("sha256:[0-9A-Fa-f]{64}"),
]
Name = Annotated[str, PlainValidator(values.read_name), _STRING]
Instant = Annotated[
    datetime,
    PlainValidator(values.read_instant),
    PlainSerializer(values.write_instant, return_type=str),
    _pattern(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ].+)?"),
]
Day = Annotated[
    date,
    PlainValidator(values.read_date),
    PlainSerializer(date.isoformat, return_type=str),
    _pattern("[0-9]{4}-[0-9]{2}-[0-9]{2}"),
]
Hours = Annotated[
    tuple[int, int],
    PlainValidator(values.read_hours),
    PlainSerializer(values.write_hours, return_type=str),
    _pattern(values.HOURS.pattern),
]
Count = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Usd = Annotated[float, Field(gt=0, le=LARGEST_USD, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, le=LARGEST_USD, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]


# --- the base of all sections ---------------------------------------------------------------------


@cache
def _numeric(section: type[BaseModel]) -> frozenset[str]:
    """The options whose variable may stand for a number or a boolean."""

    def leaves(kind: Any) -> set[Any]:
        parts = get_args(kind)
        return set().union(*map(leaves, parts)) if parts else {kind}

    return frozenset(
        name
        for name, field in section.model_fields.items()
        if leaves(field.annotation) & {int, float, bool}
    )


class Section(BaseModel):
    """A part of the file. An option without a value, or whose variable is empty, counts as not written."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known, written = cls.model_fields, {}
        for name, value in data.items():
            if name in known:
                if value is None or value is UNKNOWN:
                    continue
                if isinstance(value, Substituted):
                    if not value:
                        continue
                    value = plain(value) if name in _numeric(cls) else str(value)
            written[name] = value
        return written
