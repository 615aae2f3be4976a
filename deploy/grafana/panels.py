"""A dashboard as data, and the JSON that Grafana reads of it.

What all panels have in common stands here once: the datasource variable, the flow of the grid, what a panel of each
kind looks like. A rule that holds for the rest: a panel has a title, a description that says what to make of it, and
a unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

RUNBOOK = "docs/runbook.md"
"""Where links to the runbook lead. The rules name the same place, so that one replacement changes all of them."""

SCHEMA = 39
"""Grafana 10.4 and 11; newer ones read it and say so."""

COLUMNS = 24
FIRST_SCREEN = 21
"""Grid rows (30 pixels and a gap of 8) that a screen of 1920 x 1080 shows without scrolling, below Grafana's own bars and variables
in a browser window."""

Kind = Literal["bargauge", "heatmap", "stat", "table", "timeseries"]
Json = dict[str, Any]

GREEN, AMBER, RED = "green", "orange", "red"
Steps = tuple[tuple[float, str], ...]
"""From which value on another colour holds; below the first it is green."""

SLOW: Steps = ((0.8, AMBER), (2.5, RED))
"""Colours of a time to first token. The first is the default of observability.slow_first_token; another value there is
followed by rules and panels, but not by this colour."""

DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}

JOB = 'job=~"$job", instance=~"$instance"'
"""What every query selects by; the two below as well, where their labels exist."""
PAIR = f'{JOB}, model=~"$model", upstream=~"$upstream"'
UPSTREAM = f'{JOB}, upstream=~"$upstream"'
MODEL = f'{JOB}, model=~"$model"'
KEY = f'{JOB}, key=~"$key"'
SLO = 'job=~"$job", model=~"$model"'
"""Series of the rules are sums over all instances."""


def rate(series: str, by: str = "") -> str:
    """Per second, added up."""
    return f"sum{_by(by)} (rate({series}[$__rate_interval]))"


def quantile(q: float, histogram: str, selection: str, by: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return (
        f"histogram_quantile({q}, sum by ({labels}) "
        f"(rate({histogram}_bucket{{{selection}}}[$__rate_interval])))"
    )


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""


@dataclass(frozen=True)
class Query:
    """One line, or one set of lines, of a panel."""

    expr: str
    legend: str = ""
    exemplar: bool = False
    """Dots that lead to the request id of a call."""


@dataclass(frozen=True)
class Panel:
    kind: Kind
    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    width: int = 8
    height: int = 8
    steps: Steps = ()
    stack: bool = False
    most: float | None = None
    """The end of its axis."""
    alert: str = ""
    """Whose entry of the runbook explains it."""
    columns: tuple[str, ...] = ()
    """Of a table: the labels it shows, before the value."""
    value: str = ""
    """The head of a table's last column; without one the value, which is always 1, is not shown."""
    decimals: int | None = None


@dataclass(frozen=True)
class Row:
    """A question, and the panels that answer it."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    name: str
    label: str
    query: str


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]


MODELS = Variable("model", "Model", f"label_values(relay_requests_total{{{JOB}}}, model)")
UPSTREAMS = Variable(
    "upstream", "Upstream", f"label_values(relay_upstream_state{{{JOB}}}, upstream)"
)
KEYS = Variable("key", "Key", f"label_values(relay_key_requests_total{{{JOB}}}, key)")
_EVERYWHERE = (
    Variable("job", "Job", "label_values(relay_build_info, job)"),
    Variable("instance", "Instance", 'label_values(relay_build_info{job=~"$job"}, instance)'),
)


def render(dashboard: Dashboard) -> Json:
    """What Grafana reads."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["relay"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [_OTHERS, _link("Runbook", RUNBOOK)],
        "annotations": {"list": [_RELOADS]},
        "templating": {
            "list": [_SOURCE, *map(_variable, (*_EVERYWHERE, *dashboard.variables))],
        },
        "panels": list(_placed(dashboard.rows)),
    }


_OTHERS: Json = {
    "type": "dashboards",
    "title": "Relay",
    "icon": "external link",
    "tooltip": "The other dashboards of the relay",
    "url": "",
    "tags": ["relay"],
    "asDropdown": False,
    "includeVars": True,
    "keepTime": True,
    "targetBlank": False,
}

_SOURCE: Json = {
    "type": "datasource",
    "name": "datasource",
    "label": "Data source",
    "query": "prometheus",
    "hide": 0,
    "regex": "",
    "multi": False,
    "includeAll": False,
    "refresh": 1,
}

_RELOADS: Json = {
    "name": "Reloads",
    "datasource": DATASOURCE,
    "enable": True,
    "hide": False,
    "iconColor": "blue",
    "expr": f"relay_config_last_reload_success_timestamp_seconds{{{JOB}}} * 1000",
    "useValueForTime": True,
    "step": "30s",
    "titleFormat": "Configuration loaded",
    "textFormat": "{{instance}}",
}


def _link(title: str, url: str) -> Json:
    return {
        "type": "link",
        "title": title,
        "url": url,
        "icon": "doc",
        "tooltip": "What it means, and what to do",
        "tags": [],
        "asDropdown": False,
        "includeVars": False,
        "keepTime": False,
        "targetBlank": True,
    }


def _variable(variable: Variable) -> Json:
    return {
        "type": "query",
        "name": variable.name,
        "label": variable.label,
        "datasource": DATASOURCE,
        "definition": variable.query,
        "query": {"query": variable.query, "refId": "variable"},
        # A new model or key is there without a reload of the page.
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        # Of what has the label at all: every series that is asked for has it.
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all", "selected": True},
        "hide": 0,
        "regex": "",
    }


def _placed(rows: Sequence[Row]) -> Iterable[Json]:
    """Panels from left to right, rows from top to bottom, each with a number of its own."""
    number, top = 0, 0
    for row in rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1},
        }
        top += 1
        left, tallest = 0, 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                left, top, tallest = 0, top + tallest, 0
            number += 1
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            yield _panel(panel, number, place)
            left, tallest = left + panel.width, max(tallest, panel.height)
        top += tallest


def _panel(panel: Panel, number: int, place: dict[str, int]) -> Json:
    steps: list[Json] = [{"value": None, "color": GREEN}]
    steps += [{"value": value, "color": color} for value, color in panel.steps]
    defaults: Json = {
        "unit": panel.unit,
        "min": 0,
        "color": {
            "mode": "thresholds" if panel.kind in ("stat", "bargauge") else "palette-classic"
        },
        "thresholds": {"mode": "absolute", "steps": steps},
        "custom": _custom(panel),
    }
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    made: Json = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
        "targets": [_target(panel, query, at) for at, query in enumerate(panel.queries)],
    }
    if panel.alert:
        made["links"] = [_link(f"Runbook: {panel.alert}", f"{RUNBOOK}#{panel.alert.lower()}")]
    if panel.kind == "table":
        made["transformations"] = [_columns(panel)]
    return made


def _target(panel: Panel, query: Query, at: int) -> Json:
    now = panel.kind in ("bargauge", "table")
    return {
        "refId": chr(ord("A") + at),
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "instant": now,
        "range": not now,
        "exemplar": query.exemplar,
        "format": {"table": "table", "heatmap": "heatmap"}.get(panel.kind, "time_series"),
    }


def _custom(panel: Panel) -> Json:
    if panel.kind == "timeseries":
        return {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 20 if panel.stack else 5,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stack else "none", "group": "A"},
            "thresholdsStyle": {"mode": "line" if panel.steps else "off"},
        }
    if panel.kind == "table":
        return {"align": "auto", "filterable": True}
    return {}


_NOW: Json = {"calcs": ["lastNotNull"], "fields": "", "values": False}


def _options(panel: Panel) -> Json:
    match panel.kind:
        case "timeseries":
            legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
            return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
        case "stat":
            return {
                "reduceOptions": _NOW,
                "colorMode": "value",
                "graphMode": "area",
                "textMode": "auto",
                "justifyMode": "auto",
                "orientation": "auto",
            }
        case "bargauge":
            return {
                "reduceOptions": _NOW,
                "displayMode": "basic",
                "orientation": "horizontal",
                "showUnfilled": True,
                "valueMode": "color",
            }
        case "heatmap":
            return {
                "calculate": False,
                "cellGap": 1,
                "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5},
                "yAxis": {"unit": panel.unit, "reverse": False},
                "tooltip": {"mode": "single", "yHistogram": False},
                "exemplars": {"color": "rgba(255,0,255,0.7)"},
            }
        case "table":
            return {"showHeader": True, "cellHeight": "sm"}


def _columns(panel: Panel) -> Json:
    """The labels named, in this order, then the value."""
    hidden = {"Time": True} | ({} if panel.value else {"Value": True})
    return {
        "id": "organize",
        "options": {
            "excludeByName": hidden,
            "indexByName": {name: at for at, name in enumerate((*panel.columns, "Value"))},
            "renameByName": {"Value": panel.value} if panel.value else {},
        },
    }
