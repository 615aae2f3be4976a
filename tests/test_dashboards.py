"""The shipped dashboards: as they are generated, well built, and about series that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from deploy.grafana.__main__ import DASHBOARDS, FOLDER, written
from deploy.grafana.panels import AMBER, COLUMNS, FIRST_SCREEN, SLOW
from relay.config.model import Observability
from relay.observe.families import FAMILIES, PROCESS_FAMILIES
from tests.observe import shipped
from tests.observe.asked import queries, substituted, variables
from tests.rig.relay_process import ROOT
from tests.test_alerts import known

FILES = sorted(FOLDER.glob("*.json"))
PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"

# What every dashboard has; the others are its own.
ALWAYS = ["datasource", "job", "instance"]

UNITS = {"bytes", "currencyUSD", "none", "ops", "percentunit", "reqps", "s", "si:tok/s"}
"""Of Grafana's, those that are in use: one that it does not know would stand as a word behind an unscaled number."""

OF_ALL_INSTANCES = {"ALERTS"} | {
    name for name in shipped.recorded() if name.startswith("job_model:")
}
"""Series without the label `instance`: sums of the rules, and alerts about them."""


def loaded(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_the_files_are_what_the_generator_makes() -> None:
    made = {f"{each.uid}.json": written(each) for each in DASHBOARDS}

    assert made == {path.name: path.read_text("utf-8") for path in FILES}, (
        "`python -m deploy.grafana` writes them"
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
class TestDashboard:
    def test_panels_have_numbers_of_their_own_and_lie_side_by_side(self, path: Path) -> None:
        whole = loaded(path)["panels"]

        assert len({panel["id"] for panel in whole}) == len(whole)
        for panel in whole:
            place = panel["gridPos"]
            assert min(place["w"], place["h"]) > 0
            assert min(place["x"], place["y"]) >= 0
            assert place["x"] + place["w"] <= COLUMNS
        for one, other in combinations(whole, 2):
            a, b = one["gridPos"], other["gridPos"]
            apart = (
                a["x"] + a["w"] <= b["x"]
                or b["x"] + b["w"] <= a["x"]
                or a["y"] + a["h"] <= b["y"]
                or b["y"] + b["h"] <= a["y"]
            )
            assert apart, (one["title"], other["title"])

    def test_every_panel_says_what_it_shows_in_which_unit(self, path: Path) -> None:
        found = panels(loaded(path))

        assert len({panel["title"] for panel in found if panel["type"] != "table"}) >= 9
        for panel in found:
            assert panel["title"]
            assert panel["description"].endswith(".")
            assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
            assert panel["targets"]
            assert all(target["legendFormat"] for target in panel["targets"])

    def test_the_datasource_is_a_variable_everywhere(self, path: Path) -> None:
        whole = loaded(path)

        for each in _sources(whole):
            assert each == {"type": "prometheus", "uid": "${datasource}"}
        assert whole["templating"]["list"][0]["type"] == "datasource"

    def test_it_has_variables_and_every_query_uses_the_first_of_them(self, path: Path) -> None:
        whole = loaded(path)

        names = [each["name"] for each in whole["templating"]["list"]]
        assert names[:3] == ALWAYS
        assert set(names[3:]) <= {"model", "upstream", "key"}
        for variable in whole["templating"]["list"][1:]:
            assert variable["multi"]
            assert variable["includeAll"]
            assert variable["allValue"] == ".+"
            assert variable["label"] == variable["name"].title()
            assert variable["refresh"] == 2, "a new value is there when the time is changed"
        used = "".join(target["expr"] for panel in panels(whole) for target in panel["targets"])
        assert [name for name in names[1:] if f"${name}" not in used] == []

    def test_every_series_is_asked_for_by_job_and_instance(self, path: Path) -> None:
        """Each of a query, variables' too: one without would show another installation's numbers among these."""
        asked = [expr for _, expr in queries(path)]
        asked += [query[len("label_values(") :].rpartition(",")[0] for _, query in variables(path)]
        itself = {"job": "$job", "instance": "$instance"}

        for expr in asked:
            for name, matchers in shipped.selectors(substituted(expr, itself, "1m")):
                if name == "relay_build_info":
                    # Which jobs and instances there are.
                    continue
                assert matchers["job"].endswith("$job"), expr
                assert name in OF_ALL_INSTANCES or matchers["instance"].endswith("$instance"), expr

    def test_counters_are_shown_as_rates(self, path: Path) -> None:
        """As a number since some start or other nothing that ends in _total, _bucket or _count means anything."""
        for title, expr in queries(path):
            counters = re.findall(r"\w+_(?:total|bucket|count)(?=\{)", expr)
            rates = re.findall(r"(?:rate|increase)\(\w+_(?:total|bucket|count)\{[^}]*\}\[", expr)
            assert len(counters) == len(rates), title

    def test_nothing_is_edited_in_place_and_rates_fit_the_scrape_interval(self, path: Path) -> None:
        whole = loaded(path)

        assert whole["editable"] is False
        assert whole["schemaVersion"] >= 36
        assert whole["uid"] == path.stem
        for _, expr in queries(path):
            assert "rate(" not in expr or "[$__rate_interval]" in expr

    def test_links_lead_to_entries_of_the_runbook(self, path: Path) -> None:
        names = {alert.name.lower() for alert in shipped.alerts()}
        whole = loaded(path)

        links = [link["url"] for panel in panels(whole) for link in panel.get("links", ())]
        assert links
        for url in links:
            page, _, anchor = url.partition("#")
            assert page == "docs/runbook.md"
            assert anchor in names
        assert "docs/runbook.md" in [link.get("url") for link in whole["links"]]

    def test_every_query_parses_and_reads_what_exists(self, path: Path) -> None:
        series, made = known(), shipped.recorded() | {"ALERTS"}

        for title, expr in queries(path):
            for name, matchers in shipped.selectors(substituted(expr, {}, "1m")):
                assert name in series or name in made, (title, name)
                if name in series:
                    assert set(matchers) <= series[name], (title, name, matchers)

    def test_it_reads_well_in_thirty_seconds(self, path: Path) -> None:
        """A panel that shows everything shows nothing."""
        for panel in panels(loaded(path)):
            assert len(panel["title"]) <= 50
            assert len(panel["targets"]) <= 4


def _sources(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        if "datasource" in node:
            yield node["datasource"]
        for each in node.values():
            yield from _sources(each)
    elif isinstance(node, list):
        for each in node:
            yield from _sources(each)


def test_names_of_dashboards_and_panels_are_used_once() -> None:
    whole = [loaded(path) for path in FILES]

    assert len({each["title"] for each in whole}) == len(whole) == 4


def test_the_first_screen_of_the_overview_answers_its_three_questions() -> None:
    whole = loaded(FOLDER / "relay-overview.json")["panels"]

    seen = [
        panel["title"]
        for panel in whole
        if panel["gridPos"]["y"] + panel["gridPos"]["h"] <= FIRST_SCREEN
    ]

    assert [title for title in seen if title.endswith("?")] == [
        "Do users notice?",
        "Which upstream is slow, or fails?",
        "Which key is near its limit?",
    ]
    for answer in (
        *("Failed calls", "Late first tokens", "Models nobody can answer"),
        *("First token by upstream, p95", "Failed attempts by upstream"),
        *("Keys nearest to a limit", "Firing alerts"),
    ):
        assert answer in seen


def test_every_series_is_on_some_dashboard() -> None:
    shown = {
        name.removesuffix("_bucket").removesuffix("_count")
        for path in FILES
        for _, expr in queries(path)
        for name, _ in shipped.selectors(substituted(expr, {}, "1m"))
    }
    # Of the process only what an operator can act on.
    left_out = {
        "process_virtual_memory_bytes",
        "process_start_time_seconds",
        "python_gc_objects_collected_total",
        "python_gc_objects_uncollectable_total",
    }

    assert {family.name for family in (*FAMILIES, *PROCESS_FAMILIES)} - shown == left_out


def test_a_first_token_turns_amber_where_it_counts_as_slow_by_default() -> None:
    assert SLOW[0] == (Observability().slow_first_token, AMBER)


def test_provisioning_names_what_is_there() -> None:
    source = shipped.read(PROVISIONING / "datasources" / "relay.yaml")
    provider = shipped.read(PROVISIONING / "dashboards" / "relay.yaml")
    scraped = shipped.read(shipped.PROMETHEUS / "prometheus.yaml")["global"]["scrape_interval"]

    (found,) = source["datasources"]
    assert found["type"] == "prometheus"
    assert found["jsonData"]["timeInterval"] == scraped
    assert provider["providers"][0]["allowUiUpdates"] is False
