"""Alive, ready, degraded: three different words."""

from __future__ import annotations

import json

import pytest

from relay import health
from relay.health import BEAT, STALL, Health


class Clock:
    """Monotonic seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 500.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(health, "monotonic", made)
    return made


def ready(*limps: str) -> Health:
    made = Health(lambda: list(limps))
    made.phase = "ready"
    return made


@pytest.mark.parametrize("phase", ["starting", "draining"])
def test_a_process_that_starts_or_drains_is_alive_but_not_ready(phase: str) -> None:
    process = Health()
    process.phase = phase  # type: ignore[assignment]

    status, body = process.readyz()

    assert process.livez() == (200, b'{"status":"alive"}')
    assert status == 503
    assert json.loads(body) == {"status": "not ready", "reason": phase}


def test_one_that_limps_is_ready_and_says_what_limps() -> None:
    status, body = ready("model m: no upstream is usable").readyz()

    assert status == 200
    assert json.loads(body) == {
        "status": "ready",
        "degraded": ["model m: no upstream is usable"],
    }


def test_a_loop_that_stands_still_is_not_ready_until_it_beats_again(clock: Clock) -> None:
    process = ready()
    clock.now += STALL + BEAT
    assert process.readyz()[0] == 200

    clock.now += 0.01
    assert process.readyz()[0] == 503
    assert process.reason() == "stalled"

    process.beat()
    assert process.reason() is None
    assert process.readyz()[0] == 200
