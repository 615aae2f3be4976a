"""The authorities of tests/test_quota_contract.py, asked in one way: calls of several processes, and their time."""

from __future__ import annotations

from typing import Any, Protocol

from relay.admission.authority import Authority, Holder
from relay.admission.gate import Gate, Need
from relay.admission.remote import RemoteGate
from relay.errors import RelayError
from tests.quota_rig import NOW, WALL, Limits, configure
from tests.redis_rig import Call, Relays, Server

Config = tuple[dict[str, Limits], dict[str, str], dict[str, Limits]]


class Line(Protocol):
    """Calls of several processes, and the time, which all of them share."""

    gates: list[Any]

    def call(self, process: int = 0, key: str = "shop", model: str = "m", **need: Any) -> Call: ...
    def settle(self, call: Call, tokens: int = 0, cost: int = 0) -> None: ...
    def passes(self, ms: int) -> None: ...
    def reload(self, config: Config) -> None: ...
    def headers(self, process: int = 0, key: str = "shop", model: str = "m") -> bytes: ...


class Timed:
    """The time that processes of one host are told."""

    def __init__(self) -> None:
        self.now = NOW
        self.wall = WALL

    def passes(self, ms: int) -> None:
        self.now += ms / 1000
        self.wall += ms / 1000


class Alone(Timed):
    """The gate of one process."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.principals, groups = configure(*config)
        self.gates = [Gate(self.principals, groups)]

    def call(self, process: int = 0, key: str = "shop", model: str = "m", **need: Any) -> Call:
        call = Call()
        principal = self.principals.by_id[key]
        try:
            call.lease = self.gates[0].reserve(
                principal, model, _need(need), self.now, self.wall, call
            )
        except RelayError as error:
            call.told.append(error)
        else:
            call.told.append(None)
        return call

    def settle(self, call: Call, tokens: int = 0, cost: int = 0) -> None:
        assert call.lease is not None
        call.lease.settle(self.now, tokens, cost)

    def reload(self, config: Config) -> None:
        self.principals, groups = configure(*config)
        self.gates[0].reload(self.principals, groups)

    def headers(self, process: int = 0, key: str = "shop", model: str = "m") -> bytes:
        return self.gates[0].headers(self.principals.by_id[key], self.now, model)


class Workers(Timed):
    """Two workers and their hub, on a link without delay."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.principals, groups = configure(*config)
        self.authority = Authority(self.principals, groups)
        self.gates = [RemoteGate(self.principals, groups) for _ in range(2)]
        self.holders = [Holder() for _ in self.gates]

    def call(self, process: int = 0, key: str = "shop", model: str = "m", **need: Any) -> Call:
        call = Call()
        gate = self.gates[process]
        principal = self.principals.by_id[key]
        call.lease = gate.reserve(principal, model, _need(need), self.now, self.wall, call)
        self._turn()
        return call

    def settle(self, call: Call, tokens: int = 0, cost: int = 0) -> None:
        assert call.lease is not None
        call.lease.settle(self.now, tokens, cost)
        self._turn()

    def _turn(self) -> None:
        keys = [principal.id for principal in self.principals.by_id.values()]
        for gate, holder in zip(self.gates, self.holders, strict=True):
            asks, settled = gate.take()
            for number, tokens, cost in settled:
                self.authority.settle(holder, number, tokens, cost, self.now)
            said = [(ask, self.authority.ask(holder, ask, self.now, self.wall)) for ask in asks]
            for each in self.gates:
                each.follow({key: self.authority.levels(key) for key in keys})
            gate.granted([ask[0] for ask, refusal in said if refusal is None])
            gate.refused([refusal for _, refusal in said if refusal is not None])

    def reload(self, config: Config) -> None:
        self.principals, groups = configure(*config)
        self.authority.reload(self.principals, groups)
        while self.authority.gate.catch_up():
            pass
        for gate in self.gates:
            gate.reload(self.principals, groups)

    def headers(self, process: int = 0, key: str = "shop", model: str = "m") -> bytes:
        return self.gates[process].headers(self.principals.by_id[key], self.now, model)


class Shared:
    """Two relays on one Redis."""

    def __init__(self, config: Config, server: Server) -> None:
        server.ms = round(WALL * 1000)
        server.forget()
        self.relays = Relays(server, *config, count=2)
        self.gates = self.relays.gates
        self.relays.heard()

    def call(self, process: int = 0, key: str = "shop", model: str = "m", **need: Any) -> Call:
        gate = self.gates[process]
        call = self.relays.call(gate, key, model, **need)
        self.relays.turn(gate)
        return call

    def settle(self, call: Call, tokens: int = 0, cost: int = 0) -> None:
        assert call.lease is not None
        call.lease.settle(self.relays.now, tokens, cost)
        self.relays.turn()

    def passes(self, ms: int) -> None:
        # A second is the longest that a relay is silent.
        while ms > 0:
            step = min(ms, 10_000)
            self.relays.passes(step)
            self.relays.turn()
            ms -= step

    def reload(self, config: Config) -> None:
        principals, groups = configure(*config)
        self.relays.reload(principals, groups)

    def headers(self, process: int = 0, key: str = "shop", model: str = "m") -> bytes:
        principal = self.relays.principals.by_id[key]
        return self.gates[process].headers(principal, self.relays.now, model)


def _need(need: dict[str, int]) -> Need:
    return Need(need.get("tokens", 0), need.get("worst", 0), need.get("cost", 0))
