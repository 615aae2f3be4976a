"""No byte of one call reaches another, however connections are reused and calls broken off."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.crosstalk import WORDS, measure, right, stream_of
from tests.rig import scripts as say

STREAMS = 5000
"""`make faults` plays a hundred thousand and more."""

TAG, OTHER = b"tag00000001", b"tag00000002"
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
OURS, THEIRS = stream_of(TAG), stream_of(OTHER)
EVENTS = [event + b"\n\n" for event in OURS.split(b"\n\n")[:-1]]
ERROR = b'data: {"error":{"message":"x"}}\n\n'


def test_no_byte_of_one_call_reaches_another(tmp_path: Path) -> None:
    told = asyncio.run(measure(tmp_path, STREAMS))

    assert told["foreign"] == []
    assert told["in flight"] == 0
    ends = [told[end] for end in ("whole", "broken", "left", "refused")]
    assert sum(ends) == told["streams"] == STREAMS
    assert min(ends) > 0, "all of it happened"
    assert told["events"] > STREAMS * WORDS // 2


@pytest.mark.parametrize(
    ("end", "payload", "expected"),
    [
        ("whole", OURS, True),
        ("whole", OURS.removesuffix(say.DONE), True),
        ("whole", THEIRS, False),
        ("whole", OURS + EVENTS[0], False),
        ("whole", b"".join(EVENTS[1:]), False),
        ("whole", OURS.replace(TAG, OTHER, 1), False),
        ("broken", b"".join(EVENTS[:3]) + ERROR, True),
        ("broken", b"".join(EVENTS[:3]), False),
        ("broken", EVENTS[0] + EVENTS[1][:20] + ERROR, False),
        ("broken", EVENTS[1] + ERROR, False),
        ("left", b"".join(EVENTS[:3])[:-20], True),
        ("left", EVENTS[0] + EVENTS[2], False),
    ],
)
def test_the_judge_sees_what_is_foreign(end: str, payload: bytes, expected: bool) -> None:
    raw = HEAD + say.frame(payload) + (say.LAST_CHUNK if end == "whole" else b"")

    assert right(TAG, end, raw) is expected


def test_a_second_answer_in_one_is_foreign() -> None:
    assert not right(TAG, "broken", HEAD[:-2] + HEAD + say.frame(EVENTS[0] + ERROR))
