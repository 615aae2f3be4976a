"""Retry-After is read strictly: digits, or an IMF-fixdate; junk is as if it were absent."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.upstream.retry_after import LONGEST, SHORTEST, from_headers, from_value

WALL = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"7", 7.0),
        (b" 7\t", 7.0),
        (b"007", 7.0),
        (b"0", 1.0),
        (b"301", 300.0),
        (b"9" * 5000, 300.0),
        (b"Tue, 24 Nov 2026 12:00:30 GMT", 30.0),
        (b"Tue, 24 Nov 2026 12:00:60 GMT", 59.0),
        (b"Tue, 24 Nov 2026 11:00:00 GMT", 1.0),
        (b"Fri, 31 Dec 9999 23:59:59 GMT", 300.0),
    ],
)
def test_a_usable_value_is_clamped_to_one_second_and_five_minutes(
    value: bytes, seconds: float
) -> None:
    assert from_value(value, WALL) == seconds


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b"-5",
        b"+5",
        b"1.5",
        b"1e3",
        b"1_000",
        b"0x10",
        b"nan",
        b"inf",
        b"5, 7",
        b"5 s",
        "١٢".encode(),
        "５".encode(),
        b"Tue, 24 Nov 0000 12:00:30 GMT",
        b"Tue, 31 Feb 2026 12:00:30 GMT",
        b"Tue, 24 Nov 2026 24:00:30 GMT",
        b"Tue, 24 Nov 2026 12:00:61 GMT",
        b"Tue, 24 Nov 2026 12:00:30 +0000",
        b"Tue, 4 Nov 2026 12:00:30 GMT",
        b"Tuesday, 24-Nov-26 12:00:30 GMT",
        b"Tue Nov 24 12:00:30 2026",
        b"tue, 24 nov 2026 12:00:30 gmt",
        b"2026-11-24T12:00:30Z",
        b"soon",
        b"5\n",
        b"\x00",
    ],
)
def test_junk_is_ignored(value: bytes) -> None:
    assert from_value(value, WALL) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({b"retry-after-ms": b"1500"}, 1.5),
        ({b"retry-after-ms": b"1500", b"retry-after": b"9"}, 1.5),
        ({b"retry-after-ms": b"1500.5", b"retry-after": b"9"}, 9.0),
        ({b"retry-after-ms": b"nan"}, None),
        ({b"retry-after-ms": b"1"}, 1.0),
        ({b"retry-after-ms": b"9" * 30}, 300.0),
    ],
)
def test_milliseconds_come_first_and_junk_in_them_leaves_the_seconds(
    headers: dict[bytes, bytes], seconds: float | None
) -> None:
    assert from_headers(headers, WALL) == seconds


@given(value=st.binary(max_size=40) | st.text(max_size=40).map(str.encode), wall=st.floats(0, 1e11))
def test_whatever_comes_the_wait_is_absent_or_within_the_clamp(value: bytes, wall: float) -> None:
    wait = from_value(value, wall)

    if wait is None:
        assert not re.fullmatch(rb"[ \t]*[0-9]+[ \t]*", value)
    else:
        assert SHORTEST <= wait <= LONGEST
        assert re.fullmatch(rb"[ \t]*([0-9]+|[A-Z][a-z]{2}, .{20} GMT)[ \t]*", value)


@given(seconds=st.integers(0, 10**12))
def test_every_number_of_seconds_is_understood(seconds: int) -> None:
    wait = from_value(b"%d" % seconds, WALL)

    assert wait == min(max(seconds, SHORTEST), LONGEST)


@given(
    moment=st.datetimes(
        min_value=datetime(1, 1, 1),
        max_value=datetime(9999, 12, 31),
    )
)
def test_every_date_of_the_calendar_is_understood(moment: datetime) -> None:
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    day, _, month, *_ = format_datetime(moment, usegmt=True).replace(",", "").split()
    value = f"{day}, {moment.day:02} {month} {moment.year:04} {moment:%H:%M:%S} GMT"

    wait = from_value(value.encode(), WALL)

    assert wait == min(max(moment.timestamp() - WALL, SHORTEST), LONGEST)
