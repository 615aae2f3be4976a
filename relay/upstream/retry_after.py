"""How long an upstream asks to be left alone: strict reading of `retry-after-ms` and `Retry-After`.

Only plain ASCII digits and the IMF-fixdate form count; whatever else stands there is as if it were absent.
(`int()` takes `1_000` and Arabic digits, `float()` takes `nan`, mail date parsers read the year 0000 as 2000.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

SHORTEST = 1.0
"""Seconds. A zero, or a date gone by, still means: not at once."""
LONGEST = 300.0
"""Seconds. No single answer may take an upstream away for longer."""
WITHOUT_VALUE = 2.0
"""Seconds to leave a throttling upstream alone when it does not say how long."""

_DIGITS = re.compile(rb"[ \t]*([0-9]+)[ \t]*")
_LONG_ENOUGH = 10
"""Digits. More of them are over `LONGEST` in any case (and `int()` raises beyond 4,300)."""
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_FIXDATE = re.compile(
    rb"[ \t]*(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), ([0-9]{2}) ("
    + "|".join(_MONTHS).encode()
    + rb") ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT[ \t]*"
)
"""RFC 9110 §5.6.7. The two obsolete forms are not read: nobody sends them."""


def clamp(seconds: float) -> float:
    return min(max(seconds, SHORTEST), LONGEST)


def from_headers(headers: Mapping[bytes, bytes], wall: float) -> float | None:
    """The clamped wait of a response head (lower-cased names), None without a usable one."""
    value = headers.get(b"retry-after-ms")
    if value is not None:
        found = _DIGITS.fullmatch(value)
        if found is not None:
            return clamp(_number(found[1]) / 1000)
    value = headers.get(b"retry-after")
    return None if value is None else from_value(value, wall)


def from_value(value: bytes, wall: float) -> float | None:
    """The clamped wait that a `Retry-After` value names, None if it is neither digits nor a date."""
    found = _DIGITS.fullmatch(value)
    if found is not None:
        return clamp(_number(found[1]))
    moment = _moment(value)
    return None if moment is None else clamp(moment - wall)


def _number(digits: bytes) -> float:
    return int(digits) if len(digits) <= _LONG_ENOUGH else LONGEST * 1000


def _moment(value: bytes) -> float | None:
    found = _FIXDATE.fullmatch(value)
    if found is None:
        return None
    day, month, year, hour, minute, second = (part.decode("ascii") for part in found.groups())
    try:
        return datetime(
            int(year),
            _MONTHS.index(month) + 1,
            int(day),
            int(hour),
            int(minute),
            # A leap second is legal on the wire and unknown to datetime; more than 60 is junk.
            59 if second == "60" else int(second),
            tzinfo=UTC,
        ).timestamp()
    except ValueError:
        return None
