"""What a process tells the page of its calls, and the sums they make."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.page.facts import LATEST
from relay.page.sums import LAST, Sums, bucket, later_than, middle, percentile
from relay.page.teller import OTHER, TOLD, Teller
from relay.records import AttemptRecord
from tests.recorded import call
from tests.telling import answered, failed, told

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
