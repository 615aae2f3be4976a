"""A plot of four figures as SVG, drawn by hand: readable in light and dark, without a library.

Each panel has a row per program, best first, and a logarithmic axis: a dot is a median, the bar through it the range
over the rounds. The relay's dot is filled, nginx is the line at 1 where the figure is a ratio.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from bench.figures import Spread

WIDTH = 760
LABEL = 140
"""Room for the programs' names."""
VALUE = 110
"""Room for the values."""
ROW = 22
HEAD = 44
FOOT = 26
GAP = 18

STYLE = """
  text { font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328; }
  .paper { fill: #ffffff; }
  .title { font-size: 13px; font-weight: 600; }
  .soft { fill: #656d76; font-size: 11px; }
  .rule { stroke: #d8dee4; }
  .one { stroke: #656d76; stroke-dasharray: 3 3; }
  .range { stroke: #656d76; stroke-width: 2; }
  .dot { fill: #ffffff; stroke: #656d76; stroke-width: 2; }
  .name.ours { font-weight: 600; fill: #0969da; }
  .dot.ours { fill: #0969da; stroke: #0969da; }
  .range.ours { stroke: #0969da; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .paper { fill: #0d1117; }
    .soft { fill: #8d96a0; }
    .rule { stroke: #30363d; }
    .one, .range { stroke: #8d96a0; }
    .dot { fill: #0d1117; stroke: #8d96a0; }
    .name.ours { fill: #58a6ff; }
    .dot.ours { fill: #58a6ff; stroke: #58a6ff; }
    .range.ours { stroke: #58a6ff; }
  }
"""
"""Both palettes in full: not every renderer knows variables."""


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    value: Spread


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure of several programs. `unit` stands behind each value; `yardstick` is drawn as a line."""

    title: str
    unit: str
    rows: Sequence[Row]
    yardstick: float | None = None


def draw(panels: Sequence[Panel], caption: str, ours: str = "relay") -> str:
    """The whole plot; panels without rows are left out."""
    shown = [panel for panel in panels if panel.rows]
    parts: list[str] = []
    top = 34
    for panel in shown:
        parts.append(_panel(panel, top, ours))
        top += _height(panel) + GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}"'
        f' role="img" aria-label="{escape(caption, {chr(34): "&quot;"})}">\n'
        f"<style>{STYLE}</style>\n"
        f'<rect width="{WIDTH}" height="{top}" class="paper"/>\n'
        f'<text x="12" y="22" class="soft">{escape(caption)}</text>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _height(panel: Panel) -> int:
    return HEAD + ROW * len(panel.rows) + FOOT


def _panel(panel: Panel, top: int, ours: str) -> str:
    rows = sorted(panel.rows, key=lambda row: row.value.median)
    lows = [row.value.low for row in rows] + ([panel.yardstick] if panel.yardstick else [])
    highs = [row.value.high for row in rows] + ([panel.yardstick] if panel.yardstick else [])
    axis = Axis(min(lows), max(highs))
    bottom = top + HEAD + ROW * len(rows)
    out = [f'<text x="12" y="{top + 18}" class="title">{escape(panel.title)}</text>']
    for tick in axis.ticks():
        x = axis.place(tick)
        out.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top + HEAD - 10}" y2="{bottom}" class="rule"/>'
        )
        out.append(
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle" class="soft">{short(tick)}</text>'
        )
    if panel.yardstick:
        x = axis.place(panel.yardstick)
        out.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top + HEAD - 10}" y2="{bottom}" class="one"/>'
        )
    for number, row in enumerate(rows):
        out.append(_row(row, axis, top + HEAD + ROW * number + 8, panel.unit, ours))
    return "\n".join(out)


def _row(row: Row, axis: Axis, y: float, unit: str, ours: str) -> str:
    mine = " ours" if row.name == ours else ""
    left, x, right = (
        axis.place(value) for value in (row.value.low, row.value.median, row.value.high)
    )
    return (
        f'<text x="{LABEL}" y="{y + 4}" text-anchor="end" class="name{mine}">{escape(row.name)}</text>'
        f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{y}" y2="{y}" class="range{mine}"/>'
        f'<circle cx="{x:.1f}" cy="{y}" r="4.5" class="dot{mine}"/>'
        f'<text x="{WIDTH - 12}" y="{y + 4}" text-anchor="end" class="name{mine}">'
        f"{short(row.value.median)}{escape(unit)}</text>"
    )


class Axis:
    """A logarithmic one between the names and the values."""

    def __init__(self, low: float, high: float) -> None:
        low = max(low, 1e-4)
        high = max(high, low * 1.01)
        margin = (math.log10(high) - math.log10(low)) * 0.06 + 0.02
        self._low = math.log10(low) - margin
        self._high = math.log10(high) + margin

    def place(self, value: float) -> float:
        share = (math.log10(max(value, 1e-4)) - self._low) / (self._high - self._low)
        return LABEL + 16 + share * (WIDTH - LABEL - VALUE - 16)

    def ticks(self) -> list[float]:
        """1, 2, 5 and their tens; only the tens where that would be too many."""
        decades = range(math.floor(self._low), math.ceil(self._high) + 1)
        for steps in ((1.0, 2.0, 5.0), (1.0,)):
            found = [step * 10.0**decade for decade in decades for step in steps]
            inside = [tick for tick in found if self._low <= math.log10(tick) <= self._high]
            if len(inside) <= 9:
                return inside
        return inside


def short(value: float) -> str:
    """Three digits that matter: 1,234 · 12.3 · 0.012."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
