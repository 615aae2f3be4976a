"""Cost per day as stacked bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from relay.commands import drawing
from relay.commands.money import NANO
from relay.commands.table import NOTHING, cut
from relay.commands.usageview import day_name

WIDTH: Final = drawing.WIDTH
LEFT: Final = 72
"""Room for the amounts."""
RIGHT: Final = 16
TOP: Final = 44
HEIGHT: Final = 240
"""Of the bars."""
FOOT: Final = 30
"""Room for the days."""
ROW: Final = 20
"""A line of the legend, which has two columns."""
MOST: Final = drawing.COLOURS
"""Names with a colour of their own; the rest is `other`."""
LONGEST: Final = 32
"""Columns of a name in the legend."""
TICKS: Final = 4
DAYS_NAMED: Final = 6

Costs = Mapping[tuple[str | int, ...], int]
"""Nano-dollars by day (since 1970-01-01), or by day and name."""


def draw(costs: Costs, by: str) -> str:
    """The whole chart. Days between the first and the last without calls are gaps."""
    stacks = _stacks(costs)
    names = _ranked(costs)
    days = sorted(stacks)
    first, last = (days[0], days[-1]) if days else (0, 0)
    top = _ceiling(max((sum(stack.values()) for stack in stacks.values()), default=0))
    step = (WIDTH - LEFT - RIGHT) / (last - first + 1)
    parts = [_axis(top), _days(first, last, step)]
    for day in days:
        parts.append(_bar(stacks[day], names, LEFT + (day - first) * step, step, top))
    entries = [] if by == "day" else _entries(costs, names)
    parts.append(_legend(entries))
    bottom = TOP + HEIGHT + FOOT + ROW * -(-len(entries) // 2) + 12
    caption = f"Cost per day{'' if by == 'day' else f' by {by}'}, US$ (UTC)"
    return drawing.svg(caption, WIDTH, bottom, parts)


def _stacks(costs: Costs) -> dict[int, dict[str, int]]:
    stacks: dict[int, dict[str, int]] = {}
    for line, cost in costs.items():
        stack = stacks.setdefault(int(line[0]), {})
        name = _name(line)
        stack[name] = stack.get(name, 0) + cost
    return stacks


def _name(line: Sequence[str | int]) -> str:
    return str(line[1]) if len(line) > 1 else ""


def _ranked(costs: Costs) -> list[str]:
    """The names by what they cost, as many as get a colour; one more than that needs no `other`."""
    sums = _sums(costs)
    names = sorted(sums, key=lambda name: (-sums[name], name))
    return names if len(names) <= MOST + 1 else names[:MOST]


def _sums(costs: Costs) -> dict[str, int]:
    sums: dict[str, int] = {}
    for line, cost in costs.items():
        sums[_name(line)] = sums.get(_name(line), 0) + cost
    return sums


def _ceiling(nano: int) -> float:
    """Dollars at the top of the axis: the next round number."""
    dollars = nano / NANO
    if dollars <= 0:
        return 1.0
    power = 1.0
    while power > dollars:
        power /= 10
    while power * 10 <= dollars:
        power *= 10
    return next(
        power * step for step in (1, 1.2, 1.6, 2, 3, 4, 6, 8, 10) if power * step >= dollars
    )


def _axis(top: float) -> str:
    out = []
    for tick in range(TICKS + 1):
        y = TOP + HEIGHT - HEIGHT * tick / TICKS
        out.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="rule"/>'
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" class="soft">'
            f"{top * tick / TICKS:,.6g}</text>"
        )
    return "\n".join(out)


def _days(first: int, last: int, step: float) -> str:
    every = max(1, -(-(last - first + 1) // DAYS_NAMED))
    return "\n".join(
        f'<text x="{LEFT + (day - first + 0.5) * step:.1f}" y="{TOP + HEIGHT + 18}"'
        f' text-anchor="middle" class="soft">{day_name(day)}</text>'
        for day in range(first, last + 1, every)
    )


def _bar(stack: Mapping[str, int], names: Sequence[str], x: float, step: float, top: float) -> str:
    gap = step * 0.15 if step > 3 else 0.0
    parts = [(f"c{at}", stack.get(name, 0)) for at, name in enumerate(names)]
    parts.append((f"c{MOST}", sum(stack.values()) - sum(cost for _, cost in parts)))
    out, y = [], float(TOP + HEIGHT)
    for colour, cost in parts:
        height = HEIGHT * cost / NANO / top
        y -= height
        if height > 0:
            out.append(
                f'<rect x="{x + gap:.1f}" y="{y:.2f}" width="{step - 2 * gap:.1f}"'
                f' height="{height:.2f}" class="{colour}"/>'
            )
    return "".join(out)


def _entries(costs: Costs, names: Sequence[str]) -> list[tuple[str, str, int]]:
    """Colour, name and sum of each."""
    sums = _sums(costs)
    entries = [(f"c{at}", name or NOTHING, sums[name]) for at, name in enumerate(names)]
    others = [sums[name] for name in sums if name not in names]
    if others:
        entries.append((f"c{MOST}", f"other ({len(others)})", sum(others)))
    return entries


def _legend(entries: Sequence[tuple[str, str, int]]) -> str:
    out = []
    for at, (colour, name, cost) in enumerate(entries):
        x = LEFT + (at % 2) * (WIDTH - LEFT) // 2
        y = TOP + HEIGHT + FOOT + ROW * (at // 2) + 10
        out.append(
            f'<rect x="{x}" y="{y - 9}" width="10" height="10" class="{colour}"/>'
            f'<text x="{x + 16}" y="{y}">{escape(cut(name, LONGEST))}</text>'
            f'<text x="{x + (WIDTH - LEFT) // 2 - 28}" y="{y}" text-anchor="end" class="soft">'
            f"{cost / NANO:,.2f}</text>"
        )
    return "\n".join(out)
