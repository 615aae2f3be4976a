"""What the gate tells whoever keeps its budgets, and what it does with what it is told."""

from __future__ import annotations

import pytest

from relay.admission.authority import STORE, Authority, Holder
from relay.admission.budgets import DAYS, LARGEST, MONTHS, Budgets, Row
from relay.admission.gate import Gate
from relay.admission.period import DAY, end_of_day, end_of_month
from tests.quota_rig import NOW, WALL, Limits, ModelLimits, admitted, ask, configure, refused

TODAY, MONTH = end_of_day(WALL), end_of_month(WALL)
ROW: Row = ("key", "shop", "tokens_per_day", TODAY, 60, 0)


def test_a_change_is_told_once_with_the_state_of_the_moment_it_is_taken() -> None:
    principals, groups = configure({"shop": Limits(tokens_per_day=100, rpm=9, concurrent=9)})
    gate = Gate(principals, groups, Budgets(kept=True))
    gate.budgets.learn([])

    lease = admitted(ask(gate, principals.by_id["shop"], worst=30))
    admitted(ask(gate, principals.by_id["shop"], worst=5)).settle(NOW, 4, 0)
    first = gate.budgets.take(500)
    nothing = gate.budgets.take(500)
    lease.settle(NOW, 20, 0)
    second = gate.budgets.take(500)

    assert first == [("key", "shop", "tokens_per_day", TODAY, 4, 30)]
    assert (nothing, gate.budgets.has_changed) == ([], False)
    assert second == [("key", "shop", "tokens_per_day", TODAY, 24, 0)]


def test_a_refused_call_tells_nothing() -> None:
    principals, groups = configure({"shop": Limits(tokens_per_day=100)})
    gate = Gate(principals, groups, Budgets(kept=True))

    refused(ask(gate, principals.by_id["shop"], worst=101))

    assert not gate.budgets.has_changed


def test_more_than_fits_a_column_is_told_as_the_most_that_fits() -> None:
    principals, groups = configure({"shop": Limits(tokens_per_day=10**30)})
    gate = Gate(principals, groups, Budgets(kept=True))
    gate.budgets.learn([])

    admitted(ask(gate, principals.by_id["shop"], worst=10**25))

    assert gate.budgets.take(1)[0][5] == LARGEST


def test_budgets_that_nobody_keeps_tell_nothing() -> None:
    principals, groups = configure({"shop": Limits(tokens_per_day=100)})
    gate = Gate(principals, groups)

    admitted(ask(gate, principals.by_id["shop"], worst=30)).settle(NOW, 20, 0)

    assert not gate.budgets.has_changed


def test_a_row_of_a_period_that_is_over_gives_a_whole_budget() -> None:
    principals, groups = configure({"shop": Limits(tokens_per_day=100)})
    gate = Gate(principals, groups, Budgets(kept=True))
    gate.budgets.learn([("key", "shop", "tokens_per_day", TODAY - DAY, 100, 0)])

    admitted(ask(gate, principals.by_id["shop"], worst=100))


def test_a_clock_that_was_set_back_gives_no_fresh_budget_after_a_restart() -> None:
    principals, groups = configure({"shop": Limits(tokens_per_day=100)})
    gate = Gate(principals, groups, Budgets(kept=True))
    gate.budgets.learn([("key", "shop", "tokens_per_day", TODAY + DAY, 100, 0)])

    assert refused(ask(gate, principals.by_id["shop"], worst=1)).reason == "tokens_per_day"


def test_a_budget_that_a_reload_takes_away_and_brings_back_goes_on() -> None:
    principals, groups = configure({"shop": Limits(tokens_per_day=100)})
    gate = Gate(principals, groups, Budgets(kept=True))
    gate.budgets.learn([ROW])
    running = admitted(ask(gate, principals.by_id["shop"], worst=40))

    for limits in (Limits(rpm=5), Limits(tokens_per_day=100)):
        principals, groups = configure({"shop": limits})
        gate.reload(principals, groups)
        refusal = ask(gate, principals.by_id["shop"], worst=1)
    running.settle(NOW, 0, 0)

    assert refused(refusal).reason == "tokens_per_day"
    admitted(ask(gate, principals.by_id["shop"], worst=40))
    assert gate.budgets.take(9)[-1][4:] == (60, 40)


def test_rows_that_come_late_are_added_to_what_was_used_meanwhile() -> None:
    principals, groups = configure({"shop": Limits(tokens_per_day=100)})
    gate = Gate(principals, groups, Budgets(kept=True))
    admitted(ask(gate, principals.by_id["shop"], worst=30))

    charged = gate.budgets.learn([("key", "shop", "tokens_per_day", TODAY, 50, 5)])

    assert charged == 1
    assert gate.budgets.take(9) == [("key", "shop", "tokens_per_day", TODAY, 55, 30)]


@pytest.mark.parametrize("opened", [True, False])
def test_what_was_reserved_is_charged_when_everybody_was_heard(opened: bool) -> None:
    principals, groups = configure({"shop": Limits(tokens_per_day=100)})
    gate = Gate(principals, groups, Budgets(kept=True, patient=True))
    assert gate.budgets.learn([("key", "shop", "tokens_per_day", TODAY, 50, 20)]) == 0
    if opened:
        admitted(ask(gate, principals.by_id["shop"], worst=30))

    counts = gate.budgets.charge(), gate.budgets.charge()

    assert counts == (1, 0)
    assert gate.budgets.take(9) == [
        ("key", "shop", "tokens_per_day", TODAY, 70, 30 if opened else 0)
    ]


def test_a_row_that_was_charged_is_never_told_after_what_its_account_did_since() -> None:
    limits = {name: Limits(tokens_per_day=100) for name in ("a", "b", "c")}
    principals, groups = configure(limits)
    gate = Gate(principals, groups, Budgets(kept=True))
    gate.budgets.learn([("key", name, "tokens_per_day", TODAY, 7, 1) for name in limits])
    admitted(ask(gate, principals.by_id["c"], worst=5))

    told = []
    while gate.budgets.has_changed:
        told += gate.budgets.take(1)

    assert [row[4:] for row in told if row[1] == "c"] == [(8, 0), (8, 5)]


AWAY = {
    "of a day": (Limits(tokens_per_day=100), DAYS),
    "of a month": (Limits(usd_per_month=1), MONTHS),
    "of both": (Limits(tokens_per_day=100, tokens_per_month=100), DAYS | MONTHS),
    "rates": (Limits(rpm=5, tpm=500, concurrent=5), 0),
    "that only count": (Limits(tokens_per_day=100, shadow=True), 0),
    "of another model": (Limits(models={"big": ModelLimits(tokens_per_day=9)}), 0),
}


@pytest.mark.parametrize("case", AWAY)
@pytest.mark.parametrize("away", [0, DAYS, MONTHS, DAYS | MONTHS])
def test_budgets_that_are_away_refuse_who_has_one_of_that_period(case: str, away: int) -> None:
    limits, periods = AWAY[case]
    principals, groups = configure({"shop": limits})
    authority = Authority(principals, groups, Budgets(kept=True))
    authority.gate.budgets.away = away

    answer = ask(authority.gate, principals.by_id["shop"], worst=1, cost=1)
    refusal = authority.ask(Holder(), (1, "shop", "m", 0, 1, 1), NOW, WALL)

    if away & periods:
        assert refused(answer).code == "quota_store_unavailable"
        assert refusal is not None
        assert refusal[1] == STORE
    else:
        admitted(answer)
        assert refusal is None


def test_who_lost_all_is_told_all_again() -> None:
    limits = {name: Limits(tokens_per_day=100) for name in ("a", "b", "c")}
    principals, groups = configure(limits)
    gate = Gate(principals, groups, Budgets(kept=True))
    gate.budgets.learn([("key", name, "tokens_per_day", TODAY, 7, 0) for name in ("a", "b")])
    admitted(ask(gate, principals.by_id["a"], worst=1)).settle(NOW, 1, 0)
    gate.budgets.take(9)

    gate.tell_all()
    told = gate.budgets.take(9) + gate.budgets.take(9)

    assert not gate.budgets.has_changed
    assert sorted(told) == [
        ("key", "a", "tokens_per_day", TODAY, 8, 0),
        ("key", "b", "tokens_per_day", TODAY, 7, 0),
    ]
