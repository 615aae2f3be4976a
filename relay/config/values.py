"""How a text an admin writes becomes a value, and back.

A reader takes what stood in the file and raises ValueError with a sentence in the admin's words. A sentence
that begins with "must be" may be followed by the value that was written; what could be a secret gets one that
begins otherwise. A writer gives back what could stand in the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, Final
from urllib.parse import urlsplit

Network = IPv4Network | IPv6Network

# --- what stood in the file -----------------------------------------------------------------------


class Substituted(str):
    """A value that came from variables: read by the type of its field, never shown in a message."""

    __slots__ = ("source",)
    source: str

    @classmethod
    def of(cls, text: str, source: str) -> Substituted:
        value = cls(text)
        value.source = source
        return value


class Unknown:
    """Stands for a value that could not be read; its fault is already known."""

    __slots__ = ()


UNKNOWN: Final = Unknown()

_INTEGER = re.compile(r"[-+]?[0-9]{1,30}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?")
_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def plain(text: str) -> str | int | float | bool | None:
    """Reads an unquoted scalar as YAML 1.2 does: `no` and `off` are words, `12:30` is a text."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def expect_text(value: Any, sentence: str) -> str:
    if not isinstance(value, str):
        raise ValueError(sentence)
    return value


# --- durations, sizes, shares ---------------------------------------------------------------------

_UNIT_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,6})?(?:ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"([0-9.]+)(ms|s|m|h|d)")
_DURATION_WORDS: Final = "must be a duration with its unit, such as 250ms, 3s or 15m"

_UNIT_BYTES: Final = {
    **{"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9},
    **{"KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
}
SIZE = re.compile(r"([0-9]{1,12})(B|KB|MB|GB|KiB|MiB|GiB)")
SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%")


def read_duration(value: Any) -> float:
    if value == 0 and not isinstance(value, bool | str):
        return 0.0
    text = expect_text(value, _DURATION_WORDS)
    if not _DURATION.fullmatch(text):
        raise ValueError(_DURATION_WORDS)
    return sum(float(n) * _UNIT_SECONDS[unit] for n, unit in _DURATION_PART.findall(text))


def read_time_limit(value: Any) -> float:
    seconds = read_duration(value)
    if seconds <= 0:
        raise ValueError("must be longer than 0s")
    return seconds


def write_duration(seconds: float) -> str:
    if seconds and seconds < 1:
        return f"{seconds * 1000:g}ms"
    for unit in ("d", "h", "m"):
        if seconds and seconds % _UNIT_SECONDS[unit] == 0:
            return f"{seconds / _UNIT_SECONDS[unit]:.0f}{unit}"
    return f"{seconds:g}s"


def read_size(value: Any) -> int:
    words = "must be a size, such as 64KiB or 32MiB"
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        match = SIZE.fullmatch(expect_text(value, words))
        if match is None:
            raise ValueError(words)
        size = int(match[1]) * _UNIT_BYTES[match[2]]
    if size < 1:
        raise ValueError("must be larger than nothing")
    return size


def write_size(size: int) -> str:
    for unit in ("GiB", "MiB", "KiB"):
        if size % _UNIT_BYTES[unit] == 0:
            return f"{size // _UNIT_BYTES[unit]}{unit}"
    return f"{size}B"


def read_share(value: Any) -> float:
    match = SHARE.fullmatch(value) if isinstance(value, str) else None
    if match is None or float(match[1]) > 100:
        raise ValueError("must be a share with its sign, from 0% to 100%, such as 5%")
    return float(match[1]) / 100


def write_share(share: float) -> str:
    return f"{share * 100:g}%"


def read_silence(value: Any) -> float | str:
    """The patience of a hedge: a duration, or the endpoint's own 95th percentile."""
    if value == "p95":
        return "p95"
    try:
        return read_time_limit(value)
    except ValueError:
        raise ValueError("must be a duration such as 800ms, or p95") from None


def write_silence(silence: float | str) -> str:
    return silence if isinstance(silence, str) else write_duration(silence)


def read_workers(value: Any) -> int | str:
    if value == "auto":
        return "auto"
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1024:
        raise ValueError("must be auto, or a whole number from 1 to 1024")
    return value


def read_connections(value: Any) -> int | str:
    if value == "auto":
        return "auto"
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000:
        raise ValueError("must be auto, or a whole number from 1 to 1000000")
    return value


# --- addresses ------------------------------------------------------------------------------------

_LISTEN = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]/]*)):([0-9]{1,5})")
_LISTEN_WORDS: Final = "must be an address and a port, such as 0.0.0.0:8080 or [::1]:8080"
_URL_PATH: Final = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*")
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^\s/?#@]+")
_PUBLIC_URL: Final = re.compile(
    r"(https?://(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?)"
    r"((?:/[A-Za-z0-9._~-]+)*)/?",
    re.IGNORECASE,
)
"""The origin, and a path. Nothing in it means anything to a shell or to a header."""


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen: a host name or address (IPv6 without brackets) and a port (0: any free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this host can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


def read_listen(value: Any) -> Listen:
    match = _LISTEN.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match[3]) > 65535:
        raise ValueError(_LISTEN_WORDS)
    if match[1] is not None:
        try:
            ip_address(match[1])
        except ValueError:
            raise ValueError(_LISTEN_WORDS) from None
    return Listen(match[1] or match[2] or "0.0.0.0", int(match[3]))  # noqa: S104  ":8080" asks for it


def read_network(value: Any) -> Network:
    words = "must be an address or a network, such as 10.0.0.7 or 10.0.0.0/8"
    text = expect_text(value, words)
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        wider = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(words) from None
    raise ValueError(f"has bits beyond its mask: did you mean {wider}?")


def read_origin(value: Any) -> str:
    text = expect_text(value, "must be an origin, such as https://app.example.com, or *")
    if not _ORIGIN.fullmatch(text):
        raise ValueError("must be an origin without a path, such as https://app.example.com, or *")
    return text


def read_url_path(value: Any) -> str:
    """What follows an address; no query and no fragment."""
    text = expect_text(value, "must be a path, such as /models")
    if not _URL_PATH.fullmatch(text) or ".." in text:
        raise ValueError("must be a path that begins with / and is one of a URL, such as /models")
    return text


def read_base_url(value: Any) -> str:
    """The address of an API, without a slash at the end. It may hold no credential."""
    text = expect_text(value, "must be an address such as https://api.example.com/v1")
    try:
        url = urlsplit(text)
        host, _ = url.hostname, url.port
    except ValueError:
        raise ValueError("is not a web address") from None
    if url.scheme not in ("http", "https") or not host:
        raise ValueError("is not a web address: write http:// or https://, a host and a path")
    if url.username is not None or url.password is not None:
        raise ValueError("holds a credential: put it into api_keys")
    if url.query or url.fragment or not text.isascii() or re.search(r"[\s\x00-\x20\\]", text):
        raise ValueError("is not a base address: leave out ?, #, spaces and special signs")
    return text.rstrip("/")


def read_public_url(value: Any) -> str:
    """Where clients reach the API: an origin, and the path that a proxy takes away; no slash at the end."""
    words = "must be an address such as https://relay.example.com, without ?, # and special signs"
    text = expect_text(value, words)
    if "@" in text:
        raise ValueError("holds a credential: everybody who opens the page would see it")
    match = _PUBLIC_URL.fullmatch(text)
    try:
        port = urlsplit(text).port
    except ValueError:
        raise ValueError(words) from None
    if match is None or port == 0:
        raise ValueError(words)
    parts = match[2].split("/")
    if "." in parts or ".." in parts:
        raise ValueError(words)
    if parts[-1] == "v1":
        raise ValueError("must end before /v1: clients put it there themselves")
    return match[1].lower() + match[2]


# --- names ---------------------------------------------------------------------------------------


def read_name(value: Any) -> str:
    text = expect_text(value, "must be a name: put it in quotes")
    if not text or len(text) > 128 or not text.isprintable() or " " in text:
        raise ValueError("must be a name without spaces, of at most 128 characters")
    return text


# --- times ----------------------------------------------------------------------------------------

HOURS = re.compile(r"([0-2][0-9]):([0-5][0-9])-([0-2][0-9]):([0-5][0-9])")
_DAY_MINUTES: Final = 24 * 60


def read_instant(value: Any) -> datetime:
    """A date means its first moment; a time without a zone is UTC."""
    words = "must be a date or a time in UTC, such as 2030-01-01 or 2030-01-01T12:00:00Z"
    if isinstance(value, datetime):
        moment = value
    else:
        try:
            moment = datetime.fromisoformat(expect_text(value, words))
        except ValueError:
            raise ValueError(words) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def write_instant(moment: datetime) -> str:
    text = moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return text.removesuffix("T00:00:00Z")


def read_date(value: Any) -> date:
    words = "must be a date, such as 2030-01-01"
    try:
        return date.fromisoformat(expect_text(value, words))
    except ValueError:
        raise ValueError(words) from None


def read_hours(value: Any) -> tuple[int, int]:
    """A span of a UTC day in minutes; an end before the start lies on the next day."""
    match = HOURS.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be hours of the day in UTC, such as 01:00-04:00")
    start, end = int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])
    if start >= _DAY_MINUTES or end > _DAY_MINUTES or start == end:
        raise ValueError("must be hours between 00:00 and 24:00 that are not empty")
    return start, end


def write_hours(span: tuple[int, int]) -> str:
    return "-".join(f"{minute // 60:02d}:{minute % 60:02d}" for minute in span)
