"""What is measured of every program: a plain call, an event, the first token, a held stream; and the tools themselves.

The stand-in is told how to answer before each load, so that it and the peer's connections to it live on.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.figures import Sample
from bench.machine import most_streams
from bench.rig import Rig, Running
from bench.tools import Load, Report, Target

CALM = "events=64 first_ms=0 interval_ms=0 tick_ms=0 pad=0"
"""The stand-in answers at once."""

STREAMS = 200
INTERVAL_MS = 20
"""200 streams with an event each 20 ms: 10,000 events a second."""


def tools_busy(report: Report) -> float:
    """The share of one CPU that load and stand-in used. Near 1 on a shared CPU they bound the throughput."""
    return (report.own_cpu_s + report.watched[-1].cpu_s) / report.seconds


def sample(
    case: str, running: Running, number: int, report: Report, figures: dict[str, float]
) -> Sample:
    figures["tools_busy"] = tools_busy(report)
    return Sample(case, running.name, number, figures, failed=report.failed, loads=[report])


def per(total_s: float, count: int) -> float:
    """Microseconds each."""
    return total_s * 1e6 / count if count else 0.0


def warm(rig: Rig, running: Running) -> None:
    """Before anything is counted: connections to the upstream, caches, allocators, compilers that run along."""
    rig.standin.say(CALM)
    rig.load(running.target, Load(32, 3 * rig.pace))
    rig.load(running.target, Load(32, 1 * rig.pace, streamed=True))
    running.rest()


def plain(rig: Rig, running: Running, number: int) -> Sample:
    """32 connections, one call after the other, as fast as it goes."""
    rig.standin.say(CALM)
    report = rig.load(running.target, Load(32, 4 * rig.pace, warmup=1.5 * rig.pace))
    figures = {
        "requests_per_s": report.calls / report.seconds,
        "total_p50_ms": report.total_ms.p50,
        "total_p99_ms": report.total_ms.p99,
    }
    if report.calls:
        figures["us_per_request"] = per(report.watched[0].cpu_s, report.calls)
    return sample("plain", running, number, report, figures)


def _events(rig: Rig, running: Running, number: int, case: str, spread: float, tick: str) -> Sample:
    rig.standin.say(f"events=64 first_ms={INTERVAL_MS} interval_ms={INTERVAL_MS} {tick}")
    load = Load(STREAMS, 5 * rig.pace, warmup=spread + 1.5 * rig.pace, spread=spread, streamed=True)
    report = rig.load(running.target, load)
    figures = {"events_per_s": report.events / report.seconds}
    if report.events:
        figures |= {
            "us_per_event": per(report.watched[0].cpu_s, report.events),
            "delay_p50_ms": report.delay_ms.p50,
            "delay_p99_ms": report.delay_ms.p99,
            "delay_max_ms": report.delay_ms.max,
        }
    return sample(case, running, number, report, figures)


def events(rig: Rig, running: Running, number: int) -> Sample:
    """10,000 events a second in 200 streams, each stream in a phase of its own, as those of users are."""
    return _events(rig, running, number, "events", 0.5, "tick_ms=0")


def events_in_step(rig: Rig, running: Running, number: int) -> Sample:
    """The same, but events leave together on the millisecond: kinder to every program, and common in benchmarks."""
    return _events(rig, running, number, "events_in_step", 0.0, "tick_ms=1")


def first_token(rig: Rig, running: Running, number: int) -> Sample:
    """20 streams of short answers: what is added before the first token."""
    rig.standin.say("events=10 first_ms=50 interval_ms=10 tick_ms=0")
    load = Load(20, 6 * rig.pace, warmup=1 * rig.pace, spread=0.15, streamed=True)
    report = rig.load(running.target, load)
    figures = {}
    if report.added_ms.count:
        figures = {"added_p50_ms": report.added_ms.p50, "added_p99_ms": report.added_ms.p99}
    return sample("first_token", running, number, report, figures)


def held(streams: int) -> Callable[[Rig, Running, int], Sample]:
    """Memory per stream, with so many held, on top of what the cases before have left allocated."""

    def case(rig: Rig, running: Running, number: int) -> Sample:
        count = min(streams, most_streams())
        rig.standin.say("events=1000 first_ms=100 interval_ms=5000 tick_ms=0")
        before = running.rss_kb()
        spread = count / 1000
        load = Load(
            count,
            2 * rig.pace,
            warmup=spread + 0.5 + 2.5 * rig.pace,
            spread=spread,
            streamed=True,
            sources=4,
        )
        report = rig.load(running.target, load)
        figures: dict[str, float] = {"streams": report.open}
        if report.open >= count * 0.9:
            figures["kb_per_stream"] = (report.watched[0].rss_kb - before) / report.open
        return sample("held", running, number, report, figures)

    return case


def self_check(rig: Rig, number: int) -> list[Sample]:
    """The tools alone: the load straight at the stand-in, each on its own CPU where there are two."""
    target = Target(rig.standin.url, pids=(rig.standin.pid,))
    rig.standin.say(CALM)
    calls = rig.load(target, Load(32, 3 * rig.pace, warmup=0.5 * rig.pace))
    flood = rig.load(target, Load(32, 3 * rig.pace, warmup=0.5 * rig.pace, streamed=True))
    rig.standin.say(f"first_ms={INTERVAL_MS} interval_ms={INTERVAL_MS}")
    load = Load(STREAMS, 4 * rig.pace, warmup=1.5, spread=0.5, streamed=True)
    paced = rig.load(target, load)
    samples = []
    for case, report, count in (
        ("self_calls", calls, calls.calls),
        ("self_flood", flood, flood.events),
        ("self_events", paced, paced.events),
    ):
        figures = {
            "per_s": count / report.seconds,
            "load_us": per(report.own_cpu_s, count),
            "standin_us": per(report.watched[0].cpu_s, count),
            "delay_p50_ms": report.delay_ms.p50,
            "delay_p99_ms": report.delay_ms.p99,
        }
        samples.append(Sample(case, "tools", number, figures, failed=report.failed, loads=[report]))
    return samples
