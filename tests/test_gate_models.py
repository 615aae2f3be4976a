"""Limits of single models, and limits that only count."""

from __future__ import annotations

from typing import Any

import pytest

from relay.admission.authority import Authority, Holder
from relay.admission.gate import Gate, Lease, Need
from relay.admission.principals import Principal
from relay.errors import RelayError
from tests.quota_rig import NOW, WALL, Limits, ModelLimits, admitted, configure, ratios, refused


def gate_of(key: Limits, group: Limits | None = None) -> tuple[Gate, Principal]:
    members = {} if group is None else {"shop": "team"}
    groups = {} if group is None else {"team": group}
    principals, compiled = configure({"shop": key}, members, groups)
    return Gate(principals, compiled), principals.by_id["shop"]


def call(
    gate: Gate, principal: Principal, model: str, now: float = NOW, **need: int
) -> Lease | RelayError:
    amounts = Need(need.get("tokens", 0), need.get("worst", 0), need.get("cost", 0))
    try:
        return gate.reserve(principal, model, amounts, now, WALL)
    except RelayError as error:
        return error


# --- of single models -----------------------------------------------------------------------------


def test_a_models_own_limit_counts_its_calls_only() -> None:
    gate, shop = gate_of(Limits(models={"big": ModelLimits(rpm=1)}))

    admitted(call(gate, shop, "big"))
    error = refused(call(gate, shop, "big"))

    assert error.reason == "rpm"
    assert "1 requests per minute (rpm of this model)" in error.message
    for _ in range(5):
        admitted(call(gate, shop, "small"))


def test_a_call_draws_on_the_models_limit_and_on_that_of_all_models() -> None:
    gate, shop = gate_of(Limits(rpm=3, models={"big": ModelLimits(rpm=2)}))

    answers = [call(gate, shop, model) for model in ("big", "big", "big", "small", "small")]

    assert [isinstance(answer, Lease) for answer in answers] == [True, True, False, True, False]
    assert "(rpm)" in refused(answers[4]).message


def test_keys_of_a_group_share_its_limits_of_a_model() -> None:
    team = Limits(models={"big": ModelLimits(concurrent=1)})
    principals, groups = configure(
        {"a": Limits(), "b": Limits()}, {"a": "team", "b": "team"}, {"team": team}
    )
    gate = Gate(principals, groups)

    lease = admitted(call(gate, principals.by_id["a"], "big"))
    error = refused(call(gate, principals.by_id["b"], "big"))
    lease.cancel(NOW)

    assert "your key's group" in error.message
    admitted(call(gate, principals.by_id["b"], "big"))


@pytest.mark.parametrize("name", ["tokens_per_day", "usd_per_month"])
def test_a_budget_of_a_model_is_settled_to_what_was_used(name: str) -> None:
    limit = {"tokens_per_day": 100, "usd_per_month": 1e-7}[name]
    gate, shop = gate_of(Limits(models={"big": ModelLimits(**{name: limit})}))  # type: ignore[arg-type]

    first = admitted(call(gate, shop, "big", worst=100, cost=100))
    assert refused(call(gate, shop, "big", worst=1, cost=1)).reason == name
    first.settle(NOW, 40, 40)

    admitted(call(gate, shop, "big", worst=60, cost=60))
    assert refused(call(gate, shop, "big", worst=1, cost=1)).reason == name


def test_headers_tell_the_limits_that_a_call_to_that_model_has() -> None:
    gate, shop = gate_of(Limits(rpm=100, models={"big": ModelLimits(rpm=2)}))

    admitted(call(gate, shop, "big"))

    assert b"x-ratelimit-limit-requests: 2\r\n" in gate.headers(shop, NOW, "big")
    assert b"x-ratelimit-remaining-requests: 1\r\n" in gate.headers(shop, NOW, "big")
    assert b"x-ratelimit-remaining-requests: 99\r\n" in gate.headers(shop, NOW, "small")


def test_the_ratio_of_a_limit_is_that_of_its_tightest_model() -> None:
    gate, shop = gate_of(Limits(rpm=100, models={"a": ModelLimits(rpm=4), "b": ModelLimits(rpm=2)}))

    admitted(call(gate, shop, "b"))

    assert ratios(gate) == {("shop", "rpm"): 0.5}


def test_a_reload_keeps_what_was_used_of_a_models_limit() -> None:
    gate, shop = gate_of(Limits(models={"big": ModelLimits(requests_per_day=3)}))
    admitted(call(gate, shop, "big"))
    admitted(call(gate, shop, "big"))

    principals, groups = configure(
        {"shop": Limits(models={"big": ModelLimits(requests_per_day=2)})}
    )
    gate.reload(principals, groups)
    shop = principals.by_id["shop"]

    assert refused(call(gate, shop, "big")).reason == "requests_per_day"
    admitted(call(gate, shop, "small"))


@pytest.mark.parametrize(
    ("model", "counts", "caps"), [("big", True, True), ("small", False, False)]
)
def test_only_calls_to_the_limited_model_are_measured(model: str, counts: bool, caps: bool) -> None:
    gate, shop = gate_of(Limits(models={"big": ModelLimits(usd_per_day=1)}))

    purse = gate.purse(shop).of(model)

    assert (purse.counts_tokens, purse.counts_money, purse.caps_output) == (counts, counts, caps)


def test_another_process_tells_and_restores_the_levels_of_models() -> None:
    limits = Limits(rpm=9, models={"big": ModelLimits(concurrent=1, tokens_per_day=100)})
    principals, groups = configure({"shop": limits})
    authority, holder = Authority(principals, groups), Holder()

    assert authority.ask(holder, (1, "shop", "big", 0, 60, 0), NOW, WALL) is None
    successor, kept = Authority(principals, groups), Holder()
    successor.restore(kept, [(1, "shop", "big", 0, 60, 0)], NOW, WALL)
    successor.adopt({"shop": authority.levels("shop")})

    refusal = successor.ask(Holder(), (1, "shop", "big", 0, 1, 0), NOW, WALL)
    assert refusal is not None and refusal[2] == "concurrent"
    successor.settle(kept, 1, 60, 0, NOW)
    refusal = successor.ask(Holder(), (2, "shop", "big", 0, 41, 0), NOW, WALL)
    assert refusal is not None and refusal[2] == "tokens_per_day"
    assert authority.levels("shop")[1] == successor.levels("shop")[1]


# --- that only count ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "calls", "over"),
    [
        ({"rpm": 2}, 5, 3),
        ({"concurrent": 2}, 5, 3),
        ({"requests_per_day": 2}, 5, 3),
        ({"tokens_per_day": 25}, 5, 3),
        ({"usd_per_month": 25e-9}, 5, 3),
        ({"tpm": 25}, 5, 3),
    ],
)
def test_a_shadow_limit_counts_whom_it_would_refuse(
    limits: dict[str, Any], calls: int, over: int
) -> None:
    gate, shop = gate_of(Limits(**limits, shadow=True))
    (name,) = limits

    for _ in range(calls):
        admitted(call(gate, shop, "m", tokens=10, worst=10, cost=10))

    assert gate.shadowed == {("shop", name): over}
    assert gate.headers(shop, NOW) == b""
    assert not gate.purse(shop).caps_output


def test_a_shadow_rate_recovers_as_if_it_had_refused() -> None:
    gate, shop = gate_of(Limits(rpm=60, shadow=True))

    for _ in range(600):
        admitted(call(gate, shop, "m"))
    admitted(call(gate, shop, "m", now=NOW + 1.0))

    assert gate.shadowed == {("shop", "rpm"): 540}


def test_a_shadow_budget_counts_beyond_its_limit() -> None:
    gate, shop = gate_of(Limits(tokens_per_day=100, shadow=True))

    for _ in range(3):
        admitted(call(gate, shop, "m", worst=50)).settle(NOW, 50, 0)

    assert ratios(gate) == {("shop", "tokens_per_day"): 1.5}


def test_a_shadow_limit_beside_a_real_one_changes_nothing_about_that() -> None:
    gate, shop = gate_of(Limits(rpm=1, shadow=True), Limits(rpm=3))

    answers = [call(gate, shop, "m") for _ in range(4)]

    assert [isinstance(answer, Lease) for answer in answers] == [True, True, True, False]
    assert gate.shadowed == {("shop", "rpm"): 2}


def test_what_a_shadow_rate_did_not_take_is_not_given_back() -> None:
    gate, shop = gate_of(Limits(tpm=10, shadow=True))

    first = admitted(call(gate, shop, "m", tokens=10))
    second = admitted(call(gate, shop, "m", tokens=10))
    second.settle(NOW, 0, 0)
    admitted(call(gate, shop, "m", tokens=10))
    first.settle(NOW, 0, 0)
    admitted(call(gate, shop, "m", tokens=10))

    assert gate.shadowed == {("shop", "tpm"): 2}


def test_shadow_of_a_key_covers_its_models_and_shadow_of_a_model_only_itself() -> None:
    all_of_it, shop = gate_of(Limits(models={"big": ModelLimits(rpm=1)}, shadow=True))
    one_of_it, other = gate_of(Limits(rpm=2, models={"big": ModelLimits(rpm=1, shadow=True)}))

    answers = [call(all_of_it, shop, "big") for _ in range(3)]
    others = [call(one_of_it, other, "big") for _ in range(3)]

    assert [isinstance(answer, Lease) for answer in answers] == [True] * 3
    assert [isinstance(answer, Lease) for answer in others] == [True, True, False]


def test_shadow_may_be_switched_off_by_a_reload() -> None:
    gate, shop = gate_of(Limits(requests_per_day=1, shadow=True))
    admitted(call(gate, shop, "m"))
    admitted(call(gate, shop, "m"))

    principals, groups = configure({"shop": Limits(requests_per_day=1)})
    gate.reload(principals, groups)

    assert refused(call(gate, principals.by_id["shop"], "m")).reason == "requests_per_day"
