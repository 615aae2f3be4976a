"""What a key whose money is limited may not use: a model of which nobody has said what it costs."""

from __future__ import annotations

import pytest

from tests.calls import answer, called, fault, model, tries, upstreams
from tests.plane import Plane, play
from tests.rig.raw_client import KEY
from tests.rig.relay_process import Fields

PRICE = {"input": 1, "output": 2}


def limited(**limits: object) -> list[Fields]:
    return [{"id": "tester", "key": KEY, "limits": limits}]


@pytest.mark.parametrize(
    "limits", [{"usd_per_day": 5}, {"usd_per_month": 5}, {"models": {"m": {"usd_per_day": 5}}}]
)
def test_it_is_refused_before_an_upstream_is_asked(limits: Fields) -> None:
    async def scene() -> None:
        async with Plane(upstreams(1), {"m": model("a")}, limited(**limits)) as plane:
            caller, (provider,) = called(plane, "a")

            assert not provider.got
            refusal = caller.answers.only
            assert (refusal.status, refusal.code) == (403, "model_not_priced")
            record = plane.records[0]
            assert (record.reason, record.outcome) == ("unpriced", "client_error")
            assert not record.admitted
            assert plane.gate.leases == []
            caller.leave()

    play(scene())


def test_a_limit_of_the_group_counts_like_one_of_the_key() -> None:
    async def scene() -> None:
        groups = {"team": {"limits": {"usd_per_day": 5}}}
        keys = [{"id": "tester", "key": KEY, "group": "team"}]
        async with Plane(upstreams(1), {"m": model("a")}, keys, groups=groups) as plane:
            caller, _ = called(plane, "a")

            assert caller.answers.only.code == "model_not_priced"
            assert plane.records[0].group == "team"
            caller.leave()

    play(scene())


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"rpm": 5, "tokens_per_day": 10**6},
        {"usd_per_day": 5, "shadow": True},
        {"models": {"other": {"usd_per_day": 5}}},
    ],
)
def test_a_key_whose_money_nothing_limits_there_may_use_it(limits: Fields) -> None:
    async def scene() -> None:
        async with Plane(
            upstreams(1), {"m": model("a"), "other": model("a", price=PRICE)}, limited(**limits)
        ) as plane:
            caller, (provider,) = called(plane, "a", stream=False)
            provider.say(answer())

            assert caller.answers.only.status == 200
            assert plane.records[0].admitted
            caller.leave()

    play(scene())


def test_what_costs_nothing_needs_no_price() -> None:
    async def scene() -> None:
        async with Plane(upstreams(1), {"m": {"static": "sorry"}}, limited(usd_per_day=5)) as plane:
            caller, _ = called(plane, "a", stream=False)

            assert caller.answers.only.status == 200
            assert plane.records[0].outcome == "degraded"
            caller.leave()

    play(scene())


@pytest.mark.parametrize(("limits", "answers"), [({"usd_per_day": 5}, "c"), ({}, "b")])
def test_as_a_fallback_it_is_passed_over(limits: Fields, answers: str) -> None:
    async def scene() -> None:
        models = {
            "m": model("a", fallback=["free", "dear"], price=PRICE),
            "free": model("b"),
            "dear": model("c", price=PRICE),
        }
        async with Plane(upstreams(3), models, limited(**limits)) as plane:
            caller, providers = called(plane, "abc", stream=False)
            providers[0].say(fault(401))
            served = providers["abc".index(answers)]
            served.say(answer())

            assert caller.answers.only.status == 200
            assert tries(plane.records[0])[-1] == (answers, "ok")
            caller.leave()

    play(scene())


def test_when_only_such_fallbacks_are_left_the_failure_is_told() -> None:
    async def scene() -> None:
        models = {"m": model("a", fallback=["free"], price=PRICE), "free": model("b")}
        async with Plane(upstreams(2), models, limited(usd_per_day=5)) as plane:
            caller, (first, second) = called(plane, "ab", stream=False)
            first.say(fault(401))

            assert not second.got
            assert caller.answers.only.status == 503
            assert plane.gate.leases[0].settled == [(0, 0)]
            caller.leave()

    play(scene())
