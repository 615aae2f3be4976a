"""First tokens as they fell: a row for each upstream, a dot for each call, and where half and 95 % of them were there.

The scale is logarithmic: a provider that answers in 0.2 s and one that takes 20 belong into one picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from relay.commands import drawing
from relay.commands.benchview import first_token
from relay.commands.table import cut
from relay.measure.figures import Figures

LEFT: Final = 170
"""Room for the names."""
RIGHT: Final = 120
"""Room for the figures."""
TOP: Final = 44
ROW: Final = 44
FOOT: Final = 44
LONGEST: Final = 22
"""Columns of a name."""
STEPS: Final = (1, 2, 5)
"""Of a decade, with a line each."""
SCATTER: Final = (0, -7, 5, -3, 8, 2, -9, 6, -5, 9)
"""Pixels up and down, so that calls that took the same do not hide each other."""
OWN: Final = (
    "  .dot { fill-opacity: 0.55; }\n"
    "  .late { fill-opacity: 0.15; stroke: #cf222e; }\n"
    "  .mark { stroke: #1f2328; stroke-width: 2; }\n"
    "  .dash { stroke: #1f2328; stroke-width: 2; stroke-dasharray: 3 3; }\n"
    "  @media (prefers-color-scheme: dark) {\n"
    "    .mark, .dash { stroke: #e6edf3; }\n"
    "    .late { stroke: #f85149; }\n"
    "  }\n"
)


def draw(figures: Sequence[Figures], date: str) -> str:
    """The whole chart; `date` stands in its caption."""
    times = [one.ttft for each in figures for one in each.samples if one.ttft is not None]
    scale = _Scale(times)
    bottom = TOP + ROW * len(figures)
    parts = [_axis(scale, bottom)]
    for at, one in enumerate(figures):
        parts.append(_row(one, scale, TOP + ROW * at + ROW / 2, f"c{at % drawing.COLOURS}"))
    parts.append(
        f'<text x="{LEFT}" y="{bottom + 36}" class="soft">a dot is a call; line: p50, dashed: p95;'
        " red edge: given up without a token</text>"
    )
    caption = f"Time to first token, logarithmic, {date}"
    return drawing.svg(caption, drawing.WIDTH, bottom + FOOT, parts, OWN)


class _Scale:
    """Seconds to pixels."""

    def __init__(self, times: Sequence[float]) -> None:
        self.low = _step_below(min(times, default=0.1))
        self.high = max(_step_above(max(times, default=1.0)), self.low * 10)
        self._decades = math.log10(self.high / self.low)

    def x(self, seconds: float) -> float:
        share = math.log10(max(seconds, self.low) / self.low) / self._decades
        return LEFT + share * (drawing.WIDTH - LEFT - RIGHT)

    def ticks(self) -> list[float]:
        found = []
        power = math.floor(math.log10(self.low) + 1e-9)
        while 10.0**power <= self.high * 1.001:
            values = [step * 10.0**power for step in STEPS]
            found += [one for one in values if self.low * 0.999 <= one <= self.high * 1.001]
            power += 1
        return found


def _step_below(seconds: float) -> float:
    seconds = max(seconds, 1e-5)
    power = 10.0 ** math.floor(math.log10(seconds))
    return max(step * power for step in STEPS if step * power <= seconds * 1.000001)


def _step_above(seconds: float) -> float:
    seconds = max(seconds, 1e-5)
    power = 10.0 ** math.floor(math.log10(seconds))
    return min(step * power for step in (*STEPS, 10) if step * power >= seconds * 0.999999)


def _axis(scale: _Scale, bottom: float) -> str:
    ticks = scale.ticks()
    # Over many decades only the powers are named.
    every = len(ticks) > 12
    out = []
    for tick in ticks:
        x = scale.x(tick)
        out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}" class="rule"/>')
        if not every or round(math.log10(tick), 6).is_integer():
            out.append(
                f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle" class="soft">'
                f"{_named(tick)}</text>"
            )
    return "\n".join(out)


def _named(seconds: float) -> str:
    return f"{seconds * 1000:g} ms" if seconds < 0.9995 else f"{seconds:g} s"


def _row(one: Figures, scale: _Scale, y: float, colour: str) -> str:
    out = [f'<text x="12" y="{y + 4:.1f}">{escape(cut(one.target.name, LONGEST))}</text>']
    for number, sample in enumerate(one.samples):
        if sample.ttft is not None:
            kind = f"dot {colour}{' late' if sample.silent else ''}"
            out.append(
                f'<circle cx="{scale.x(sample.ttft):.1f}"'
                f' cy="{y + SCATTER[number % len(SCATTER)]:.1f}" r="3.5" class="{kind}"/>'
            )
    x = drawing.WIDTH - RIGHT + 12
    if one.ttft is None:
        out.append(f'<text x="{x}" y="{y + 4:.1f}" class="soft">no first token</text>')
        return "".join(out)
    for seconds, kind in ((one.ttft.p50, "mark"), (one.ttft.p95, "dash")):
        at = f"{scale.x(seconds):.1f}"
        out.append(
            f'<line x1="{at}" x2="{at}" y1="{y - 15:.1f}" y2="{y + 15:.1f}" class="{kind}"/>'
        )
    told = escape(f"{first_token(one, one.ttft.p50)} / {first_token(one, one.ttft.p95)}")
    out.append(f'<text x="{x}" y="{y + 4:.1f}" class="soft">{told}</text>')
    return "".join(out)
