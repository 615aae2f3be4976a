"""The page in both formats: what `promtool` and the reference parsers accept."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from prometheus_client.openmetrics.parser import (  # noqa: TID251  reads pages
    text_string_to_metric_families,
)

from relay.observe.exposition import LONGEST_EXEMPLAR_ID, wants_openmetrics
from tests.observed import STARTED, Page, configured, streamed

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        (PROMETHEUS, True),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text; Version=1.0.0", True),
        ("application/openmetrics-text;q=0.2, text/plain;q=0.9", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=high", False),
        ("text/plain", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("*/*", False),
        ("", False),
        (",;,=;q", False),
    ],
)
def test_the_format_follows_what_the_scraper_prefers(accept: str, openmetrics: bool) -> None:
    assert wants_openmetrics(accept) is openmetrics


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_to_criticise() -> None:
    metrics = configured()
    metrics.observe([streamed()])

    found = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics.render(), capture_output=True, check=False
    )

    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")


def test_openmetrics_carries_the_request_id_of_a_call() -> None:
    metrics = configured()
    metrics.observe([streamed(7)])

    text = metrics.render(openmetrics=True).decode()

    read = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    families = {family.name: family for family in read}
    for name, value in (
        ("relay_request_duration_seconds", 4.2345),
        ("relay_time_to_first_token_seconds", 0.3),
    ):
        [seen] = [sample.exemplar for sample in families[name].samples if sample.exemplar]
        assert seen.labels == {"request_id": "req-7"}
        assert seen.value == value
        assert float(seen.timestamp or 0) == pytest.approx(STARTED + value, abs=0.001)


def test_an_id_that_is_too_long_for_openmetrics_is_left_out() -> None:
    metrics = configured()
    record = streamed()
    record.request_id = "r" * (LONGEST_EXEMPLAR_ID + 1)

    metrics.observe([record])

    assert b"# {" not in metrics.render(openmetrics=True)


def test_the_text_format_has_no_exemplars_and_no_created_series() -> None:
    metrics = configured()
    metrics.observe([streamed()])

    page = Page(metrics)

    assert "# {" not in page.text
    assert "_created" not in page.text
    assert b"_created" not in metrics.render(openmetrics=True)


def test_labels_of_the_configuration_are_escaped() -> None:
    metrics = configured()
    name = 'odd "name"\n\\ 模型'
    metrics.configure({name}, {"main"}, {"shop"}, 0.8)
    record = streamed()
    record.model = record.served_model = name

    metrics.observe([record])

    page = Page(metrics)
    assert page.value("relay_request_duration_seconds_count", model=name, upstream="main") == 1
