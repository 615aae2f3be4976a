"""The names of metrics are a contract: well formed, declared once, and documented as they are."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest

from relay.errors import Outcome
from relay.gaps import GAP_EDGES
from relay.observe import families
from relay.observe.families import FAMILIES
from relay.records import Cause

PAGE = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text("utf-8")

EDGES = {
    "relay_request_duration_seconds": families.DURATION_EDGES,
    "relay_time_to_first_token_seconds": families.TTFT_EDGES,
    "relay_inter_event_seconds": GAP_EDGES,
    "relay_stream_max_gap_seconds": families.MAX_GAP_EDGES,
    "relay_overhead_seconds": families.OVERHEAD_EDGES,
    "relay_queue_seconds": families.QUEUE_EDGES,
    "relay_event_loop_lag_seconds": families.LAG_EDGES,
}


def table(heading: str) -> list[list[str]]:
    """The rows of the first table under a heading of the page, cell by cell."""
    section = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_page_lists_every_series_as_it_is_declared() -> None:
    declared = [
        [f"`{f.name}`", f.kind, " ".join(f"`{label}`" for label in f.labels), f.help]
        for f in FAMILIES
    ]

    assert table("Series") == declared


def test_the_page_lists_every_edge() -> None:
    declared = [
        [f"`{name}`", " ".join(f"{edge:g}" for edge in edges)] for name, edges in EDGES.items()
    ]

    assert table("Buckets") == declared


def test_the_page_explains_every_label() -> None:
    explained = {row[0].split("`")[1] for row in table("Labels")}
    used = {label for family in FAMILIES for label in family.labels}

    # What these say is in their names.
    assert used - explained == {"to", "version", "python"}
    assert explained <= used


def test_the_page_names_every_outcome_and_cause() -> None:
    outcomes = {row[0].strip("`") for row in table("Outcomes")}
    causes = next(row[1] for row in table("Labels") if row[0] == "`cause`")

    assert outcomes == set(get_args(Outcome))
    assert {word for word in causes.split("`") if word in get_args(Cause)} == set(get_args(Cause))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_name_follows_the_conventions(family: families.Family) -> None:
    assert family.name.startswith("relay_")
    assert family.name.endswith("_total") == (family.kind == "counter")
    assert family.name.endswith("_seconds") or family.kind != "histogram"
    assert family.name.endswith("_info") == (family.kind == "info")
    assert len(set(family.labels)) == len(family.labels)
    assert family.help.endswith(".") or family.help.endswith("Unix time.")


def test_keys_are_never_on_histograms() -> None:
    assert not [f.name for f in FAMILIES if f.kind == "histogram" and "key" in f.labels]


def test_no_name_is_declared_twice() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


@pytest.mark.parametrize(("name", "edges"), EDGES.items(), ids=lambda item: str(item)[:40])
def test_edges_rise(name: str, edges: tuple[float, ...]) -> None:
    assert name in {family.name for family in FAMILIES}
    assert all(low < high for low, high in pairwise(edges))
