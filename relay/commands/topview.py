"""One picture of `relay top`: what `/status.json` told, as lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from relay.commands import table
from relay.commands.screen import Line, Look
from relay.commands.table import NOTHING
from relay.commands.times import duration
from relay.commands.topwords import OUTCOMES, STATES, percent, sentence, span
from relay.page.facts import NEAR, Answer, Failure, KeyUse, Level, UpstreamStatus
from relay.page.verdict import is_slow

LOOKS: Final[Mapping[Level, Look]] = {
    "good": "good",
    "note": "soft",
    "warn": "warn",
    "bad": "bad",
}
SIGNS: Final[Mapping[Level, str]] = {"good": "ok", "note": "-", "warn": "WARN", "bad": "BAD"}
"""Words, that say the same without colours."""
BAR: Final = 20
"""Cells."""
KEYS: Final = 8
"""That are shown where there is no room for all."""
FEWEST: Final = 3
"""Failures that keep their place beside the keys."""
STEPS: Final = "▁▂▃▄▅▆▇█"
CURVE: Final = 20
"""Steps of the curve, of the latest."""


def picture(answer: Answer, lines: int | None, curves: bool) -> list[Line]:
    """`lines`: how many there is room for, None for any number. `curves`: signs beyond ASCII can be shown."""
    top = [*_head(answer), ("", "plain"), *_headline(answer), ("", "plain"), *_totals(answer)]
    top += [("", "plain"), *_upstreams(answer, curves)]
    keys, failures = list(_keys(answer.keys)), list(_failures(answer.failures))
    if lines is not None:
        room = max(0, lines - len(top))
        keys = keys[: max(0, min(len(keys), KEYS + 2, room - min(FEWEST + 2, len(failures))))]
        failures = failures[: max(0, room - len(keys))]
    return [*top, *keys, *failures]


def _head(answer: Answer) -> Iterator[Line]:
    up = span(answer.uptime_seconds)
    yield f"relay {answer.version}, up {up}, {_clock(answer.at)} UTC", "head"
    file = f"{answer.config_path} {answer.config_digest[:12]}"
    if answer.reload_successful:
        yield file, "soft"
        last = answer.reload
        if last is not None:
            changes = (f"{name} {' '.join(names)}" for name, names in last.changes.items())
            changed = ", ".join(changes) or "nothing changed"
            yield f"reloaded at {_clock(last.at)} UTC: {changed}", "soft"
    else:
        yield f"{file}, a later reload failed", "warn"


def _headline(answer: Answer) -> Iterator[Line]:
    for finding in answer.headline:
        text = sentence(finding, answer.window_seconds)
        yield f"{SIGNS[finding.level]:<4}  {text}", LOOKS[finding.level]


def _totals(answer: Answer) -> Iterator[Line]:
    totals = answer.totals
    asked = max(totals.calls - totals.refused - totals.cancelled, 0)
    failed = percent(totals.failed / asked) if asked else NOTHING
    parts = (
        f"in flight {answer.inflight_streams:,}",
        f"waiting {totals.waiting:,}",
        f"calls/s {totals.calls_per_second:.3g}",
        f"failed {failed}",
        f"first token {duration(totals.ttft_p50)}, p95 {duration(totals.ttft_p95)}",
        f"tokens/s {totals.tokens_per_second:,.0f}",
        f"today US$ {totals.spend_today:,.2f}",
    )
    yield "   ".join(parts), "plain"


def _upstreams(answer: Answer, curves: bool) -> Iterator[Line]:
    head = ["UPSTREAM", "STATE", "IN FLIGHT", "FIRST TOKEN", "P95", "ERRORS", "LATEST"]
    head += ["TOKENS/S", "TODAY US$"]
    rows = [_upstream(one) for one in answer.upstreams]
    if curves:
        head.append(f"FIRST TOKEN, {CURVE * answer.history.step_seconds / 60:.2g} MIN")
        curve = answer.history.ttft
        for row, one in zip(rows, answer.upstreams, strict=True):
            row.append(_curve(curve.get(one.name, [])[-CURVE:], answer.ttft_target))
    looks = [_look(one, answer) for one in answer.upstreams]
    yield from _table(head, rows, looks)


def _upstream(one: UpstreamStatus) -> list[str]:
    states = [
        STATES.get(state, state) + (f" x{count}" if len(one.states) > 1 or count > 1 else "")
        for state, count in one.states.items()
        if count
    ]
    flying = f"{one.inflight:,}"
    if one.max_concurrent is not None:
        flying += f"/{one.max_concurrent:,}"
    if one.waiting:
        flying += f" +{one.waiting:,}"
    return [
        one.name,
        ", ".join(states) or NOTHING,
        flying,
        duration(one.ttft_p50),
        duration(one.ttft_p95),
        percent(one.failed / one.attempts) if one.attempts else NOTHING,
        one.last_error or NOTHING,
        f"{one.tokens_per_second:,.0f}",
        f"{one.spend_today:,.2f}",
    ]


def _look(one: UpstreamStatus, answer: Answer) -> Look:
    if one.states and not one.states.get("closed"):
        return "bad"
    return "warn" if one.failed or is_slow(one, answer) else "plain"


def _curve(values: Sequence[float | None], target: float) -> str:
    """From nothing to twice the target, or the highest; a blank is a step in which no stream began."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    top = max(*known, 2 * target, 1e-9)
    last = len(STEPS) - 1
    return "".join(" " if one is None else STEPS[round(one / top * last)] for one in values)


def _keys(uses: Sequence[KeyUse]) -> Iterator[Line]:
    if not uses:
        return
    yield "", "plain"
    rows, looks = [], []
    for use in uses:
        full = min(BAR, int(use.ratio * BAR))
        rows.append([use.key, use.limit, f"[{'#' * full}{'.' * (BAR - full)}]", percent(use.ratio)])
        look: Look = "bad" if use.ratio >= 1 else "warn" if use.ratio >= NEAR else "plain"
        looks.append(look)
    yield from _table(["KEY", "LIMIT", "", "USED"], rows, looks)


def _failures(failures: Sequence[Failure]) -> Iterator[Line]:
    if not failures:
        return
    yield "", "plain"
    rows = [
        [
            _clock(one.at),
            OUTCOMES.get(one.outcome, one.outcome),
            " ".join(_told(one)),
            one.key or NOTHING,
            one.model or NOTHING,
            ", ".join(f"{each.upstream} {each.result}" for each in one.tries) or NOTHING,
            one.request_id,
        ]
        for one in failures
    ]
    head = ["FAILED", "WHAT", "", "KEY", "MODEL", "ATTEMPTS", "REQUEST ID"]
    yield from _table(head, rows, ["plain"] * len(rows), left=True)


def _told(one: Failure) -> Iterator[str]:
    said: set[str] = set()
    for word in (str(one.code), one.error, one.cause, one.reason):
        if word and word not in said:
            said.add(word)
            yield word


def _table(
    head: Sequence[str], rows: Sequence[list[str]], looks: Iterable[Look], *, left: bool = False
) -> Iterator[Line]:
    if left:
        # Texts, all of them: filled up, the table has nothing to align.
        widest = [max(table.width(row[at]) for row in (head, *rows)) for at in range(len(head))]
        filled = [
            [
                cell + " " * (most - table.width(cell))
                for cell, most in zip(row, widest, strict=True)
            ]
            for row in (head, *rows)
        ]
        head, rows = filled[0], filled[1:]
    first, *others = table.render(head, rows, rule_before_last=False).split("\n")
    yield first, "soft"
    yield from zip(others, looks, strict=True)


def _clock(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%H:%M:%S")
