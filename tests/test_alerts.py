"""The shipped rules: each alert is tried, explained, and about series that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from relay.observe.families import FAMILIES, PROCESS_FAMILIES
from tests.observe import shipped
from tests.observe.faults import FAULTS, STANDING
from tests.observe.shipped import Alert
from tests.rig.sdks import absent

RUNBOOK = shipped.RUNBOOK.read_text("utf-8")
ENTRIES = dict(re.findall(r"^### (\w+)\n\n(.*?)(?=^### |\Z)", RUNBOOK, re.M | re.S))
NAMES = sorted({alert.name for alert in shipped.alerts()})


def ran(program: str, *args: str) -> str:
    """What a program says; it must be content."""
    if shutil.which(program) is None:
        package = "prometheus" if program == "promtool" else "prometheus-alertmanager"
        absent(f"{program} is missing: `apt-get install {package}`")
    found = subprocess.run([program, *args], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_promtool_finds_nothing_to_criticise_in_the_rules() -> None:
    ran("promtool", "check", "rules", "--lint=all", "--lint-fatal", *map(str, shipped.RULES))


@pytest.mark.parametrize("path", shipped.CASES, ids=lambda path: path.stem)
def test_alerts_fire_and_stay_silent_as_their_cases_say(path: Path) -> None:
    assert "SUCCESS" in ran("promtool", "test", "rules", str(path))


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_has_a_case_that_fires_and_one_that_stays_silent(name: str) -> None:
    checks = [
        (case["name"], bool(check["exp_alerts"]))
        for path in shipped.CASES
        for case in shipped.read(path)["tests"]
        for check in case["alert_rule_test"]
        if check["alertname"] == name
    ]

    assert [case for case, fires in checks if fires and "fires" in case]
    assert [case for case, fires in checks if not fires and "silent" in case]


def test_every_rule_of_an_alert_fires_in_some_case() -> None:
    tried = {
        (check["alertname"], expected["exp_labels"]["severity"], expected["exp_labels"].get(by))
        for path in shipped.CASES
        for case in shipped.read(path)["tests"]
        for check in case["alert_rule_test"]
        for expected in check["exp_alerts"]
        for by in ("window", "sign")
    }
    ships = {
        (alert.name, alert.labels["severity"], alert.labels.get("window", alert.labels.get("sign")))
        for alert in shipped.alerts()
    }

    assert ships <= tried


def test_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t")
    whole = shipped.PROMETHEUS / "prometheus.yaml"
    here = tmp_path / "prometheus.yaml"
    text = whole.read_text("utf-8").replace("/run/secrets/relay_admin_token", str(token))
    here.write_text(text, "utf-8")
    shutil.copytree(shipped.PROMETHEUS / "rules", tmp_path / "rules")

    assert f"{len(shipped.RULES)} rule files found" in ran("promtool", "check", "config", str(here))


def test_alertmanager_accepts_its_configuration() -> None:
    said = ran("amtool", "check-config", str(shipped.PROMETHEUS / "alertmanager.yaml"))

    assert "SUCCESS" in said


@pytest.mark.parametrize(
    ("labels", "receiver"), [("severity=page", "page"), ("severity=ticket", "ticket")]
)
def test_alertmanager_routes_by_severity(labels: str, receiver: str) -> None:
    config = str(shipped.PROMETHEUS / "alertmanager.yaml")

    said = ran("amtool", "config", "routes", "test", f"--config.file={config}", labels)

    assert said.strip() == receiver


def test_the_runbook_has_an_entry_for_each_alert_and_for_nothing_else() -> None:
    assert sorted(ENTRIES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_says_what_is_noticed_how_to_see_it_what_to_do_and_when_to_be_silent(
    name: str,
) -> None:
    entry = ENTRIES[name]
    severities = {alert.labels["severity"] for alert in shipped.alerts() if alert.name == name}

    for word in ("**Users notice**", "**See it**", "**Do**", "**Silence**"):
        assert word in entry
    assert {
        word for word in ("page", "ticket") if word in entry.split(":")[0].lower()
    } == severities


@pytest.mark.parametrize("alert", shipped.alerts(), ids=lambda alert: alert.name)
def test_an_alert_says_how_bad_it_is_what_is_wrong_and_where_to_read_on(alert: Alert) -> None:
    said = alert.annotations

    assert alert.labels["severity"] in ("page", "ticket")
    assert set(said) == {"summary", "description", "runbook_url"}
    assert said["runbook_url"] == f"docs/runbook.md#{alert.name.lower()}"
    assert len(said["summary"]) < 110
    assert said["description"].endswith(".")


def test_links_within_the_runbook_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", RUNBOOK, re.M)
    }

    assert set(re.findall(r"\]\(#([\w-]+)\)", RUNBOOK)) <= headings
    for page in re.findall(r"\]\(([\w./]+)(?:#[\w-]+)?\)", RUNBOOK):
        assert (shipped.RUNBOOK.parent / page).exists(), page


def test_make_observe_plays_every_alert() -> None:
    played = {name for name, _ in STANDING} | {name for f in FAULTS for name, _ in f.must}

    assert sorted(played) == NAMES


def known() -> dict[str, set[str]]:
    """The labels of every series there is, by name, histograms by those that a page has."""
    found: dict[str, set[str]] = {"up": {"job", "instance"}}
    for family in (*FAMILIES, *PROCESS_FAMILIES):
        labels = {*family.labels, "job", "instance"}
        if family.kind == "histogram":
            found[f"{family.name}_bucket"] = labels | {"le"}
            found[f"{family.name}_count"] = found[f"{family.name}_sum"] = labels
        else:
            found[family.name] = labels
    return found


def test_rules_read_only_series_and_labels_that_exist() -> None:
    series, made = known(), shipped.recorded()

    for rule in shipped.rules():
        for name, matchers in shipped.selectors(rule["expr"]):
            assert name in series or name in made, name
            if name in series:
                assert set(matchers) <= series[name], (name, matchers)


def test_the_same_rules_with_shorter_times_are_good_rules(tmp_path: Path) -> None:
    for path in shipped.RULES:
        (tmp_path / path.name).write_text(shipped.shorter_rules(path, 60), "utf-8")

    ran("promtool", "check", "rules", *map(str, sorted(tmp_path.iterdir())))
    text = (tmp_path / "slo.yaml").read_text("utf-8")
    assert "relay:slo_events:total[5000ms]" in text
    assert "relay:slo_events:total[4320000ms]" in text
    assert "for: 2000ms" in (tmp_path / "upstreams.yaml").read_text("utf-8")
