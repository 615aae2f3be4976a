"""One call, one line: its fields, their order, and what can not get into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from relay.observe.accesslog import LONGEST, AccessLog, Format
from relay.observe.linewriter import LineWriter
from relay.records import AttemptRecord, CallRecord
from relay.usage import Usage
from tests.observed import STARTED, streamed

# The contract with whoever parses the log.
ORDER = [
    *("time", "event", "request_id", "client_request_id", "trace_id", "key", "client", "operation"),
    *("model", "served_model", "upstream", "upstream_request_id", "stream", "code", "error"),
    *("outcome", "cause", "attempts", "hedged", "fallback", "queue_ms", "ttft_ms", "overhead_ms"),
    *("max_gap_ms", "duration_ms", "events", "input_tokens", "cached_tokens", "output_tokens"),
    *("reasoning_tokens", "source", "cost_usd"),
]


def logged(tmp_path: Path, *records: CallRecord, format: Format = "json") -> bytes:
    """What the log writes of these records."""
    path = tmp_path / "access.log"
    with path.open("wb") as sink:
        log = AccessLog(LineWriter(sink.fileno()), format)
        log.observe(list(records))
        assert log.close(10.0)
        assert log.dropped == 0
    return path.read_bytes()


def line(tmp_path: Path, record: CallRecord) -> dict[str, Any]:
    [only] = logged(tmp_path, record).splitlines()
    found: dict[str, Any] = json.loads(only)
    return found


def complete() -> CallRecord:
    """A call to which everything happened."""
    record = streamed()
    record.client_request_id, record.trace_id = "mine-1", "4bf92f3577b34da6a3ce929d0e0e4736"
    record.upstream_request_id, record.error, record.reason = "up-9", "upstream_stream_error", "rpm"
    record.outcome, record.cause = "stream_truncated", "upstream_reset"
    record.hedged, record.fallback, record.queue = True, "apology", 0.0123456
    return record


def test_the_fields_are_those_of_the_contract_in_its_order(tmp_path: Path) -> None:
    found = line(tmp_path, complete())

    assert list(found) == ORDER


def test_a_streamed_call_is_told_in_full(tmp_path: Path) -> None:
    record = streamed()
    record.received = STARTED + 0.5

    assert line(tmp_path, record) == {
        "time": "2026-09-21T14:13:24.734Z",
        "event": "call",
        "request_id": "req-1",
        "key": "shop",
        "client": "203.0.113.7",
        "operation": "chat_completions",
        "model": "chat",
        "served_model": "chat",
        "upstream": "main",
        "stream": True,
        "code": 200,
        "outcome": "ok",
        "cause": "done",
        "attempts": [{"upstream": "main", "result": "ok", "ms": 312.5}],
        "hedged": False,
        "ttft_ms": 300.0,
        "overhead_ms": 0.4,
        "max_gap_ms": 80.0,
        "duration_ms": 4234.5,
        "events": 40,
        "input_tokens": 1000,
        "cached_tokens": 600,
        "output_tokens": 200,
        "reasoning_tokens": 50,
        "source": "reported",
        "cost_usd": 0.000354,
    }


def test_what_never_happened_is_left_out(tmp_path: Path) -> None:
    record = CallRecord()
    record.request_id, record.received, record.code = "req-2", STARTED, 401
    record.outcome, record.error = "client_error", "invalid_api_key"

    found = line(tmp_path, record)

    assert list(found) == [
        *("time", "event", "request_id", "operation", "upstream", "stream", "code", "error"),
        *("outcome", "hedged", "duration_ms"),
    ]


@pytest.mark.parametrize(
    ("seconds", "ms"),
    [(0.0, 0.0), (0.0000004, 0.0), (0.0123456, 12.346), (1.0005, 1000.5), (899.9999999, 900000.0)],
)
def test_times_have_three_decimals_of_a_millisecond(
    tmp_path: Path, seconds: float, ms: float
) -> None:
    record = streamed()
    record.duration = seconds

    assert line(tmp_path, record)["duration_ms"] == ms


@pytest.mark.parametrize(
    ("nano", "usd"), [(1, 1e-9), (3, 3e-9), (354_000, 0.000354), (12_345_678_901, 12.345678901)]
)
def test_money_is_exact(tmp_path: Path, nano: int, usd: float) -> None:
    record = streamed()
    record.cost = nano

    assert line(tmp_path, record)["cost_usd"] == usd


def test_details_that_are_zero_are_left_out(tmp_path: Path) -> None:
    record = streamed()
    record.usage, record.cost = Usage(5, 0, source="estimated"), 0

    found = line(tmp_path, record)

    assert (found["input_tokens"], found["output_tokens"], found["source"]) == (5, 0, "estimated")
    assert not {"cached_tokens", "reasoning_tokens", "cost_usd"} & set(found)


def test_every_attempt_is_told(tmp_path: Path) -> None:
    record = streamed()
    record.attempts = (
        AttemptRecord("main", "connect_refused", 0.4567891),
        AttemptRecord("spare", "ok", 12.0),
    )

    assert line(tmp_path, record)["attempts"] == [
        {"upstream": "main", "result": "connect_refused", "ms": 0.457},
        {"upstream": "spare", "result": "ok", "ms": 12.0},
    ]


@pytest.mark.parametrize(
    "name",
    [
        'a\nb\r\nc"}{"event":"forged"}',
        "a\u2028b\u2029c\x85d\x0b\x0c\x1c",
        "\x1b[31mred\x1b[0m\x9b31m\x7f",
        "abc\u202etxt.exe\u2066\u200b",
        "\x00\x01",
        "cut \udc80 short",
        "模型 😀",
    ],
)
def test_no_name_of_a_client_can_make_a_second_line_or_hide(tmp_path: Path, name: str) -> None:
    record = streamed()
    record.model = record.client_request_id = name

    written = logged(tmp_path, record, streamed(2))

    text = written.decode()
    assert len(text.splitlines()) == 2
    assert text.replace("\n", "").isprintable()
    first, second = map(json.loads, text.splitlines())
    assert first["event"] == "call"
    assert first["model"] == name.replace("\udc80", "\\udc80")
    assert second["request_id"] == "req-2"


def test_texts_of_others_are_cut(tmp_path: Path) -> None:
    record = streamed()
    record.model = record.client_request_id = record.upstream_request_id = "m" * 1_000_000
    record.error = "e" * 1_000_000

    written = logged(tmp_path, record)

    assert len(written) < 4 * (LONGEST + 10) + 1000
    assert json.loads(written)["model"] == "m" * LONGEST + "…"


def test_a_batch_keeps_its_order(tmp_path: Path) -> None:
    records = [streamed(number) for number in range(64)]

    lines = logged(tmp_path, *records).splitlines()

    assert [json.loads(one)["request_id"] for one in lines] == [f"req-{n}" for n in range(64)]


def test_a_log_that_is_off_writes_nothing(tmp_path: Path) -> None:
    assert logged(tmp_path, streamed(), format="off") == b""
