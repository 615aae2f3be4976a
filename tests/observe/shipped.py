"""The files of `deploy/` that observe a relay, as data: rules, their alerts, and the same with shorter times.

A rule that waits for minutes over windows of hours is tried within a minute: every `for`, every window and every
interval is divided by one factor, and nothing else changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml  # noqa: TID251  other programs' files

from tests.rig.relay_process import ROOT

PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = tuple(sorted((PROMETHEUS / "rules").glob("*.yaml")))
CASES = tuple(sorted((PROMETHEUS / "tests").glob("*.yaml")))
RUNBOOK = ROOT / "docs" / "runbook.md"

Fields = dict[str, Any]


@dataclass(frozen=True)
class Alert:
    """One alerting rule. Several may have one name."""

    name: str
    expr: str
    hold: str
    """Its `for`."""
    labels: dict[str, str]
    annotations: dict[str, str]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def rules() -> Iterator[Fields]:
    """Every rule of every file, in order."""
    for path in RULES:
        for group in read(path)["groups"]:
            yield from group["rules"]


def alerts() -> list[Alert]:
    return [
        Alert(r["alert"], r["expr"], r.get("for", "0s"), r["labels"], r["annotations"])
        for r in rules()
        if "alert" in r
    ]


def recorded() -> set[str]:
    """The series that the rules make."""
    return {rule["record"] for rule in rules() if "record" in rule}


def selectors(query: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The series a query reads: name, and its matchers by label. ValueError if it does not parse."""
    found: list[Any] = []

    def visit(node: Any) -> bool:
        inner = node.vector_selector if isinstance(node, promql_parser.MatrixSelector) else node
        if isinstance(inner, promql_parser.VectorSelector):
            found.append(inner)
        return True

    promql_parser.walk(promql_parser.parse(query), visit)
    for selector in found:
        matchers = {each.name: f"{each.op}{each.value}" for each in selector.matchers.matchers}
        yield selector.name or "", matchers


# --- shorter times -----------------------------------------------------------------------------

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(duration: str) -> float:
    """Of Prometheus' notation: 1h30m."""
    parts = re.findall(r"([0-9.]+)(ms|[smhd])", duration)
    assert "".join(a + b for a, b in parts) == duration, duration
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def shorter(duration: str, factor: float) -> str:
    return f"{max(1, round(seconds(duration) / factor * 1000))}ms"


def shorter_rules(path: Path, factor: float) -> str:
    """A file of rules with every time in it divided."""
    whole = read(path)
    for group in whole["groups"]:
        group.pop("interval", None)
        for rule in group["rules"]:
            rule["expr"] = re.sub(
                r"(?<=\[)\w+(?=\])|(?<=offset )\w+",
                lambda found: shorter(found[0], factor),
                rule["expr"],
            )
            for name in ("for", "keep_firing_for"):
                if name in rule:
                    rule[name] = shorter(rule[name], factor)
    return _text(whole)


def prometheus_config(
    targets: dict[str, list[str]], alertmanager: str | None, interval: str
) -> str:
    """`prometheus.yaml` with other addresses: `targets` by job. It scrapes and evaluates every `interval`."""
    whole = read(PROMETHEUS / "prometheus.yaml")
    whole["global"] = {"scrape_interval": interval, "evaluation_interval": interval}
    (relay,) = whole["scrape_configs"]
    assert relay.pop("authorization")
    whole["scrape_configs"] = [
        relay | {"job_name": job, "static_configs": [{"targets": each}]}
        for job, each in targets.items()
    ]
    ((known,),) = [each["static_configs"] for each in whole["alerting"]["alertmanagers"]]
    known["targets"] = [alertmanager] if alertmanager else []
    return _text(whole)


def alertmanager_config(webhook: str, factor: float) -> str:
    """`alertmanager.yaml` with shorter times, and both receivers at this URL, under their names."""
    whole = read(PROMETHEUS / "alertmanager.yaml")
    for route in (whole["route"], *whole["route"]["routes"]):
        for name in ("group_wait", "group_interval", "repeat_interval"):
            if name in route:
                route[name] = shorter(route[name], factor)
    whole["receivers"] = [
        {
            "name": each["name"],
            "webhook_configs": [{"url": f"{webhook}/{each['name']}", "send_resolved": True}],
        }
        for each in whole["receivers"]
    ]
    return _text(whole)


def _text(whole: Fields) -> str:
    text: str = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=1000)
    return text
