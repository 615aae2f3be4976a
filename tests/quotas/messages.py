"""How many messages a call costs where several relays share one busy key: frames and answers on a real server.

The time is the test's own, so that a minute of calls takes some seconds; every relay speaks whenever it has something
to say, as it would on a connection of ten milliseconds.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from relay.admission.store import StoreGate
from tests.quota_rig import Limits
from tests.redis_rig import Call, Relays, Server

STEP = 10
"""Milliseconds."""
RUNS = 1000
"""Milliseconds that a call runs."""
LIMITS: dict[str, Any] = {
    "rpm": 12_000,
    "tpm": 20_000_000,
    "concurrent": 1_000,
    "tokens_per_day": 10**9,
    "usd_per_month": 10**6,
}


@dataclass
class Found:
    relays: int
    calls: int = 0
    refused: int = 0
    frames: int = 0

    @property
    def messages(self) -> float:
        """Per call; an answer is one, too."""
        return 2 * self.frames / self.calls


def run(server: Server, relays: int, per_minute: int, seconds: int = 60) -> Found:
    """Calls of one key at a steady pace, spread over the relays at random."""
    shared = Relays(server, {"shop": Limits(**LIMITS)}, count=relays)
    shared.heard()
    found = Found(relays)
    chance = random.Random(relays)
    waiting: list[tuple[Call, StoreGate]] = []
    running: list[tuple[int, Call]] = []
    due = 0.0
    for ms in range(0, seconds * 1000, STEP):
        shared.passes(STEP)
        due += per_minute * STEP / 60_000
        while due >= 1:
            due -= 1
            gate = chance.choice(shared.gates)
            waiting.append((shared.call(gate, tokens=500, worst=2000, cost=3 * 10**6), gate))
            found.calls += 1
        while running and running[0][0] <= ms:
            lease = running.pop(0)[1].lease
            assert lease is not None
            lease.settle(shared.now, 420, 10**6)
        for gate in shared.gates:
            report = ms % 1000 == 0
            if report:
                gate.beat(1.0)
            if report or gate.news(shared.now):
                shared.answer(gate, server.say(shared.frame(gate, report)))
                found.frames += 1
        shared.recall()
        found.refused += sum(bool(call.told) and not call.open for call, _ in waiting)
        running += [(ms + RUNS, call) for call, _ in waiting if call.open]
        waiting = [each for each in waiting if not each[0].told]
    return found
