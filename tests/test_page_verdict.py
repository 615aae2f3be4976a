"""What the page says first: what the sums, upstreams and keys mean."""

from __future__ import annotations

import pytest

from relay.page.facts import Answer, Finding, KeyEnd, KeyUse, Reload, Totals, UpstreamStatus
from relay.page.verdict import headline


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
