"""The figures of `relay usage` as a table, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from relay.commands import money, table
from relay.commands.table import NOTHING
from relay.commands.terms import as_json
from relay.state.calls import DAY_MS
from relay.state.report import Dimension, Period, Report, Totals

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class View:
    by: Dimension
    report: Report
    compared: Sequence[str]
    """The models of `Totals.elsewhere`."""
    period: Period

    def rows(self) -> list[tuple[str | None, Totals]]:
        """Days in their order; else the dearest first. A key without a group has None."""
        lines = [(line[0], totals) for line, totals in self.report.lines.items()]
        if self.by == "day":
            return [(day_name(int(day)), totals) for day, totals in sorted(lines, key=_first)]
        lines.sort(key=lambda item: (-item[1].cost, -item[1].calls, item[0]))
        return [(str(name) or None, totals) for name, totals in lines]


def _first(item: tuple[str | int, Totals]) -> int:
    return int(item[0])


def day_name(day: int) -> str:
    """`day` counts from 1970-01-01."""
    return (EPOCH + timedelta(days=day)).date().isoformat()


def moment_name(ms: int) -> str:
    """Unix time in milliseconds, to the minute below."""
    moment = EPOCH + timedelta(milliseconds=ms)
    return moment.strftime("%Y-%m-%d" if ms % DAY_MS == 0 else "%Y-%m-%d %H:%M UTC")


# --- a table --------------------------------------------------------------------------------------


def as_table(view: View) -> str:
    rows = view.rows()
    names = [name or NOTHING for name, _ in rows] + ["total"]
    sums = [totals for _, totals in rows] + [view.report.total]
    columns = _compared(view, sums) if view.compared else _used(sums)
    head = [view.by.upper(), *(title for title, _ in columns)]
    body = [[name, *cells] for name, *cells in zip(names, *(c for _, c in columns), strict=True)]
    return table.render(head, body, rule_before_last=True)


Column = tuple[str, list[str]]


def _used(sums: Sequence[Totals]) -> list[Column]:
    return [
        ("CALLS", [f"{one.calls:,}" for one in sums]),
        ("FAILED", [_share(one.failed, one.calls) for one in sums]),
        ("INPUT", [f"{one.input:,}" for one in sums]),
        ("CACHED", [_share(one.cached, one.input) for one in sums]),
        ("OUTPUT", [f"{one.output:,}" for one in sums]),
        ("ESTIMATED", [_share(one.estimated, one.input + one.output) for one in sums]),
        ("US$", money.column([one.cost for one in sums])),
    ]


def _compared(view: View, sums: Sequence[Totals]) -> list[Column]:
    columns: list[Column] = [
        ("CALLS", [f"{one.calls:,}" for one in sums]),
        ("US$", money.column([one.cost for one in sums])),
    ]
    for at, model in enumerate(view.compared):
        there = [one.elsewhere[at] for one in sums]
        more = [cost - one.cost for cost, one in zip(there, sums, strict=True)]
        changes = [_change(one.cost, cost) for cost, one in zip(there, sums, strict=True)]
        columns += [
            (f"{model} US$", money.column(there)),
            ("DIFFERENCE", money.column(more, signed=True)),
            ("%", [NOTHING if change is None else f"{change:+,.1f}" for change in changes]),
        ]
    return columns


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else NOTHING


def _change(here: int, there: int) -> float | None:
    """Percent by which it would have been dearer there."""
    return 100 * (there - here) / here if here else None


# --- for programs ---------------------------------------------------------------------------------

NUMBERS: Final = {
    "calls": "calls",
    "failed": "failed",
    "input_tokens": "input",
    "cached_tokens": "cached",
    "output_tokens": "output",
    "reasoning_tokens": "reasoning",
    "audio_tokens": "audio",
    "estimated_tokens": "estimated",
}
"""Names outside, and those of `Totals`."""


def as_json_text(view: View) -> str:
    """`cost_usd` is a number, and may be rounded where it is read; `cost_nano_usd` is exact."""
    period = {
        "since": _instant(view.period.since),
        "until": _instant(view.period.until),
        "first": _instant(view.report.first),
        "last": _instant(view.report.last),
    }
    rows = [{view.by: name, **_object(view, totals)} for name, totals in view.rows()]
    return as_json({**period, "by": view.by, "rows": rows, "total": _object(view, _total(view))})


def _total(view: View) -> Totals:
    total = view.report.total
    total.elsewhere = total.elsewhere or [0] * len(view.compared)
    return total


def _object(view: View, totals: Totals) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(totals, of) for name, of in NUMBERS.items()}
    found |= _priced(totals.cost)
    if view.compared:
        found["compare"] = {
            model: {
                **_priced(there),
                "difference_usd": (there - totals.cost) / money.NANO,
                "difference_percent": _change(totals.cost, there),
            }
            for model, there in zip(view.compared, totals.elsewhere, strict=True)
        }
    return found


def _priced(nano: int) -> dict[str, int | float]:
    return {"cost_usd": nano / money.NANO, "cost_nano_usd": nano}


def _instant(ms: int | None) -> str | None:
    if ms is None:
        return None
    return (EPOCH + timedelta(milliseconds=ms)).isoformat().replace("+00:00", "Z")


def as_csv(view: View) -> str:
    """Costs are exact decimals. A key without a group has an empty cell; there is no row of totals."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [view.by, *NUMBERS, "cost_usd", *(f"{name} cost_usd" for name in view.compared)]
    )
    writer.writerows(_cells(view))
    return out.getvalue().rstrip("\n")


def _cells(view: View) -> Iterator[list[str | int]]:
    for name, totals in view.rows():
        numbers = [getattr(totals, of) for of in NUMBERS.values()]
        costs = [money.plain(cost) for cost in (totals.cost, *totals.elsewhere)]
        yield [name or "", *numbers, *costs]
