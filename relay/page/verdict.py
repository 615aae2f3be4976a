"""What to make of the figures, in three questions: do users notice, which upstream is the trouble, which key is near.

Each answer is a code and its facts; the page has the words, in its languages. There is always an answer to each.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Final

from relay.page.facts import NEAR, Answer, Finding, Level, UpstreamStatus

ENOUGH: Final = 5
"""Attempts, or streams' first tokens, below which nothing is said of an upstream."""
BAD: Final = 0.01
"""Failed calls of all from which it is bad; from one failed call on it is worth a word."""
SLOW: Final = 0.05
"""Streams of all that may begin late."""
MOSTLY: Final = 0.5
FAILING: Final = 0.05
"""Failed attempts of an upstream's."""
FULL: Final = 0.9
"""Of `max_concurrent`."""
BEHIND: Final = 2.0
"""So much slower than the others is slow, if it is late at times."""
DAY: Final = 86_400.0
WEEK: Final = 7 * DAY
"""Seconds before the end of a key from which it is worth a word, as for the alert KeyExpiresSoon."""
NAMED: Final = 3
"""Keys and upstreams that are named for one thing."""


def headline(answer: Answer) -> list[Finding]:
    """The worst first, within each question."""
    found = [
        *_relay(answer),
        *_users(answer),
        *_upstreams(answer),
        *_keys(answer),
    ]
    return found


def _relay(answer: Answer) -> Iterator[Finding]:
    if not answer.ready:
        yield Finding("relay", "not_ready", "bad", {"reason": answer.reason or ""})
    for text in answer.degraded[:NAMED]:
        yield Finding("relay", "degraded", "warn", {"text": text})
    if not answer.reload_successful:
        faults = answer.reload.faults if answer.reload is not None else []
        yield Finding("relay", "reload_failed", "warn", {"fault": faults[0] if faults else ""})
    if answer.totals.waiting:
        yield Finding("relay", "waiting", "warn", {"calls": answer.totals.waiting})


def _users(answer: Answer) -> Iterator[Finding]:
    totals = answer.totals
    asked = totals.calls - totals.refused - totals.cancelled
    if asked <= 0:
        yield Finding("users", "quiet", "note")
        return
    share = totals.failed / asked
    if totals.failed:
        level: Level = "bad" if share >= BAD else "warn"
        facts: dict[str, str | float] = {"share": share, "failed": totals.failed, "calls": asked}
        yield Finding("users", "errors", level, facts)
    late = totals.slow_share
    if late is not None and late > SLOW:
        level = "bad" if late > MOSTLY else "warn"
        waits = {"share": late, "p95": totals.ttft_p95 or 0.0, "target": answer.ttft_target}
        yield Finding("users", "wait", level, dict(waits))
    elif not totals.failed:
        yield Finding("users", "fine", "good", {"calls": asked, "p95": totals.ttft_p95 or 0.0})


def _upstreams(answer: Answer) -> Iterator[Finding]:
    found = [each for one in answer.upstreams for each in _upstream(one, answer)]
    found.sort(key=lambda finding: finding.level != "bad")
    yield from found[: 2 * NAMED]
    if not found:
        yield Finding("upstreams", "fine", "good", {"upstreams": len(answer.upstreams)})


def _upstream(one: UpstreamStatus, answer: Answer) -> Iterator[Finding]:
    away = {state: count for state, count in one.states.items() if state != "closed" and count}
    if away and not one.states.get("closed"):
        state = max(away, key=lambda each: away[each])
        facts: dict[str, str | float] = {"name": one.name, "error": one.last_error or ""}
        yield Finding("upstreams", state, "bad", facts)
    elif one.attempts >= ENOUGH and one.failed / one.attempts >= FAILING:
        share = one.failed / one.attempts
        facts = {"name": one.name, "share": share, "error": one.last_error or ""}
        yield Finding("upstreams", "failing", "bad" if share > MOSTLY else "warn", facts)
    if is_slow(one, answer):
        others = _others(one, answer)
        facts = {"name": one.name, "p50": one.ttft_p50 or 0.0}
        yield Finding("upstreams", "slow", "warn", facts | ({"others": others} if others else {}))
    most = one.max_concurrent
    if most and one.inflight >= FULL * most:
        facts = {"name": one.name, "inflight": one.inflight, "most": most}
        yield Finding("upstreams", "full", "warn", facts)


def _others(one: UpstreamStatus, answer: Answer) -> float | None:
    """The other upstreams' usual time to the first token."""
    times = [o.ttft_p50 for o in answer.upstreams if o is not one and o.ttft_p50 is not None]
    return median(times) if times else None


def is_slow(one: UpstreamStatus, answer: Answer) -> bool:
    """Half of its streams begin late, or some do and it is far behind the others."""
    usual, worst = one.ttft_p50, one.ttft_p95
    if usual is None or worst is None or one.attempts < ENOUGH:
        return False
    others = _others(one, answer)
    if usual > answer.ttft_target:
        return True
    return others is not None and usual > BEHIND * others and worst > answer.ttft_target


def _keys(answer: Answer) -> Iterator[Finding]:
    near = [use for use in answer.keys if use.ratio >= NEAR]
    for use in near[:NAMED]:
        level: Level = "bad" if use.ratio >= 1 else "warn"
        facts: dict[str, str | float] = {"key": use.key, "limit": use.limit, "ratio": use.ratio}
        yield Finding("keys", "near", level, facts)
    if answer.keys_near > NAMED:
        yield Finding("keys", "more", "warn", {"limits": answer.keys_near - NAMED})
    soon = [end for end in answer.expiring if end.at - answer.at < WEEK]
    for end in soon[:NAMED]:
        left = end.at - answer.at
        yield Finding("keys", "expires", "warn", {"key": end.key, "left": left})
    past = [end for end in answer.expired if answer.at - end.at < DAY]
    for end in past[:NAMED]:
        yield Finding("keys", "expired", "warn", {"key": end.key, "left": answer.at - end.at})
    if not near:
        facts = {"ratio": answer.keys[0].ratio} if answer.keys else {}
        yield Finding("keys", "fine" if answer.keys else "unlimited", "good", facts)
