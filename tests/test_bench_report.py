"""The benchmarks' report: medians of ratios, the table, the plot, on figures that are known."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from bench import CACHE, figures, plot, report, run
from bench.figures import Results, Sample, Skipped, Spread
from bench.machine import Machine
from bench.plot import Axis, Panel, Row, short

MACHINE = Machine("2026-11-28", "Some CPU", 2, "Linux 6.1.0", "CPython 3.11.2, GCC 12.2.0", True)


def rounds(case: str, peer: str, figure: str, *each: float, point: str = "") -> list[Sample]:
    return [Sample(case, peer, number, {figure: value}, point) for number, value in enumerate(each)]


def results(*samples: Sample) -> Results:
    versions = {"nginx": "1.22.1", "relay": "0.1.0"}
    kinds = {"nginx": "web server, C", "relay": "gateway, Python"}
    skipped = [Skipped("LiteLLM", "not installed")]
    return Results(MACHINE, versions, kinds, {"rounds": "3"}, list(samples), skipped)


MEASURED = results(
    *rounds("plain", "nginx", "us_per_request", 30, 40, 20),
    *rounds("plain", "relay", "us_per_request", 90, 80, 80),
    *rounds("events", "nginx", "us_per_event", 20, 20, 20),
    *rounds("events", "relay", "us_per_event", 30, 26, 28),
    *rounds("body", "nginx", "us_per_request", 100, point="100000"),
    *rounds("body", "relay", "us_per_request", 350, point="100000"),
    *rounds("streaming", "relay", "plain_us", 100, point="64"),
    *rounds("workers", "relay", "capacity_per_s", 10_000, point="1"),
    *rounds("workers", "relay", "capacity_per_s", 19_000, point="2"),
)

# --- ratios -----------------------------------------------------------------------------------


def test_a_ratio_is_made_within_its_round() -> None:
    found = figures.against(MEASURED.samples, "plain", "relay", "nginx", "us_per_request")

    assert found == Spread(3.0, 2.0, 4.0, 3)


def test_a_round_without_the_yardstick_does_not_count() -> None:
    assert figures.ratio({0: 9.0, 1: 8.0}, {1: 4.0, 2: 1.0}) == Spread(2.0, 2.0, 2.0, 1)
    assert figures.ratio({0: 9.0}, {0: 0.0}) is None


# --- the table --------------------------------------------------------------------------------


def row(name: str) -> list[str]:
    line = next(line for line in report.markdown(MEASURED).splitlines() if f"**{name}**" in line)
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_program_has_its_medians_and_ratios_in_a_row() -> None:
    cells = row("relay")

    assert cells[0] == "**relay** 0.1.0 (gateway, Python)"
    assert cells[1:3] == ["80", "3 (2–4)"]
    assert cells[4:6] == ["28", "1.4 (1.3–1.5)"]
    assert row("nginx")[2] == "1 (1–1)"


def test_what_was_not_measured_is_a_dash_and_has_its_reason() -> None:
    assert row("relay")[3] == "–"
    assert "- LiteLLM: not installed" in report.markdown(MEASURED)


def test_sections_show_only_what_was_measured() -> None:
    text = report.markdown(MEASURED)

    assert "## Length of the body" in text
    assert "| 100,000 | 1.5 |" in text  # (350 - 2 * 100) µs over 100 KB
    assert "| 2 | – | – | 19,000 | 1.9 |" in text
    assert "## Open streams" not in text


def test_a_rate_that_the_tools_may_have_bounded_is_marked() -> None:
    samples = [
        Sample(
            "plain", "nginx", 0, {"requests_per_s": 30_000, "us_per_request": 30, "tools_busy": 0.9}
        )
    ]

    assert "| 30,000 † |" in report.markdown(results(*samples))


def test_a_machine_that_was_not_quiet_is_told() -> None:
    loud = [Sample("plain", "nginx", 0, {"us_per_request": 30, "others_cpus": 0.4})]

    assert "not quiet" in report.markdown(results(*loud))
    assert "not quiet" not in report.markdown(MEASURED)


def test_all_three_files_are_written_and_read_again(tmp_path: Path) -> None:
    paths = report.write(MEASURED, tmp_path)

    assert [path.name for path in paths] == ["benchmarks.md", "benchmarks.svg", "benchmarks.json"]
    assert report.read(tmp_path / "benchmarks.json") == MEASURED
    assert msgspec.json.decode(paths[2].read_bytes())["machine"]["cpu"] == "Some CPU"


def test_a_reason_names_no_path_of_this_machine() -> None:
    told = run.without_paths(f"{CACHE}/peers/x: gone; {Path.home()}/y")

    assert str(CACHE) not in told
    assert str(Path.home()) not in told


# --- the plot ---------------------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"


def drawn() -> ElementTree.Element:
    rows = [Row("slow <one>", Spread(20, 10, 40, 3)), Row("relay", Spread(2, 1.5, 3, 3))]
    panels = [Panel("CPU & more", " ×", rows, 1.0), Panel("empty", "", [])]
    return ElementTree.fromstring(plot.draw(panels, 'a "caption"'))  # noqa: S314 - our own


def test_the_plot_is_well_formed_and_says_what_it_shows() -> None:
    root = drawn()

    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    assert root.get("aria-label") == 'a "caption"'
    assert "CPU & more" in texts
    assert "empty" not in texts
    assert texts.index("relay") < texts.index("slow <one>")  # best first
    assert {"2 ×", "20 ×"} <= set(texts)


def test_dots_stand_in_proportion_on_a_logarithmic_axis() -> None:
    dots = {dot.get("class"): float(dot.get("cx", "")) for dot in drawn().iter(f"{SVG}circle")}
    axis = Axis(1, 40)

    assert dots["dot ours"] == pytest.approx(axis.place(2), abs=0.1)
    assert dots["dot"] == pytest.approx(axis.place(20), abs=0.1)
    assert axis.place(20) - axis.place(2) == pytest.approx(axis.place(10) - axis.place(1))


def test_the_plot_has_colours_for_light_and_dark() -> None:
    style = drawn().find(f"{SVG}style")

    assert style is not None
    assert "prefers-color-scheme: dark" in (style.text or "")


@pytest.mark.parametrize(("low", "high"), [(1, 1), (0.9, 600), (0.02, 0.05), (1, 1e9)])
def test_an_axis_has_some_ticks_and_not_too_many(low: float, high: float) -> None:
    ticks = Axis(low, high).ticks()

    assert 1 <= len(ticks) <= 12


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1, "1"), (1.499, "1.5"), (12.345, "12.3"), (1234.5, "1,234"), (0.01234, "0.0123")],
)
def test_numbers_have_three_digits_that_matter(value: float, text: str) -> None:
    assert short(value) == text
