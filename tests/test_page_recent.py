"""What is kept for the page: the last minutes, the last reload, the ends of keys, today's spending."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.page.expiry import AGAIN, AHEAD, Expiry
from relay.page.facts import (
    ENDS,
    FAILURES,
    FAULTS,
    KEYS,
    LATEST,
    SERVED,
    Answer,
    KeyEnd,
    KeyUse,
    Reload,
    UpstreamStatus,
)
from relay.page.recent import LONGEST_FAULT, TURN, Recent
from relay.page.spend import DAY, Spend
from relay.page.sums import Sums
from relay.page.window import STEP, STEPS, WINDOW, Window
from tests.recorded import FIRST, call, store
from tests.telling import NOON, answered, failed, told

# -- the last minutes --


def test_the_window_forgets_what_is_older() -> None:
    window = Window()
    window.add(told(answered()), 100.0, NOON)

    window.advance(100.0 + WINDOW - STEP)
    before = window.sums("up").calls
    window.advance(100.0 + WINDOW + STEP)

    assert (before, window.sums("up").calls, window.sums().ttft) == (1, 0, {})


@given(st.lists(st.tuples(st.floats(0, 40), st.integers(1, 5)), max_size=60))
def test_the_sums_are_those_of_the_steps_of_the_window(moves: list[tuple[float, int]]) -> None:
    window, now = Window(), 1000.0
    happened = []
    for pause, calls in moves:
        now += pause
        happened.append((int(now // STEP), calls))
        window.add(told(*(answered() for _ in range(calls))), now, NOON)

    last = int(now // STEP)
    expected = sum(calls for step, calls in happened if step >= last - STEPS)
    assert window.sums().calls == expected


def test_of_the_calls_of_all_processes_the_latest_are_kept_in_their_order() -> None:
    window = Window()
    for process in (1, 2):
        records = [call(n, received=FIRST + n) for n in range(process, 200, 2)]
        window.add(told(*records), 1000.0, NOON)

    ends = [each.at - FIRST for each in window.latest]

    assert ends == [*range(200 - LATEST, 200)]


def test_rates_are_of_the_last_minute() -> None:
    window = Window()
    for second in range(300):
        window.add(told(answered()), 1000.0 + second, NOON)

    calls, tokens = window.rates()

    assert calls == pytest.approx(1.0, rel=0.1)
    assert tokens == pytest.approx(100, rel=0.1)


def test_the_curve_has_a_value_for_each_step_in_which_a_stream_began() -> None:
    window = Window()
    window.add(told(answered(0.3), failed()), 1000.0, NOON)
    window.add(told(answered(2.0)), 1000.0 + 2 * STEP, NOON)
    window.advance(1000.0 + 3 * STEP)

    history = window.history(["up", "spare"])

    assert history.ttft["up"][-3:] == [
        pytest.approx(0.3, rel=0.05),
        None,
        pytest.approx(2, rel=0.05),
    ]
    assert history.failed["up"][-3:] == [1, 0, 0]
    assert [len(each) for each in (history.calls, history.ttft["spare"])] == [STEPS, STEPS]


def test_a_removed_upstream_leaves_nothing() -> None:
    window = Window()
    window.add(told(answered(), failed()), 1000.0, NOON)
    window.advance(1000.0 + STEP)

    window.keep(["spare"])

    window.advance(1000.0 + 2 * WINDOW)
    assert (window.sums("up"), set(window.errors)) == (Sums(), {"spare"})


def test_the_curve_of_an_upstream_that_was_removed_does_not_come_back_with_its_name() -> None:
    window = Window()
    window.add(told(answered()), 1000.0, NOON)
    window.advance(1000.0 + STEP)
    before = window.history(["up"]).ttft["up"][-1]

    window.keep([])

    assert before is not None
    assert window.history(["up"]).ttft["up"] == [None] * STEPS


def test_a_report_is_bounded_and_has_the_tightest_limits_first(tmp_path: Path) -> None:
    recent = Recent(tmp_path / "none.db", NOON)
    recent.configure(["up"], 0.8)
    for number in range(100):
        recent.add(told(failed(number), answered(client_request_id="playground-")), 1000.0, NOON)
    ratios = [(f"key-{number}", "rpm", number / 1000) for number in range(1000)]
    report = Answer("1", 1.0, "c", "d", 0, [UpstreamStatus("up", {"closed": 1}, 0, None)])

    async def complete() -> None:
        await recent.complete(report, ratios, Ends({}), {"up": 3}, 1001.0, NOON)

    asyncio.run(complete())

    assert [len(each) for each in (report.failures, report.served)] == [FAILURES, SERVED]
    assert report.failures[0].request_id == failed(99).request_id
    assert (len(report.keys), report.keys[0], report.keys_near) == (
        KEYS,
        KeyUse("key-999", "rpm", 0.999),
        200,
    )
    assert report.totals.waiting == report.upstreams[0].waiting == 3
    assert report.upstreams[0].speed == pytest.approx(100)


def test_limits_are_looked_at_some_in_a_turn(tmp_path: Path) -> None:
    recent = Recent(tmp_path / "none.db", NOON)
    report = Answer("1", 1.0, "c", "d", 0, [])
    turns: list[int] = []

    async def complete() -> None:
        loop = asyncio.get_running_loop()
        looked = 0

        def ratios() -> Iterator[tuple[str, str, float]]:
            nonlocal looked
            for number in range(4 * TURN):
                looked += 1
                yield f"key-{number}", "rpm", 0.9

        def turn() -> None:
            turns.append(looked)
            if looked < 4 * TURN:
                loop.call_soon(turn)

        loop.call_soon(turn)
        await recent.complete(report, ratios(), Ends({}), {}, 1001.0, NOON)

    asyncio.run(complete())

    assert report.keys_near == 4 * TURN
    assert max(after - before for before, after in pairwise(turns)) == TURN


def reported(recent: Recent) -> Answer:
    """What a recent that was told of a reload says of it."""
    report = Answer("1", 1.0, "c", "d", 0, [])

    async def complete() -> None:
        await recent.complete(report, [], Ends({}), {}, 1001.0, NOON)

    asyncio.run(complete())
    return report


def test_the_last_reload_is_told_with_what_it_changed_or_why_it_failed(tmp_path: Path) -> None:
    recent = Recent(tmp_path / "none.db", NOON)
    before = reported(recent).reload
    recent.reloaded({"keys": ["+shop"]}, NOON)
    good = reported(recent).reload
    faults = ["/etc/relay/config.yaml:1:9: models: none"] + ["x" * 1000] * 8
    recent.reload_failed(faults, Path("/etc/relay"), NOON + 1)
    bad = reported(recent).reload

    assert before is None
    assert good == Reload(NOON, True, {"keys": ["+shop"]})
    assert bad is not None
    assert (bad.successful, bad.changes, bad.more_faults) == (False, {}, 9 - FAULTS)
    assert bad.faults == ["config.yaml:1:9: models: none"] + ["x" * LONGEST_FAULT] * (FAULTS - 1)


# -- the ends of keys --


class Ends:
    """Keys by the time at which they expire."""

    def __init__(self, ends: dict[str, float]) -> None:
        self.ends = ends
        self.asked = 0

    def expiries(self) -> Iterable[tuple[str, float]]:
        self.asked += 1
        return self.ends.items()


def test_keys_that_end_soon_and_keys_that_have_are_told_apart() -> None:
    expiry = Expiry()
    keys = Ends({"late": NOON + AHEAD + 1, "next": NOON + 60, "then": NOON + 99, "gone": NOON - 1})

    asyncio.run(expiry.look(keys, NOON))
    first, second = expiry.told(NOON), expiry.told(NOON + 61)

    assert first.soon == [KeyEnd("next", NOON + 60), KeyEnd("then", NOON + 99)]
    assert (first.soon_count, first.past_count) == (2, 1)
    assert [end.key for end in second.soon] == ["then", "late"]
    assert [end.key for end in second.past] == ["next", "gone"]
    assert (second.soon_count, second.past_count) == (2, 2)


def test_very_many_ends_are_counted_and_a_few_are_named() -> None:
    expiry = Expiry()
    ends = {f"soon-{n}": NOON + n for n in range(1, 1001)}
    ends |= {f"gone-{n}": NOON - n for n in range(500)}

    asyncio.run(expiry.look(Ends(ends), NOON))
    found = expiry.told(NOON)

    assert [end.key for end in found.soon] == [f"soon-{n}" for n in range(1, ENDS + 1)]
    assert [end.key for end in found.past] == [f"gone-{n}" for n in range(ENDS)]
    assert (found.soon_count, found.past_count) == (1000, 500)


def test_keys_are_looked_at_when_they_are_others_or_an_hour_has_passed() -> None:
    expiry = Expiry()
    keys, others = Ends({}), Ends({})

    async def look() -> None:
        for at in (NOON, NOON + 1, NOON + AGAIN - 1):
            await expiry.look(keys, at)
        await expiry.look(others, NOON + AGAIN - 1)
        await expiry.look(others, NOON + 2 * AGAIN)

    asyncio.run(look())

    assert (keys.asked, others.asked) == (1, 2)


# -- spending --


def spent(spend: Spend, wall: float) -> dict[str, float]:
    return {name: spend.today(name, wall) for name in ("", "up", "spare")}


def test_spending_before_the_start_comes_from_the_ledger(tmp_path: Path) -> None:
    records = [
        call(1, received=FIRST - 5, cost=7_000_000_000),
        call(2, received=FIRST + 5, cost=1_000_000_000),
        call(3, received=FIRST + 6, cost=500_000_000, upstream="spare"),
        call(4, received=NOON + 1, cost=9_000_000_000),
    ]
    spend = Spend(store(tmp_path, records), NOON)

    async def recall() -> None:
        spend.recall(NOON + 2)
        assert spend.since(NOON + 2) == NOON
        assert spend._reading is not None
        await spend._reading
        await asyncio.sleep(0)

    asyncio.run(recall())
    spend.add(told(answered(cost=250_000_000)), NOON + 3)

    assert spent(spend, NOON + 4) == {"": 1.75, "up": 1.25, "spare": 0.5}
    assert spend.since(NOON + 4) == FIRST


def test_without_a_ledger_spending_counts_from_the_start(tmp_path: Path) -> None:
    spend = Spend(tmp_path / "none.db", NOON)

    async def recall() -> None:
        spend.recall(NOON)
        assert spend._reading is not None
        await asyncio.wait([spend._reading])
        await asyncio.sleep(0)

    asyncio.run(recall())

    assert (spend.since(NOON), spend.today("", NOON)) == (NOON, 0.0)


def test_a_new_day_begins_at_nothing(tmp_path: Path) -> None:
    spend = Spend(tmp_path / "none.db", NOON)
    spend.add(told(answered(cost=250_000_000)), NOON)

    tomorrow = FIRST + DAY + 1

    assert spent(spend, tomorrow) == {"": 0.0, "up": 0.0, "spare": 0.0}
    assert spend.since(tomorrow) == FIRST + DAY
