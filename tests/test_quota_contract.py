"""One contract, three authorities: this process, the hub of several workers, a store that several relays share.

Every case asks two serving processes in turn, where there are several, and the answers are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.admission.authority import Authority, Holder
from relay.admission.gate import Gate, Need
from relay.admission.remote import RemoteGate
from relay.errors import RelayError
from tests.quota_rig import NOW, WALL, Limits, ModelLimits, configure
from tests.redis_rig import Call, RedisServer, Relays, Server

Config = tuple[dict[str, Limits], dict[str, str], dict[str, Limits]]
DAY = 86_400_000


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


KINDS = ("alone", "workers", "redis")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield Server(running.client())


class Contract:
    """Makes a line of the kind under test."""

    def __init__(self, kind: str, request: pytest.FixtureRequest) -> None:
        self.kind = kind
        self._request = request

    def line(
        self,
        key: Limits,
        group: Limits | None = None,
        other: Limits | None = None,
    ) -> Line:
        members = {} if group is None else {"shop": "team", "other": "team"}
        groups = {} if group is None else {"team": group}
        return self.of(({"shop": key, "other": other or Limits()}, members, groups))

    def of(self, config: Config) -> Line:
        if self.kind == "alone":
            return Alone(config)
        if self.kind == "workers":
            return Workers(config)
        return Shared(config, self._request.getfixturevalue("server"))


@pytest.fixture(params=KINDS)
def contract(request: pytest.FixtureRequest) -> Contract:
    return Contract(request.param, request)


def last(line: Line) -> int:
    """The other process, where there is one."""
    return len(line.gates) - 1


# --- what holds for every authority ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "need", "most"),
    [
        ({"rpm": 10}, {}, 10),
        ({"concurrent": 5}, {}, 5),
        ({"requests_per_day": 10}, {}, 10),
        ({"tpm": 1000}, {"tokens": 100}, 10),
        ({"tokens_per_day": 1000}, {"worst": 100}, 10),
        ({"tokens_per_month": 1000}, {"worst": 100}, 10),
        ({"usd_per_day": 0.01}, {"cost": 10**6}, 10),
        ({"usd_per_month": 0.01}, {"cost": 10**6}, 10),
    ],
)
def test_a_limit_admits_exactly_what_it_holds(
    contract: Contract, limits: dict[str, Any], need: dict[str, Any], most: int
) -> None:
    line = contract.line(Limits(**limits))

    calls = [line.call(number % len(line.gates), **need) for number in range(most + 5)]

    assert [call.open for call in calls] == [True] * most + [False] * 5
    assert {call.error.reason for call in calls[most:]} == set(limits)


def test_a_refusal_takes_nothing_of_any_limit(contract: Contract) -> None:
    line = contract.line(Limits(rpm=5, tpm=100, tokens_per_day=100), Limits(usd_per_day=1e-6))

    refused = [
        line.call(tokens=101),
        line.call(last(line), tokens=1, worst=101),
        line.call(tokens=1, worst=1, cost=1001),
    ]
    whole = line.call(last(line), tokens=100, worst=100, cost=1000)

    assert [call.error.reason for call in refused] == ["tpm", "tokens_per_day", "usd_per_day"]
    assert whole.open


def test_what_a_call_did_not_use_comes_back_and_what_it_used_more_is_a_debt(
    contract: Contract,
) -> None:
    line = contract.line(Limits(tpm=600, tokens_per_day=1000))
    first = line.call(tokens=600, worst=600)
    line.settle(first, tokens=100)

    second = line.call(last(line), tokens=500, worst=500)
    line.settle(second, tokens=800)
    third = line.call(tokens=1, worst=1)
    line.passes(30_100)
    fourth = line.call(tokens=1, worst=1)

    assert second.open
    assert third.error.reason == "tpm"
    assert third.error.wait == 30.1
    assert fourth.open


def test_a_refund_never_lets_more_through_than_the_window_holds(contract: Contract) -> None:
    line = contract.line(Limits(tpm=600))
    long = line.call(tokens=600)
    line.passes(60_000)
    full = line.call(last(line), tokens=600)

    line.settle(long, tokens=0)
    more = line.call(tokens=1)

    assert full.open
    assert not more.open


def test_a_day_ends_for_all_and_its_calls_settle_into_nothing(contract: Contract) -> None:
    line = contract.line(Limits(tokens_per_day=100, tokens_per_month=1000))
    old = line.call(worst=100)
    assert not line.call(last(line), worst=1).open

    line.passes(DAY)
    line.settle(old, tokens=100)
    new = line.call(last(line), worst=100)
    more = line.call(worst=1)

    assert new.open
    assert more.error.reason == "tokens_per_day"


def test_models_and_limits_that_only_count(contract: Contract) -> None:
    line = contract.line(
        Limits(rpm=3, models={"big": ModelLimits(rpm=1), "tried": ModelLimits(rpm=1, shadow=True)})
    )

    calls = [line.call(model=model) for model in ("big", "big", "tried")]
    shadowed = line.call(last(line), model="tried")
    over = line.call(model="tried")

    assert [call.open for call in calls] == [True, False, True]
    assert shadowed.open
    assert over.error.reason == "rpm"
    if contract.kind != "workers":
        assert sum(sum(gate.shadowed.values()) for gate in line.gates) == 1


def test_a_reload_keeps_what_was_used(contract: Contract) -> None:
    line = contract.line(Limits(rpm=4, tokens_per_day=100, concurrent=9))
    calls = [line.call(worst=20) for _ in range(3)]

    line.reload(({"shop": Limits(rpm=2, tokens_per_day=70, concurrent=9)}, {}, {}))
    one = line.call(last(line), worst=10)
    none = line.call(worst=0)
    line.reload(({"shop": Limits(rpm=9, tokens_per_day=75, concurrent=4)}, {}, {}))
    line.passes(60_000)
    budget = line.call(last(line), worst=6)
    permits = line.call(worst=5)

    assert all(call.open for call in calls)
    assert one.open
    assert none.error.reason == "rpm"
    assert budget.error.reason == "tokens_per_day"
    assert permits.error.reason == "concurrent"


# --- any order of events --------------------------------------------------------------------------

CONFIGS: list[Config] = [
    (
        {"a": Limits(rpm=5, tpm=300, concurrent=3, tokens_per_day=400), "b": Limits(rpm=7)},
        {"a": "team", "b": "team"},
        {"team": Limits(rpm=9, tpm=350, concurrent=4, usd_per_day=4e-7)},
    ),
    (
        {
            "a": Limits(tpm=250, models={"m": ModelLimits(rpm=3), "n": ModelLimits(concurrent=1)}),
            "b": Limits(tpm=160, tokens_per_month=500),
        },
        {"a": "team"},
        {"team": Limits(requests_per_day=12, shadow=True)},
    ),
    ({"a": Limits(concurrent=2, usd_per_month=5e-7), "b": Limits(rpm=7, tpm=0)}, {}, {}),
]

STEP = st.tuples(
    st.sampled_from(["call", "call", "settle", "pass"]),
    st.integers(0, 150),
    st.integers(0, 200),
    st.integers(0, 9_000),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(config=st.sampled_from(CONFIGS), plan=st.lists(STEP, max_size=40))
@pytest.mark.parametrize("contract", KINDS[1:], indirect=True)
def test_every_answer_is_that_of_one_process(
    contract: Contract, config: Config, plan: list[tuple[str, int, int, int]]
) -> None:
    line, alone = contract.of(config), Alone(config)
    running: list[tuple[Call, Call]] = []
    for what, amount, actual, ms in plan:
        if what == "call":
            key, model = ("a", "b")[amount % 2], ("m", "n")[actual % 2]
            need = {"tokens": amount, "worst": actual, "cost": amount}
            expected = alone.call(0, key, model, **need)
            call = line.call(ms % 2, key, model, **need)
            assert _said(call) == _said(expected)
            if expected.open:
                running.append((expected, call))
            assert line.headers(ms % 2, key, model) == alone.headers(0, key, model)
        elif what == "settle" and running:
            expected, call = running.pop(amount % len(running))
            alone.settle(expected, actual, amount)
            line.settle(call, actual, amount)
        elif what == "pass":
            alone.passes(ms * 3)
            line.passes(ms * 3)

    assert sum(gate.inflight for gate in line.gates) == len(running)


def _said(call: Call) -> list[object]:
    return [
        None if each is None else (type(each), each.body(), each.headers(), each.reason)
        for each in call.told
    ]


def test_the_script_ships(tmp_path: Path) -> None:
    from relay.quota import script

    assert "redis.call('TIME')" in script.source()
