"""Writes what was measured: `docs/benchmarks.md` for people, `.json` with every figure, `.svg` as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bench import figures, plot, sections
from bench.figures import Results, Sample, Spread
from bench.plot import Panel, Row, short
from bench.sections import DAGGER, MAIN, NGINX, bounded, cell, table

HEAD = """\
# Benchmarks

Written by `make bench`; [bench/README.md](../bench/README.md) says what each figure means and how to run it yourself.
Every figure is a median over {rounds} rounds, with the smallest and largest in brackets. What counts are the ratios to
nginx, made round by round: absolute times are this machine's. {others}

{date} · {cpu}, {cores} CPUs · {kernel} · {python} ({build})

![CPU per call and event, delay and memory, against nginx](benchmarks.svg)
"""

NOTES = f"""
CPU in µs. Calls: 32 connections, saturated. Events: 10,000 a second in 200 streams; a program that cannot keep up has
seconds of delay. First token: what the program adds before it, 20 streams. Delays in ms. Failed: calls without a good
answer. nginx, HAProxy and Envoy check no key, count nothing and know no failover here; the relay does all of it and
writes a log line per call. {DAGGER}
"""


QUIET = 0.1
"""CPUs that others may use before figures are to be doubted."""


def write(results: Results, folder: Path) -> list[Path]:
    """Writes the three files; their paths."""
    texts = {
        "benchmarks.md": markdown(results),
        "benchmarks.svg": picture(results),
        "benchmarks.json": msgspec.json.format(msgspec.json.encode(results), indent=1).decode()
        + "\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
    return [folder / name for name in texts]


def markdown(results: Results) -> str:
    machine = results.machine
    parts = [
        HEAD.format(
            rounds=results.options.get("rounds", "?"),
            others=_others(results.samples),
            date=machine.date,
            cpu=machine.cpu,
            cores=machine.cores,
            kernel=machine.kernel,
            python=machine.python,
            build="with profile-guided optimisation"
            if machine.optimised
            else "no profile-guided optimisation",
        ),
        main_table(results),
        *(section(results.samples) for section in sections.ALL),
        _skipped(results),
    ]
    return "\n".join(part for part in parts if part)


def _others(samples: Sequence[Sample]) -> str:
    """How quiet the machine was."""
    used = [sample.figures["others_cpus"] for sample in samples if "others_cpus" in sample.figures]
    if not used:
        return ""
    middle, most = statistics.median(used), max(used)
    loud = "**The machine was not quiet:** other" if middle >= QUIET else "Other"
    return f"{loud} programs used {middle:.0%} of a CPU meanwhile ({most:.0%} at most)."


def main_table(results: Results) -> str:
    """One row per program."""
    samples = results.samples
    names = figures.peers(samples, "plain")
    if not names:
        return ""
    head = ["program", "CPU per plain call", "× nginx", "calls/s", "CPU per event", "× nginx"]
    head += ["event delay p50 / p99", "p99 × nginx", "first token + p50 / p99"]
    head += ["memory per stream", "× nginx", "failed"]
    rows = [_main_row(results, name) for name in names]
    return "## One program on one CPU\n\n" + table(head, rows) + NOTES


def _main_row(results: Results, name: str) -> list[str]:
    samples = results.samples

    def one(case: str, figure: str) -> Spread | None:
        return figures.absolute(samples, case, name, figure)

    def both(case: str, *names: str) -> str:
        found = [one(case, figure) for figure in names]
        return " / ".join(short(value.median) if value else "–" for value in found)

    def times(case: str, figure: str) -> str:
        return cell(figures.against(samples, case, name, NGINX, figure))

    kb = one("held", "kb_per_stream")
    made = sum(load.calls for sample in samples if sample.peer == name for load in sample.loads)
    bad = figures.failed(samples, lambda sample: sample.peer == name and sample.case in MAIN)
    return [
        f"**{name}** {results.versions.get(name, '')} ({results.kinds.get(name, '')})",
        cell(one("plain", "us_per_request"), ranged=False),
        times("plain", "us_per_request"),
        cell(one("plain", "requests_per_s"), ranged=False) + bounded(samples, "plain", name),
        cell(one("events", "us_per_event"), ranged=False),
        times("events", "us_per_event"),
        both("events", "delay_p50_ms", "delay_p99_ms"),
        times("events", "delay_p99_ms"),
        both("first_token", "added_p50_ms", "added_p99_ms"),
        f"{short(kb.median)} KB" if kb else "–",
        times("held", "kb_per_stream"),
        f"{bad:,}" if made or bad else "–",
    ]


def _skipped(results: Results) -> str:
    if not results.skipped:
        return ""
    lines = [f"- {skipped.what}: {' '.join(skipped.why.split())}" for skipped in results.skipped]
    return "## Not measured\n\n" + "\n".join(lines) + "\n"


def picture(results: Results) -> str:
    samples = results.samples
    names = figures.peers(samples, "plain")

    def rows(measured: Callable[[str], Spread | None]) -> list[Row]:
        found = ((name, measured(name)) for name in names)
        return [Row(name, value) for name, value in found if value is not None and value.low > 0]

    def ratios(case: str, figure: str) -> list[Row]:
        return rows(lambda name: figures.against(samples, case, name, NGINX, figure))

    panels = [
        Panel("CPU per plain call, × nginx", " ×", ratios("plain", "us_per_request"), 1.0),
        Panel(
            "CPU per streamed event at 10,000 a second, × nginx",
            " ×",
            ratios("events", "us_per_event"),
            1.0,
        ),
        Panel(
            "Delay of an event at 10,000 a second, 99th percentile",
            " ms",
            rows(lambda name: figures.absolute(samples, "events", name, "delay_p99_ms")),
        ),
        Panel(
            "Memory per held stream",
            " KB",
            rows(lambda name: figures.absolute(samples, "held", name, "kb_per_stream")),
        ),
    ]
    machine = results.machine
    caption = f"{machine.date} · {machine.cpu}, {machine.cores} CPUs, one for the program · smaller is better"
    return plot.draw(panels, caption)


def read(path: Path) -> Results:
    """A run that was written before."""
    return msgspec.json.decode(path.read_bytes(), type=Results)


def summary(samples: Sequence[Sample]) -> str:
    """How many figures of what, for the end of a run."""
    cases = dict.fromkeys(sample.case for sample in samples)
    return f"{len(samples)} samples of {len(cases)} cases"
