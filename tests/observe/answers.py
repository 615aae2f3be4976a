"""What the overview says to a stranger within a minute: which upstream is slow, which key is near its limit, whether
users notice. It is asked by the very queries of its panels.

A panel paints amber what deserves a look. So "which upstream is slow" is: those whose bars are not green.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from deploy.grafana.__main__ import FOLDER
from tests.observe.asked import RATE_INTERVAL, Asked, substituted

SLOW = "First token by upstream, p95"
NEAR = "Keys nearest to a limit"
FAILED = "Failed calls"
LATE = "Late first tokens"
BURN = "Budget burn, one hour"
"""Of the worst model: where many are well served, shares of all calls hide those who are not."""


@dataclass(frozen=True)
class Answers:
    """At one moment. Shares are parts of 1."""

    slow: dict[str, float]
    """Seconds to the first token (p95) by upstream: those that are not green."""
    near: dict[str, float]
    """The used part of a limit, by key and limit: those that are not green."""
    failed: float
    """Of the calls."""
    late: float
    """Of the first tokens."""
    burn: dict[str, float]
    """How many times as fast as allowed the worst model uses up its budgets, by objective."""
    noticed: bool
    """Whether any of the three is not green."""

    def lines(self) -> list[str]:
        slow = [f"{name} ({seconds:.2f} s)" for name, seconds in self.slow.items()]
        near = [f"{name} ({part:.0%})" for name, part in self.near.items()]
        return [
            "which upstream is slow? " + (", ".join(slow) or "none"),
            "which key is near its limit? " + (", ".join(near) or "none"),
            f"do users notice? {'yes' if self.noticed else 'no'}: {self.failed:.1%} of calls fail, "
            f"{self.late:.1%} of first tokens are late; burn of the worst model: "
            + ", ".join(f"{name} {times:.1f}" for name, times in self.burn.items()),
        ]


async def answers(asked: Asked, instance: str) -> Answers:
    """As the overview answers for this relay now."""
    whole = json.loads((FOLDER / "relay-overview.json").read_text("utf-8"))
    panels = {panel["title"]: panel for panel in whole["panels"]}

    async def bars(title: str) -> dict[str, float]:
        """By legend, in the order of the panel."""
        (target,) = panels[title]["targets"]
        chosen = {"job": "relay", "instance": instance}
        found = await asked.rows(substituted(target["expr"], chosen, RATE_INTERVAL))
        return {_legend(target["legendFormat"], labels): value for labels, value in found}

    def striking(title: str, found: dict[str, float]) -> dict[str, float]:
        steps = panels[title]["fieldConfig"]["defaults"]["thresholds"]["steps"]
        amber: float = steps[1]["value"]
        return {name: value for name, value in found.items() if value >= amber}

    failed, late, burn = await bars(FAILED), await bars(LATE), await bars(BURN)
    return Answers(
        striking(SLOW, await bars(SLOW)),
        striking(NEAR, await bars(NEAR)),
        sum(failed.values()),
        sum(late.values()),
        burn,
        noticed=bool(striking(FAILED, failed) or striking(LATE, late) or striking(BURN, burn)),
    )


def _legend(text: str, labels: dict[str, Any]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: str(labels.get(found[1], "")), text)
