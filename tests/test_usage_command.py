"""`relay usage`: what it says of a ledger, in which form, and how it fails."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import sys
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest

from relay.cli import main
from relay.commands import chart, money, table
from relay.records import CallRecord
from relay.state import database
from relay.usage import Usage
from tests.recorded import DAY, FIRST, call, store
from tests.rig.sdks import absent

PRICES = {
    "gpt-4.1": {"input": 2, "cached_input": 0.5, "output": 8},
    "peaky": {
        **{"input": 1, "output": 1},
        "windows": [{"input": 2, "output": 2, "hours": ["00:00-12:00"]}],
    },
}
CALLS = (
    call(1, usage=Usage(1000, 500, 400), cost=354_000),
    call(2, received=FIRST + DAY, key="店铺-前端", usage=Usage(10, 5, source="estimated"), cost=3),
    call(3, received=FIRST + DAY, key="店铺-前端", group="team", outcome="timeout", code=504),
)


class Terminal:
    """A folder with a configuration, and what commands in it print."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        fields = {
            "models": {"m": {"static": "x"}, "priced": {"static": "x", "price": PRICES["gpt-4.1"]}},
            "prices": PRICES,
        }
        (folder / "config.yaml").write_text(json.dumps(fields), "utf-8")

    def record(self, records: Sequence[CallRecord]) -> Path:
        return store(self.folder / "state", records)

    def usage(self, *words: str, code: int = 0) -> tuple[str, str]:
        """What it printed on stdout and stderr."""
        assert main(["usage", "-c", str(self.folder / "config.yaml"), *words]) == code
        printed = self._capsys.readouterr()
        return printed.out, printed.err


@pytest.fixture
def terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path, capsys)


@pytest.fixture
def busy(terminal: Terminal) -> Terminal:
    """One that has recorded calls."""
    terminal.record(CALLS)
    return terminal


# --- what it says ---------------------------------------------------------------------------------


def test_a_row_for_each_key_the_dearest_first_and_a_total(busy: Terminal) -> None:
    out, err = busy.usage()

    assert out.splitlines() == [
        "KEY        CALLS  FAILED  INPUT  CACHED  OUTPUT  ESTIMATED          US$",
        "shop           1    0.0%  1,000   40.0%     500       0.0%  0.000354000",
        "店铺-前端      2   50.0%     10    0.0%       5     100.0%  0.000000003",
        "---------  -----  ------  -----  ------  ------  ---------  -----------",
        "total          3   33.3%  1,010   39.6%     505       1.0%  0.000354003",
    ]
    assert err == "calls of 2026-11-23 to 2026-11-24\n"


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("day", ["2026-11-23", "2026-11-24"]),
        ("group", ["-", "team"]),
        ("model", ["m"]),
        ("upstream", ["up"]),
    ],
)
def test_rows_are_of_what_was_asked_for(busy: Terminal, by: str, names: list[str]) -> None:
    out, _ = busy.usage("--by", by)

    lines = out.splitlines()
    assert lines[0].split()[0] == by.upper()
    assert [line.split()[0] for line in lines[1:-2]] == names


@pytest.mark.parametrize(
    ("words", "calls"),
    [
        (["--since", "2026-11-24"], 2),
        (["--until", "2026-11-24"], 1),
        (["--since", "2026-11-23T00:00:00.001Z"], 2),
        (["--since", "2026-11-23", "--until", "2026-11-24T00:00:00Z"], 1),
        (["--key", "shop"], 1),
        (["--key", "店铺-前端", "--model", "m"], 2),
    ],
)
def test_only_what_was_selected_counts(busy: Terminal, words: list[str], calls: int) -> None:
    out, _ = busy.usage(*words, "--json")

    assert json.loads(out)["total"]["calls"] == calls


def test_so_long_ago_is_counted_from_now(terminal: Terminal) -> None:
    now = datetime.now(UTC)  # noqa: TID251  the command reads the clock, too
    ages = (timedelta(hours=1), timedelta(days=2), timedelta(days=8))
    terminal.record(
        [call(number, received=(now - age).timestamp()) for number, age in enumerate(ages)]
    )

    counts = [
        json.loads(terminal.usage("--since", since, "--json")[0])["total"]["calls"]
        for since in ("2h", "7d", "8d12h")
    ]

    assert counts == [1, 2, 3]


def test_json_has_exact_money_and_all_sums(busy: Terminal) -> None:
    out, _ = busy.usage("--json", "--by", "group", "--compare", "gpt-4.1")

    found = json.loads(out)
    assert (found["by"], found["since"], found["first"]) == ("group", None, "2026-11-23T00:00:00Z")
    assert [row["group"] for row in found["rows"]] == [None, "team"]
    none = found["rows"][0]
    there = 600 * 2000 + 400 * 500 + 500 * 8000 + 10 * 2000 + 5 * 8000
    assert none["cost_nano_usd"] == 354_003
    assert none["cost_usd"] == 0.000354003
    assert none["estimated_tokens"] == 15
    assert none["compare"]["gpt-4.1"] == {
        "cost_usd": there / 1e9,
        "cost_nano_usd": there,
        "difference_usd": (there - 354_003) / 1e9,
        "difference_percent": 100 * (there - 354_003) / 354_003,
    }
    assert found["rows"][1]["compare"]["gpt-4.1"]["difference_percent"] is None


def test_csv_has_exact_decimals(busy: Terminal) -> None:
    out, _ = busy.usage("--csv", "--compare", "gpt-4.1,peaky")

    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["key"] for row in rows] == ["shop", "店铺-前端"]
    assert rows[0]["cost_usd"] == "0.000354"
    assert Decimal(rows[0]["gpt-4.1 cost_usd"]) * 10**9 == 600 * 2000 + 400 * 500 + 500 * 8000
    # Midnight is in its window.
    assert Decimal(rows[0]["peaky cost_usd"]) * 10**9 == 1500 * 2000


def test_a_comparison_says_what_it_would_have_cost_and_what_that_rests_on(busy: Terminal) -> None:
    out, err = busy.usage("--compare", "gpt-4.1, priced")

    assert out.splitlines()[0].split() == [
        *("KEY", "CALLS", "US$"),
        *("gpt-4.1", "US$", "DIFFERENCE", "%"),
        *("priced", "US$", "DIFFERENCE", "%"),
    ]
    total = out.splitlines()[-1].split()
    assert total[:6] == ["total", "3", "0.000354003", "0.00546", "+0.005105997", "+1,442.4"]
    assert total[3:6] == total[6:9]
    assert "0.99% of the tokens are estimates of the relay" in err


def test_a_comparison_names_calls_that_were_free_here(terminal: Terminal) -> None:
    terminal.record([call(1, usage=Usage(10, 5)), call(2, usage=Usage(10, 5), cost=7)])

    _, err = terminal.usage("--compare", "gpt-4.1")

    assert "1 of 2 calls used tokens and cost nothing here" in err


# --- nothing, and faults --------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["--by", "day", "--compare", "gpt-4.1"]])
def test_without_a_database_there_are_no_calls_yet(terminal: Terminal, words: list[str]) -> None:
    out, err = terminal.usage(*words)

    assert out == ""
    assert err.startswith("no calls recorded yet in ")
    assert not (terminal.folder / "state").exists()


def test_an_empty_ledger_is_said_to_be_empty(terminal: Terminal) -> None:
    terminal.record([])

    out, err = terminal.usage("--json")

    assert json.loads(out)["rows"] == []
    assert json.loads(out)["total"]["calls"] == 0
    assert err.startswith("no calls recorded for this selection in ")


def test_a_database_of_a_newer_relay_is_left_alone(busy: Terminal) -> None:
    path = busy.folder / "state" / database.FILE
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {database.VERSION + 1}")
    connection.close()

    out, err = busy.usage(code=1)

    assert out == ""
    assert len(err.splitlines()) == 1
    assert "newer relay" in err


def test_what_is_no_database_is_named_in_one_line(terminal: Terminal) -> None:
    path = terminal.record([])
    path.write_bytes(b"no database at all" * 100)

    _, err = terminal.usage(code=1)

    assert err.splitlines() == [f"relay: {path}: file is not a database"]


def test_a_model_without_a_price_cannot_be_compared_with(busy: Terminal) -> None:
    _, err = busy.usage("--compare", "gpt-4.1,m", code=1)

    assert err == (
        "relay: there is no price of 'm'; under prices and models there are: priced, gpt-4.1, peaky\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--since", "yesterday"],
        ["--until", "2026-13-01"],
        ["--by", "weekday"],
        ["--compare", ","],
        ["--chart", "costs.pdf"],
        ["--json", "--csv"],
    ],
)
def test_wrong_usage_is_told(
    terminal: Terminal, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        terminal.usage(*words)

    assert end.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


# --- charts ---------------------------------------------------------------------------------------


def test_a_chart_is_drawn_beside_the_table(busy: Terminal) -> None:
    path = busy.folder / "cost.svg"

    out, err = busy.usage("--chart", str(path))

    assert out.startswith("KEY ")
    assert f"the chart is in {path}" in err
    texts = [element.text for element in ElementTree.fromstring(path.read_text("utf-8")).iter()]  # noqa: S314
    assert {"shop", "店铺-前端", "2026-11-23", "Cost per day by key, US$ (UTC)"} <= set(texts)


def test_a_png_is_one(busy: Terminal) -> None:
    if find_spec("resvg_py") is None:
        absent("the extra `chart` is missing: `pip install resvg-py`")
    path = busy.folder / "cost.png"

    busy.usage("--chart", str(path))

    assert path.read_bytes().startswith(b"\x89PNG\r\n")


def test_without_its_extra_a_png_is_refused_in_words(
    busy: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)

    _, err = busy.usage("--chart", str(busy.folder / "cost.png"), code=1)

    assert err.splitlines()[-1].startswith("relay: a PNG needs the extra `chart`")
    assert not (busy.folder / "cost.png").exists()


def bars(svg: str) -> list[tuple[str, float]]:
    """Class and height of each; squares of the legend and the paper are none."""
    rects = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}rect")  # noqa: S314
    return [
        (rect.get("class", ""), float(rect.get("height", "0")))
        for rect in rects
        if rect.get("width") not in ("10", str(chart.WIDTH))
    ]


@pytest.mark.parametrize("names", [1, 9, 10, 30])
def test_a_chart_shows_all_money_of_a_day_and_names_the_dearest(names: int) -> None:
    costs: chart.Costs = {
        (20_000, f"key-{number:02}"): (number + 1) * 10**9 for number in range(names)
    }

    svg = chart.draw(costs, "key")

    heights = bars(svg)
    dollars = sum(range(1, names + 1))
    unit = sum(height for _, height in heights) / dollars
    assert heights[0][0] == "c0"
    assert heights[0][1] == pytest.approx(names * unit, abs=0.02)
    assert len(heights) == min(names, chart.MOST + 1)
    assert (f"other ({names - chart.MOST})" in svg) == (names > chart.MOST + 1)


def test_a_chart_of_days_has_gaps_where_nothing_was_called() -> None:
    svg = chart.draw({(20_000,): 10**9, (20_002,): 3 * 10**9}, "day")

    assert [kind for kind, _ in bars(svg)] == ["c0", "c0"]
    assert "2024-10-05" in svg


def test_names_are_no_markup_and_nothing_at_all_can_be_drawn() -> None:
    assert "<x>" not in chart.draw({(20_000, "<x>&"): 1}, "key")
    ElementTree.fromstring(chart.draw({}, "key"))  # noqa: S314
    ElementTree.fromstring(chart.draw({(20_000, "<x>&" * 20): 0}, "key"))  # noqa: S314


# --- texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nano", "shown"),
    [(0, "0.00"), (1, "0.000000001"), (-1, "-0.000000001"), (1_234_500_000_000, "1,234.50")],
)
def test_dollars_are_exact(nano: int, shown: str) -> None:
    assert money.column([nano]) == [shown]


def test_amounts_of_one_column_have_their_points_under_each_other() -> None:
    assert money.column([10**9, 1_000_000, -(10**9)], signed=True) == ["+1.000", "+0.001", "-1.000"]


def test_columns_stand_under_each_other_whatever_characters_a_name_has() -> None:
    names = ["plain", "店铺", "é" + unicodedata.normalize("NFD", "é"), "ｆｕｌｌ"]

    lines = table.render(["NAME", "N"], [[name, "1"] for name in names], False).splitlines()

    assert {table.width(line) for line in lines} == {len("ｆｕｌｌ") * 2 + 3}
