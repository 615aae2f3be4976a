"""A Redis that fails, and what a call costs it: a part of what `make quotas` looks at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.quotas import faults, messages
from tests.redis_rig import RedisServer, Server
from tests.rig import scenario

SHOWN = ("SIGSTOP, SIGCONT", "kill -9, restart", "failover")


@scenario
@pytest.mark.parametrize("name", SHOWN)
async def test_no_fault_makes_a_limit_none_or_an_error_of_ours(name: str, tmp_path: Path) -> None:
    (fault,) = (each for each in faults.FAULTS if each.name == name)

    row = await faults.play(fault, tmp_path)

    assert row.odd == []
    assert row.over["budget"] == row.over["permits"] == 0
    assert row.over["rate"] <= faults.RPM
    assert row.away == faults.RELAYS
    assert 0 <= row.back_s <= faults.BACK_WITHIN


def test_a_busy_key_costs_less_than_a_third_of_a_message_a_call(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        found = messages.run(Server(redis.client()), relays=4, per_minute=10_000, seconds=20)

    assert found.calls > 3000
    assert found.refused == 0
    assert found.messages <= 0.3
