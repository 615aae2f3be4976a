"""What the page is told: sums, the last minutes, what they mean, today's spending."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
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
    Finding,
    KeyEnd,
    KeyUse,
    Reload,
    Totals,
    UpstreamStatus,
)
from relay.page.recent import LONGEST_FAULT, TURN, Recent
from relay.page.spend import DAY, Spend
from relay.page.sums import LAST, Sums, bucket, later_than, middle, percentile
from relay.page.teller import OTHER, TOLD, Teller
from relay.page.telling import Telling
from relay.page.verdict import headline
from relay.page.window import STEP, STEPS, WINDOW, Window
from relay.records import AttemptRecord, CallRecord
from relay.usage import Usage
from tests.recorded import FIRST, call, store

NOON = FIRST + DAY / 2


def told(*records: CallRecord, upstreams: tuple[str, ...] = ("up", "spare")) -> Telling:
    """What a process tells of these calls."""
    teller = Teller()
    teller.configure(["m"], upstreams)
    teller.observe(list(records))
    return teller.take()


def answered(ttft: float = 0.3, upstream: str = "up", **facts: object) -> CallRecord:
    """A streamed call that went well: 100 tokens in a second."""
    given = {
        "upstream": upstream,
        "stream": True,
        "ttft": ttft,
        "duration": ttft + 1.0,
        "attempts": (AttemptRecord(upstream, "ok", ttft * 1000),),
        "usage": Usage(10, 100),
        "cost": 2_000_000,
    }
    return call(0, **given | facts)


def failed(number: int = 0, **facts: object) -> CallRecord:
    attempts = (AttemptRecord("up", "connect_refused", 1.0), AttemptRecord("spare", "5xx", 2.0))
    given = {"outcome": "upstream_error", "code": 502, "attempts": attempts, "upstream": "spare"}
    return call(number, **given | facts)


# -- sums --


@given(st.floats(0.0011, 900))
def test_a_bucket_is_within_five_percent_of_what_it_holds(seconds: float) -> None:
    assert abs(middle(bucket(seconds)) - seconds) <= 0.05 * seconds


@pytest.mark.parametrize(("seconds", "number"), [(0.0, 0), (0.001, 0), (1e9, LAST)])
def test_times_beyond_the_edges_stay_in_the_outer_buckets(seconds: float, number: int) -> None:
    assert bucket(seconds) == number


@given(st.lists(st.floats(0.002, 100), min_size=1), st.sampled_from([0.5, 0.95]))
def test_a_percentile_is_that_of_the_times(times: list[float], share: float) -> None:
    sums = Sums()
    for seconds in times:
        sums.began(seconds)

    found = percentile(sums.ttft, share)

    rank = max(0, -int(-len(times) * share // 1) - 1)
    assert found == pytest.approx(sorted(times)[rank], rel=0.06)


def test_nothing_has_no_percentile_and_no_share() -> None:
    assert percentile({}, 0.5) is None
    assert later_than({}, 0.8) is None


def test_the_share_of_late_streams_is_counted() -> None:
    sums = Sums()
    for seconds in (0.1, 0.2, 0.3, 2.0):
        sums.began(seconds)

    assert later_than(sums.ttft, 0.8) == 0.25


def test_what_was_added_can_be_taken_away() -> None:
    one, other = told(answered(0.3), failed()).all, told(answered(2.0), answered(0.3)).all
    both = one.copy()
    both.add(other)

    both.add(other, -1)

    assert both == one


# -- telling --


def test_tokens_money_and_first_tokens_are_those_of_the_upstream_that_answered() -> None:
    attempts = (AttemptRecord("spare", "connect_refused", 4.0), AttemptRecord("up", "ok", 250.0))

    made = told(answered(0.4, attempts=attempts))

    up, spare = made.upstreams["up"], made.upstreams["spare"]
    assert (up.calls, up.failed, up.tokens, up.cost) == (1, 0, 100, 2_000_000)
    assert (spare.calls, spare.failed, spare.tokens, spare.ttft) == (1, 1, 0, {})
    assert percentile(up.ttft, 0.5) == pytest.approx(0.25, rel=0.05)
    assert percentile(made.all.ttft, 0.5) == pytest.approx(0.4, rel=0.05)
    assert made.errors == {"spare": "connect_refused"}
    assert made.failures == []


@pytest.mark.parametrize("result", ["ok", "cancelled", "client_error", "stale_conn"])
def test_an_upstream_is_not_blamed_for_what_others_did(result: str) -> None:
    made = told(call(attempts=(AttemptRecord("up", result, 1.0),)))

    assert made.upstreams["up"].failed == 0


def test_a_failure_is_told_with_its_reasons_and_without_addresses() -> None:
    record = failed(
        7, client="203.0.113.7", error="upstream_unreachable", trace_id="abc", group="team"
    )

    (failure,) = told(record).failures

    assert (failure.request_id, failure.outcome) == (record.request_id, "upstream_error")
    assert (failure.key, failure.model, failure.upstream) == ("shop", "m", "spare")
    assert [(each.upstream, each.result) for each in failure.tries] == [
        ("up", "connect_refused"),
        ("spare", "5xx"),
    ]
    assert b"203.0.113.7" not in msgspec.json.encode(failure)


def test_names_that_are_not_configured_are_other() -> None:
    attempts = (AttemptRecord("gone", "5xx", 1.0),)

    (failure,) = told(failed(model="<b>", served_model=None, attempts=attempts)).failures

    assert failure.model == OTHER
    assert failure.tries[0].upstream == OTHER


def test_the_list_of_models_is_no_call() -> None:
    made = told(call(admitted=False, operation="models"))

    assert made.all.calls == 0


def test_refusals_stand_apart_from_failures() -> None:
    made = told(
        failed(1),
        call(2, outcome="rate_limited", admitted=False, reason="rpm"),
        call(3, outcome="client_error", admitted=False),
        call(4, outcome="client_cancelled"),
    )

    assert [each.request_id for each in made.failures] == [call(1).request_id]
    assert [each.reason for each in made.refusals] == ["rpm", None]
    assert (made.all.calls, made.all.failed, made.all.refused, made.all.cancelled) == (4, 1, 2, 1)


def test_calls_of_a_playground_are_told_whole() -> None:
    made = told(
        answered(0.3, client_request_id="playground-1", overhead=0.0004),
        answered(0.3, client_request_id="mine"),
    )

    (served,) = made.served
    assert (served.upstream, served.output_tokens, served.cost_usd) == ("up", 100, 0.002)
    assert (served.ttft, served.overhead) == (0.3, 0.0004)


def test_the_latest_calls_are_told_with_how_fast_they_were() -> None:
    made = told(
        answered(0.5),
        failed(2, model="<b>", served_model=None),
        call(3, admitted=False, operation="models"),
        call(4, outcome="client_cancelled", code=499),
    )

    stream, broken, left = made.latest
    assert (stream.upstream, stream.model, stream.key) == ("up", "m", "shop")
    assert [stream.ttft, stream.speed] == pytest.approx([0.5, 100])
    assert (broken.outcome, broken.model, broken.speed) == ("upstream_error", OTHER, None)
    assert (left.outcome, left.code) == ("client_cancelled", 499)


def test_of_the_calls_of_all_processes_the_latest_are_kept_in_their_order() -> None:
    window = Window()
    for process in (1, 2):
        records = [call(n, received=FIRST + n) for n in range(process, 200, 2)]
        window.add(told(*records), 1000.0, NOON)

    ends = [each.at - FIRST for each in window.latest]

    assert ends == [*range(200 - LATEST, 200)]


def test_a_storm_is_told_in_bounds() -> None:
    records = [failed(number, client_request_id="playground-") for number in range(5000)]
    records += [call(number, outcome="client_error") for number in range(5000)]

    made = told(*records)

    assert made.all.failed == 5000
    assert [len(each) for each in (made.failures, made.refusals, made.served)] == [TOLD] * 3
    assert len(made.latest) == LATEST
    assert made.failures[-1].request_id == records[4999].request_id
    assert len(msgspec.msgpack.encode(made)) < 20_000


def test_what_was_taken_is_told_once() -> None:
    teller = Teller()
    teller.configure(["m"], ["up"])
    teller.observe([answered()])

    assert [teller.take().all.calls, teller.take().all.calls] == [1, 0]


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


# -- what it means --


def healthy(**facts: object) -> Answer:
    """A relay without a worry: two upstreams, a thousand calls."""
    upstreams = [
        UpstreamStatus(name, {"closed": 1}, 0, 10, attempts=500, ttft_p50=0.3, ttft_p95=0.5)
        for name in ("up", "spare")
    ]
    answer = Answer("1", 1.0, "c", "d", 0, upstreams, ttft_target=0.8)
    answer.totals = Totals(calls=1000, ttft_p50=0.3, ttft_p95=0.5, slow_share=0.01)
    answer.keys = [KeyUse("shop", "rpm", 0.4)]
    for name, fact in facts.items():
        setattr(answer, name, fact)
    return answer


def said(answer: Answer) -> list[tuple[str, str, str]]:
    return [(each.about, each.code, each.level) for each in headline(answer)]


def finding(answer: Answer, code: str) -> Finding:
    return next(each for each in headline(answer) if each.code == code)


def test_three_questions_are_answered_when_all_is_well() -> None:
    assert said(healthy()) == [
        ("users", "fine", "good"),
        ("upstreams", "fine", "good"),
        ("keys", "fine", "good"),
    ]


def test_without_calls_nobody_can_have_noticed() -> None:
    answer = healthy(totals=Totals(calls=5, refused=5), keys=[])

    assert said(answer)[0] == ("users", "quiet", "note")
    assert said(answer)[-1] == ("keys", "unlimited", "good")


@pytest.mark.parametrize(("count", "level"), [(1, "warn"), (30, "bad")])
def test_failed_calls_are_the_first_thing_said(count: int, level: str) -> None:
    totals = Totals(calls=1010, refused=10, failed=count, slow_share=0.0)

    found = headline(healthy(totals=totals))[0]

    assert (found.code, found.level) == ("errors", level)
    assert found.facts == {"share": count / 1000, "failed": count, "calls": 1000}


def test_users_who_wait_notice_too() -> None:
    totals = Totals(calls=1000, slow_share=0.2, ttft_p95=3.0)

    assert said(healthy(totals=totals))[0] == ("users", "wait", "warn")


def test_the_slow_upstream_is_named_beside_the_others() -> None:
    answer = healthy()
    answer.upstreams[1].ttft_p50, answer.upstreams[1].ttft_p95 = 2.4, 3.0

    found = finding(answer, "slow")

    assert found.facts == {"name": "spare", "p50": 2.4, "others": 0.3}


def test_one_slow_answer_makes_no_slow_upstream() -> None:
    answer = healthy()
    answer.upstreams[1] = UpstreamStatus(
        "spare", {"closed": 1}, 0, None, attempts=1, ttft_p50=9.0, ttft_p95=9.0
    )

    assert ("upstreams", "fine", "good") in said(answer)


def test_an_upstream_that_is_out_is_said_once() -> None:
    answer = healthy()
    one = answer.upstreams[0]
    one.states, one.failed, one.last_error = {"open": 2, "closed": 0}, 400, "5xx"

    assert ("upstreams", "open", "bad") in said(answer)
    assert ("upstreams", "failing", "bad") not in said(answer)
    assert finding(answer, "open").facts == {"name": "up", "error": "5xx"}


def test_an_upstream_that_fails_at_times_and_one_that_is_full_are_named() -> None:
    answer = healthy()
    answer.upstreams[0].failed = 50
    answer.upstreams[1].inflight = 10

    assert ("upstreams", "failing", "warn") in said(answer)
    assert finding(answer, "full").facts == {"name": "spare", "inflight": 10, "most": 10}


def test_keys_near_their_limits_are_named_three_at_most() -> None:
    keys = [KeyUse(f"key-{n}", "tpm", 1.1 - n / 10) for n in range(5)]

    found = [each for each in headline(healthy(keys=keys, keys_near=7)) if each.about == "keys"]

    assert [(each.code, each.level) for each in found] == [
        ("near", "bad"),
        ("near", "bad"),
        ("near", "warn"),
        ("more", "warn"),
    ]
    assert found[3].facts == {"limits": 4}


def test_keys_that_end_within_a_week_or_ended_within_a_day_are_named() -> None:
    day = 86_400.0
    ends = [KeyEnd(f"key-{n}", n * day) for n in (1, 2, 3, 4, 9)]
    answer = healthy(at=0.0, expiring=ends)
    answer.expired = [KeyEnd("gone", -0.5 * day), KeyEnd("long-gone", -2 * day)]

    found = [each for each in headline(answer) if each.code in ("expires", "expired")]

    assert [(each.facts["key"], each.level) for each in found] == [
        ("key-1", "warn"),
        ("key-2", "warn"),
        ("key-3", "warn"),
        ("gone", "warn"),
    ]
    assert found[0].facts["left"] == day
    assert found[3].facts["left"] == day / 2


def test_a_reload_that_failed_is_named_with_its_first_fault() -> None:
    answer = healthy(reload_successful=False, reload=Reload(1.0, False, {}, ["no models", "x"]))

    assert finding(answer, "reload_failed").facts == {"fault": "no models"}


def test_a_relay_that_is_not_ready_says_so_before_all() -> None:
    answer = healthy(
        ready=False, reason="draining", degraded=["model m: away"], reload_successful=False
    )
    answer.totals.waiting = 4

    assert [each[1] for each in said(answer)[:4]] == [
        "not_ready",
        "degraded",
        "reload_failed",
        "waiting",
    ]
