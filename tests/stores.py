"""Relays on one store whose time and turns a test holds, for the tests of a store's authority."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from relay.admission.store import StoreGate
from tests.quota_rig import Limits
from tests.redis_rig import Call, RedisServer, Relays, Server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One Redis for all tests of a file."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as redis:
        yield Server(redis.client())


@pytest.fixture
def server(running: Server) -> Server:
    """It knows nothing, and its clock is right."""
    running.ahead = 0
    running.forget()
    return running


def relays(server: Server, count: int = 2, **limits: Any) -> Relays:
    """In touch with it, and with one key, `shop`, of these limits."""
    made = Relays(server, {"shop": Limits(**limits)}, count=count)
    made.heard()
    return made


def ask(relays: Relays, gate: StoreGate, **need: Any) -> Call:
    """Asks until it is answered: a call may have to wait for what others have to give back."""
    call = relays.call(gate, **need)
    for _ in range(20):
        relays.turn(gate)
        if call.told:
            return call
        relays.turn()
        relays.passes(10)
    raise AssertionError("never answered")


def silent_for(relays: Relays, ms: int, others: list[StoreGate]) -> None:
    """Only the others report, every second."""
    for _ in range(ms // 1000):
        relays.passes(1000)
        for gate in others:
            gate.beat(1.0)
            relays.turn(gate, report=True)


def warm(relays: Relays, gates: list[StoreGate], **need: int) -> list[Call]:
    """Some seconds of calls, so that slices pay."""
    calls = []
    for _ in range(4):
        for gate in gates:
            calls += [ask(relays, gate, **need) for _ in range(5)]
        relays.passes(1000)
        for gate in gates:
            gate.beat(1.0)
            relays.turn(gate, report=True)
    return calls


def machine(server: Server, name: str, owner: str = "k:shop") -> dict[str, Any]:
    """What the store holds of one limit, in the script's own names."""
    return server.accounts()[owner][name]
