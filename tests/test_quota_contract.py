"""One contract, three authorities: this process, the hub of several workers, a store that several relays share.

Every case asks two serving processes in turn, where there are several, and the answers are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract import Alone, Config, Line, Shared, Workers
from tests.quota_rig import Limits, ModelLimits
from tests.redis_rig import Call, RedisServer, Server

DAY = 86_400_000
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
