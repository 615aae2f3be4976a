"""`relay usage`: what was used, by whom, what it cost, and what it would have cost elsewhere."""

from __future__ import annotations

import argparse
import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Final, cast

from relay.commands import drawing
from relay.commands.terms import OK, Command, Failure, config_path, failure, note, say

if TYPE_CHECKING:
    from relay.config.model import Config, PriceConfig
    from relay.state.report import Dimension, Question, Report

BY: Final = ("key", "group", "model", "upstream", "day")


def usage(arguments: argparse.Namespace) -> int:
    from relay.commands import usageview
    from relay.pricing import Price
    from relay.state.database import FILE
    from relay.state.report import Period, Question, Report, ask

    config = _config(config_path(arguments))
    prices = _prices(config, arguments.compare)
    by = cast("Dimension", arguments.by)
    period = Period(arguments.since, arguments.until)
    question = Question((by,), period, arguments.key, arguments.model)
    stored = config.state.path / FILE
    report = Report({})
    if stored.exists():
        with _opened(stored) as connection:
            report = ask(connection, question, [Price.of(price) for price in prices.values()])
            if arguments.chart is not None:
                _draw(connection, question, arguments.chart)
    _notes(report, prices, stored)
    view = usageview.View(by, report, [*prices], period)
    if arguments.json:
        say(usageview.as_json_text(view))
    elif arguments.csv:
        say(usageview.as_csv(view))
    elif report.lines:
        say(usageview.as_table(view))
    return OK


def _config(path: Path) -> Config:
    from relay.config.file import ConfigErrors, load

    try:
        return load(path, os.environ)
    except ConfigErrors as errors:
        raise failure(errors, path, note) from None


def _prices(config: Config, names: list[str]) -> dict[str, PriceConfig]:
    """Those of the models to compare with, by name."""
    known = {name: model.price for name, model in config.models.items() if model.price is not None}
    known |= config.prices
    for name in names:
        if name not in known:
            have = ", ".join(known) or "none"
            raise Failure(
                f"there is no price of '{name}'; under prices and models there are: {have}"
            )
    return {name: known[name] for name in names}


@contextlib.contextmanager
def _opened(stored: Path) -> Iterator[sqlite3.Connection]:
    from relay.state.database import NewerVersion, read_only

    try:
        with contextlib.closing(read_only(stored)) as connection:
            yield connection
    except NewerVersion as error:
        raise Failure(str(error)) from None
    except sqlite3.Error as error:
        raise Failure(f"{stored}: {error}") from None


def _draw(connection: sqlite3.Connection, question: Question, chart: Path) -> None:
    """Cost per day, stacked by the dimension that was asked for."""
    from dataclasses import replace

    from relay.commands import chart as costs
    from relay.state.report import ask

    by = question.by[0]
    over: tuple[Dimension, ...] = ("day",) if by == "day" else ("day", by)
    report = ask(connection, replace(question, by=over))
    svg = costs.draw({line: totals.cost for line, totals in report.lines.items()}, by)
    drawing.save(svg, chart)


def _notes(report: Report, prices: Mapping[str, PriceConfig], stored: Path) -> None:
    """What the figures rest on."""
    from relay.commands.usageview import day_name, moment_name

    if report.first is None or report.last is None:
        kept = "for this selection" if stored.exists() else "yet"
        note(f"no calls recorded {kept} in {stored}")
        return
    note(f"calls of {moment_name(report.first)} to {moment_name(report.last)}")
    for day in report.whole_days:
        note(f"of {day_name(day)} only the sums of the day are left: all of it is counted")
    windowed = [name for name, price in prices.items() if price.windows]
    if windowed and report.summed is not None:
        note(
            f"until {day_name(report.summed)} there are sums of days only:"
            f" priced there without the windows of {', '.join(windowed)}"
        )
    total = report.total
    if prices and total.free:
        note(
            f"{total.free:,} of {total.calls:,} calls used tokens and cost nothing here:"
            " they were free, or their model had no price"
        )
    if prices and total.estimated:
        share = total.estimated / (total.input + total.output)
        note(f"{share:.2%} of the tokens are estimates of the relay: no upstream reported them")


# --- options --------------------------------------------------------------------------------------


def _moment(text: str) -> int:
    """A date or time in UTC, or so long ago: Unix time in milliseconds."""
    from relay.config.values import read_duration, read_instant

    try:
        if text[:1].isdigit() and text[-1:].isalpha() and text[-1:] != "Z":
            return int((time() - read_duration(text)) * 1000)
        return int(read_instant(text).timestamp() * 1000)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is neither a date (2026-11-01, 2026-11-01T12:00Z) nor so long ago (7d, 12h)"
        ) from None


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(
            "needs the name of a model, or several with commas between"
        )
    return list(dict.fromkeys(names))


def options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--by", choices=BY, default="key", help="a row for each (default: key)")
    add(
        "--since",
        type=_moment,
        metavar="WHEN",
        help="a date (UTC), or so long ago: 7d (default: all)",
    )
    add("--until", type=_moment, metavar="WHEN", help="up to before then (default: now)")
    add("--key", metavar="ID", help="only calls of this key")
    add("--model", metavar="MODEL", help="only calls that this model answered")
    add(
        "--compare",
        type=_names,
        default=[],
        metavar="MODELS",
        help="what the same calls would have cost at these models' prices, such as gpt-4.1,claude-sonnet-4",
    )
    add(
        "--chart",
        type=drawing.chart_path,
        metavar="FILE",
        help="draw the cost per day as .svg or .png",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON")
    form.add_argument("--csv", action="store_true", help="as CSV")


COMMANDS: Final = (Command(("usage",), "say what was used, and what it cost", usage, options),)
