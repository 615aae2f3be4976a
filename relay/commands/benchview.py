"""The figures of `relay bench` as a table and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from relay import __version__
from relay.commands import money, table
from relay.commands.table import NOTHING
from relay.commands.terms import as_json
from relay.commands.times import duration
from relay.measure.call import Sample
from relay.measure.figures import ANSWER, Figures, Spread
from relay.measure.run import Run

BEST: Final = "*"
ENOUGH: Final = 20
"""Calls below which the 95th percentile is the slowest of them."""


@dataclass(frozen=True, slots=True)
class View:
    plan: Run
    figures: Sequence[Figures]
    left_out: Sequence[tuple[str, str]]
    """Names and reasons."""
    began: float
    ended: float
    """Unix times."""
    interrupted: bool


# --- a table --------------------------------------------------------------------------------------

Column = tuple[str, Callable[[Figures], float | None], Callable[[Figures], str], int]
"""Title, value, its text, and which is best: 1 the largest, -1 the smallest, 0 none."""


def _columns() -> Sequence[Column]:
    return (
        ("CALLS", lambda one: len(one.samples), lambda one: f"{len(one.samples):,}", 0),
        ("CONNECT", _p50("connect"), _time(_p50("connect")), -1),
        ("FIRST TOKEN", _p50("ttft"), _late(_p50("ttft")), -1),
        ("P95", _p95("ttft"), _late(_p95("ttft")), -1),
        (f"{ANSWER:,} TOKENS", _p50("answer"), _time(_p50("answer")), -1),
        ("TOKENS/S", _p50("rate"), _plain(_p50("rate")), 1),
        ("GAP P95", _p95("gaps"), _time(_p95("gaps")), -1),
        ("LONGEST", _longest, _time(_longest), -1),
        ("STABLE", lambda one: one.stability, _percent, 1),
        ("US$/MTOK", lambda one: one.per_million, _price, -1),
    )


def as_table(view: View) -> str:
    rows = [[_name(one, view)] for one in view.figures]
    head = ["UPSTREAM"]
    for title, value, text, best in _columns():
        best = best if len(rows) > 1 else 0
        head.append(title if not best else f"{title} ")
        shown = [text(one) for one in view.figures]
        marked = _best([value(one) for one in view.figures], shown, best)
        for row, cell in zip(rows, shown, strict=True):
            row.append(cell + (BEST if cell == marked else " ") if best else cell)
    return table.render(head, rows, rule_before_last=False)


def _name(one: Figures, view: View) -> str:
    """With its model where they are not all asked for the same."""
    name, model = one.target.name, one.target.model
    same = len({other.target.model for other in view.figures}) == 1
    return name if same or name.endswith(f" {model}") else f"{name} {model}"


def _best(values: Sequence[float | None], shown: Sequence[str], best: int) -> str | None:
    """The text of the best one; None where there is nothing to choose, as far as it is shown."""
    known = [
        (best * value, text) for value, text in zip(values, shown, strict=True) if value is not None
    ]
    if not best or len({text for _, text in known}) < 2:
        return None
    return max(known)[1]


def _p50(name: str) -> Callable[[Figures], float | None]:
    return lambda one: _of(one, name, "p50")


def _p95(name: str) -> Callable[[Figures], float | None]:
    return lambda one: _of(one, name, "p95")


def _longest(one: Figures) -> float | None:
    return _of(one, "gaps", "longest")


def _of(one: Figures, name: str, part: str) -> float | None:
    spread: Spread | None = getattr(one, name)
    return None if spread is None else getattr(spread, part)


def _time(value: Callable[[Figures], float | None]) -> Callable[[Figures], str]:
    return lambda one: duration(value(one))


def _late(value: Callable[[Figures], float | None]) -> Callable[[Figures], str]:
    return lambda one: first_token(one, value(one))


def first_token(one: Figures, seconds: float | None) -> str:
    """Of a silence that was given up it says only what it is longer than."""
    bound = seconds is not None and one.floor is not None and seconds >= one.floor
    return f"{'>' if bound else ''}{duration(seconds)}"


def _plain(value: Callable[[Figures], float | None]) -> Callable[[Figures], str]:
    return lambda one: NOTHING if (found := value(one)) is None else f"{found:,.3g}"


def _percent(one: Figures) -> str:
    return NOTHING if one.stability is None else f"{one.stability:.1%}"


def _price(one: Figures) -> str:
    return NOTHING if one.per_million is None else f"{one.per_million:.3f}"


# --- what the table rests on ----------------------------------------------------------------------


def remarks(view: View) -> Iterator[str]:
    """Lines that belong beside the table: how what failed failed, and what to think of the figures."""
    for one in view.figures:
        for failed in one.failed:
            code = "" if failed.status in (None, 200) else f" (HTTP {failed.status})"
            said = f": {failed.said}" if failed.said else ""
            yield (
                f"{one.target.name}: {failed.count} of {len(one.samples)} calls ended as"
                f" {failed.result}{code}{said}"
            )
        if one.estimated:
            yield (
                f"{one.target.name}: the tokens of {one.estimated} of {len(one.samples)} calls are"
                " estimates, an event taken for a token"
            )
    if any(0 < len(one.samples) < ENOUGH for one in view.figures):
        yield f"of fewer than {ENOUGH} calls the p95 is the slowest one"
    if len({one.target.model for one in view.figures}) > 1:
        yield "these are different models: their tokens, lengths and prices differ by that alone"
    if view.interrupted:
        yield "interrupted: the calls that were under way are not in it"


# --- for programs ---------------------------------------------------------------------------------


def as_json_text(view: View) -> str:
    """Every figure, with what it was made of; times in milliseconds."""
    plan = view.plan
    return as_json(
        {
            "date": _instant(view.began),
            "ended": _instant(view.ended),
            "relay": __version__,
            "calls": plan.calls,
            "concurrency": plan.concurrency,
            "max_tokens": plan.most_tokens,
            "prompt": plan.prompt,
            "seed": plan.seed,
            "timeout_seconds": plan.timeout,
            "interrupted": view.interrupted,
            "upstreams": [_object(one) for one in view.figures],
            "left_out": [{"upstream": name, "reason": why} for name, why in view.left_out],
        }
    )


def _object(one: Figures) -> dict[str, Any]:
    return {
        "upstream": one.target.name,
        "model": one.target.model,
        "calls": len(one.samples),
        "whole": one.whole,
        "stability_percent": None if one.stability is None else 100 * one.stability,
        "failed": [asdict(failed) for failed in one.failed],
        "connect_ms": _spread(one.connect, 1000),
        "ttft_ms": _spread(one.ttft, 1000),
        "silent": one.silent,
        "gap_ms": _spread(one.gaps, 1000),
        "tokens_per_second": _spread(one.rate, 1),
        f"ms_for_{ANSWER}_tokens": _spread(one.answer, 1000),
        "input_tokens": one.used.input,
        "cached_tokens": one.used.cached,
        "output_tokens": one.used.output,
        "reasoning_tokens": one.used.reasoning,
        "estimated_calls": one.estimated,
        "cost_usd": None if one.cost is None else one.cost / money.NANO,
        "cost_nano_usd": one.cost,
        "usd_per_million_tokens": one.per_million,
        "samples": [_sample(sample) for sample in one.samples],
    }


def _spread(spread: Spread | None, unit: float) -> dict[str, Any] | None:
    if spread is None:
        return None
    return {
        "count": spread.count,
        "p50": round(spread.p50 * unit, 3),
        "p95": round(spread.p95 * unit, 3),
        "max": round(spread.longest * unit, 3),
    }


def _sample(sample: Sample) -> dict[str, Any]:
    usage = sample.usage
    return {
        "number": sample.number,
        "at": _instant(sample.at),
        "result": sample.result,
        "status": sample.status,
        "connect_ms": _ms(sample.connect),
        "ttft_ms": _ms(sample.ttft),
        "duration_ms": _ms(sample.duration),
        "max_gap_ms": _ms(max(sample.gaps, default=None)),
        "events": sample.events,
        "input_tokens": None if usage is None else usage.input,
        "output_tokens": None if usage is None else usage.output,
        "source": None if usage is None else usage.source,
        "tokens_per_second": None if sample.rate is None else round(sample.rate, 3),
    }


def day(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).date().isoformat()


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _instant(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
