from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from relay.observe.slowcalls import MOST, SlowCalls
from relay.records import AttemptRecord, CallRecord
from tests.rig import Pause, RelayProcess, Upstream, config, scenario
from tests.rig import scripts as say


def ended(at: float, ttft: float | None, name: str = "req_1") -> CallRecord:
    record = CallRecord()
    record.request_id, record.received, record.ttft, record.duration = name, at - 2.0, ttft, 2.0
    record.queue, record.admission, record.overhead = 0.25, 0.001, 0.0042
    record.served_model, record.upstream, record.key = "m", "b", "tester"
    record.attempts = (
        AttemptRecord("a", "connect_refused", 1.25, 0.0015),
        AttemptRecord("b", "ok", 900.0, 0.2527, 1.7),
    )
    return record


def fields(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(line)["fields"] for line in caplog.records]


def test_a_late_first_token_is_told_with_its_phases(caplog: pytest.LogCaptureFixture) -> None:
    slow = SlowCalls(0.8)

    slow.observe([ended(1000, 0.8), ended(1000, None), ended(1000, 1.1527)])

    assert [line.getMessage() for line in caplog.records] == ["slow_first_token"]
    assert fields(caplog) == [
        {
            "request_id": "req_1",
            "key": "tester",
            "model": "m",
            "upstream": "b",
            "ttft_ms": 1152.7,
            "limit_ms": 800.0,
            "admission_ms": 1.0,
            "queue_ms": 250.0,
            "overhead_ms": 4.2,
            "attempts": [
                "a connect_refused after 1.2 ms, from 1.5 ms on",
                "b ok after 900.0 ms, from 252.7 ms on",
            ],
        }
    ]
    assert caplog.records[0].levelno == logging.WARNING


def test_a_rush_of_late_ones_is_a_few_lines_a_second_and_a_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    slow = SlowCalls(0.8)

    slow.observe([ended(1000.5, 1.0) for _ in range(100)])
    slow.observe([ended(1001.5, 1.0, "req_next")])
    slow.observe([ended(1002.5, 1.0)])

    told = fields(caplog)
    assert len(told) == MOST + 2
    assert (told[MOST]["request_id"], told[MOST]["suppressed"]) == ("req_next", 100 - MOST)
    assert "suppressed" not in told[-1]


@scenario
async def test_the_line_of_a_slow_call_names_its_request_and_follows_a_reload(
    tmp_path: Path,
) -> None:
    late = [Pause(0.06), *say.sse(say.EVENTS)]
    async with Upstream(late) as upstream:
        fields = config({"a": upstream}, observability={"slow_first_token": "30s"})
        async with RelayProcess(fields, tmp_path) as relay:
            await relay.call_of(await relay.chat())
            fields["observability"] = {"slow_first_token": "50ms"}
            relay.write({"state": {"path": str(tmp_path / "state")}} | fields)
            relay.reload()
            await relay.log(lambda line: line.get("event") == "reloaded")
            answer = await relay.chat()

            line = await relay.log(lambda line: line.get("event") == "slow_first_token")

            assert line["request_id"] == answer.headers["x-request-id"]
            assert line["ttft_ms"] == (await relay.call_of(answer))["ttft_ms"] > 50
            assert len([one for one in relay.lines if one["event"] == "slow_first_token"]) == 1
            assert "Say hello." not in relay.stderr
