"""A gate whose authority is another process answers as the gate of one process does, later."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.admission.authority import Authority, Holder
from relay.admission.gate import Gate, Lease, Need
from relay.admission.remote import PATIENCE, RemoteGate
from relay.errors import RelayError, StoreUnavailable
from tests.quota_rig import NOW, WALL, Limits, configure


class Call:
    """Asks once; remembers what it was told."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.told: list[RelayError | None] = []

    def admitted(self) -> None:
        self.told.append(None)

    def refused(self, error: RelayError) -> None:
        self.told.append(error)


class Line:
    """One worker's gate, and the authority at the other end of a link without delay."""

    def __init__(self, limits: Limits, workers: int = 1) -> None:
        principals, groups = configure({"shop": limits, "free": Limits()})
        self.principals, self.groups = principals, groups
        self.authority = Authority(principals, groups)
        self.gates = [RemoteGate(principals, groups) for _ in range(workers)]
        self.holders = [Holder() for _ in self.gates]

    def call(self, worker: int = 0, key: str = "shop", now: float = NOW, **need: int) -> Call:
        call = Call()
        amounts = Need(need.get("tokens", 0), need.get("worst", 0), need.get("cost", 0))
        principal = self.principals.by_id[key]
        call.lease = self.gates[worker].reserve(principal, "m", amounts, now, WALL, call)
        return call

    def turn(self, worker: int = 0, now: float = NOW) -> None:
        """What was to be said is said and answered."""
        gate, holder = self.gates[worker], self.holders[worker]
        asks, settled = gate.take()
        for number, tokens, cost in settled:
            self.authority.settle(holder, number, tokens, cost, now)
        granted, denied = [], []
        for ask in asks:
            refusal = self.authority.ask(holder, ask, now, WALL)
            if refusal is None:
                granted.append(ask[0])
            else:
                denied.append(refusal)
        gate.follow({ask[1]: self.authority.levels(ask[1]) for ask in asks})
        gate.granted(granted)
        gate.refused(denied)


@settings(max_examples=200, deadline=None)
@given(
    limits=st.fixed_dictionaries(
        {},
        optional={
            "rpm": st.integers(1, 6),
            "tpm": st.integers(1, 300),
            "concurrent": st.integers(1, 4),
            "tokens_per_day": st.integers(1, 600),
            "usd_per_month": st.integers(1, 3),
        },
    ),
    plan=st.lists(
        st.tuples(st.booleans(), st.integers(0, 150), st.integers(0, 150), st.integers(0, 9)),
        max_size=30,
    ),
)
def test_every_answer_is_that_of_one_process(
    limits: dict[str, Any], plan: list[tuple[bool, int, int, int]]
) -> None:
    line = Line(Limits(**limits), workers=2)
    local = Gate(line.principals, line.groups)
    principal = line.principals.by_id["shop"]
    running: list[tuple[Lease, Lease, int]] = []
    now = NOW
    for begins, amount, actual, step in plan:
        now += step * 0.37
        worker = amount % 2
        if begins or not running:
            amounts = {"tokens": amount, "worst": amount, "cost": amount * 10**7}
            expected = _ask(local, principal, now, amounts)
            call = line.call(worker, "shop", now, **amounts)
            line.turn(worker, now)
            lease = call.lease
            assert lease is not None
            if isinstance(expected, Lease):
                running.append((expected, lease, worker))
                assert lease.open
            else:
                (told,) = call.told
                assert told is not None
                assert _same(told, expected)
            assert line.gates[worker].headers(principal, now) == local.headers(principal, now)
        else:
            first, second, worker = running.pop(actual % len(running))
            for each in (first, second):
                each.settle(now, actual, actual * 10**7)
            line.turn(worker, now)
            ratios = [gate.iter_ratios(now, WALL) for gate in (line.authority.gate, local)]
            assert list(ratios[0]) == list(ratios[1])

    assert local.inflight == len(running)
    if limits:
        assert line.authority.gate.inflight == len(running)
    assert sum(gate.inflight for gate in line.gates) == len(running)


def _ask(gate: Gate, principal: Any, now: float, need: dict[str, int]) -> Lease | RelayError:
    try:
        return gate.reserve(
            principal, "m", Need(need["tokens"], need["worst"], need["cost"]), now, WALL
        )
    except RelayError as error:
        return error


def _same(first: RelayError, second: RelayError) -> bool:
    return (type(first), first.body(), first.headers(), first.reason) == (
        type(second),
        second.body(),
        second.headers(),
        second.reason,
    )


def test_a_key_without_limits_asks_nobody() -> None:
    line = Line(Limits(rpm=1))

    call = line.call(key="free")

    assert call.lease is not None
    assert call.lease.open
    assert line.gates[0].take() == ([], [])


def test_a_call_that_leaves_before_the_answer_keeps_nothing() -> None:
    line = Line(Limits(concurrent=1))
    gone = line.call()
    assert gone.lease is not None
    gone.lease.cancel(NOW)
    line.turn()
    line.turn()

    other = line.call()
    line.turn()

    assert gone.told == []
    assert other.told == [None]
    assert line.gates[0].inflight == 1


def test_a_call_that_leaves_between_its_question_and_the_answer_is_forgotten_at_once() -> None:
    line = Line(Limits(concurrent=1))
    gone = line.call()
    asks, _ = line.gates[0].take()
    assert gone.lease is not None
    gone.lease.cancel(NOW)
    other = line.call()

    assert line.authority.ask(line.holders[0], asks[0], NOW, WALL) is None
    line.turn()
    line.gates[0].granted([asks[0][0]])
    line.turn()

    assert gone.told == []
    assert other.told == [None]
    assert line.authority.gate.inflight == 1


def test_a_call_that_nobody_answers_is_refused_after_its_patience_and_its_late_grant_given_back() -> (
    None
):
    line = Line(Limits(concurrent=1))
    call = line.call()
    asks, _ = line.gates[0].take()

    line.gates[0].expire(NOW + PATIENCE - 0.01)
    early = list(call.told)
    line.gates[0].expire(NOW + PATIENCE)
    line.authority.ask(line.holders[0], asks[0], NOW, WALL)
    line.gates[0].granted([asks[0][0]])
    line.turn()

    assert early == []
    assert [type(each) for each in call.told] == [StoreUnavailable]
    assert line.authority.gate.inflight == 0
    assert line.gates[0].failures == 1


def test_the_death_of_a_holder_frees_permits_charges_budgets_and_forgets_no_rate() -> None:
    line = Line(Limits(concurrent=2, rpm=10, tokens_per_day=1000))
    for _ in range(2):
        line.call(worst=400)
    line.turn()

    line.authority.died(line.holders[0], NOW)
    line.holders[0] = Holder()
    fits, too_much = line.call(worst=200), line.call(worst=1)
    line.turn()

    assert fits.told == [None]
    assert [type(each).__name__ for each in too_much.told] == ["BudgetSpent"]
    ratios = {name: ratio for _, name, ratio in line.authority.gate.iter_ratios(NOW, WALL)}
    assert ratios == {"concurrent": 0.5, "rpm": 0.3, "tokens_per_day": 1.0}


@pytest.mark.parametrize("settles", [False, True])
def test_an_authority_that_begins_anew_learns_what_is_held_and_used(settles: bool) -> None:
    line = Line(Limits(concurrent=2, rpm=10, tokens_per_day=1000))
    first, second = line.call(worst=400), line.call(worst=300)
    line.turn()
    waiting = line.call(worst=10)
    assert first.lease is not None
    if settles:
        first.lease.settle(NOW, 350, 0)

    line.authority = Authority(line.principals, line.groups)
    line.holders = [Holder()]
    held, levels = line.gates[0].restate()
    line.authority.restore(line.holders[0], held, NOW, WALL)
    line.authority.adopt(levels)
    line.turn()
    ratios = {name: ratio for _, name, ratio in line.authority.gate.iter_ratios(NOW, WALL)}

    assert second.told == [None]
    if settles:
        assert waiting.told == [None]
        assert ratios["concurrent"] == 1.0
        assert ratios["rpm"] == 0.3
        assert ratios["tokens_per_day"] >= 0.66
    else:
        assert [type(each).__name__ for each in waiting.told] == ["RateLimited"]
        assert ratios == {"concurrent": 1.0, "rpm": 0.2, "tokens_per_day": 0.7}


def test_calls_of_a_key_that_a_reload_removed_are_still_judged_by_its_limits() -> None:
    line = Line(Limits(rpm=1))
    first = line.call()
    line.turn()

    principals, groups = configure({"free": Limits()})
    line.authority.reload(principals, groups)
    second = line.call()
    line.turn()

    assert first.told == [None]
    assert [type(each).__name__ for each in second.told] == ["RateLimited"]
