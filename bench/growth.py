"""How the cost of a plain call grows: with open streams, with the body, with endpoints, keys and workers.

Open streams and bodies are measured for the relay and nginx; endpoints, keys and workers are the relay's own.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.cases import CALM, per, tools_busy
from bench.figures import Sample, Skipped
from bench.machine import most_streams
from bench.peers import relay
from bench.peers.base import Launch, Peer, Place
from bench.programs import pause
from bench.rig import Rig, Running
from bench.tools import Load, Report, Target

OPEN_STREAMS = (10, 100, 1_000, 10_000)
BODIES = (1_000, 10_000, 100_000, 1_000_000, 8_000_000)
ENDPOINTS = (1, 10, 50, 200)
KEYS = (1, 1_000, 100_000)
WORKERS = (1, 2)
IDLE = "events=100000 first_ms=50 interval_ms=20000"
"""A stream that is open and says something every 20 s."""
KEY_PREFIX = "sk-bench-many-"


def _sample(case: str, running: Running, number: int, point: int, report: Report) -> Sample:
    figures = {"requests_per_s": report.calls / report.seconds, "tools_busy": tools_busy(report)}
    if report.calls:
        figures["us_per_request"] = per(report.watched[0].cpu_s, report.calls)
    return Sample(case, running.name, number, figures, str(point), report.failed, loads=[report])


def _plain(rig: Rig, target: Target, connections: int = 32, **more: Any) -> Report:
    load = Load(connections, 3 * rig.pace, warmup=1 * rig.pace, **more)
    return rig.load(target, load)


def open_streams(rig: Rig, peer: Peer, number: int) -> Iterator[Sample]:
    """Plain calls beside streams that are open and mostly silent; what these cost by themselves is taken off."""
    for wanted in OPEN_STREAMS:
        count = min(wanted, most_streams() - 100)
        rig.standin.say(CALM)
        with rig.running(peer.name, peer.launch, streams=count + 200) as running:
            spread = count / 500
            load = Load(count, 300.0, spread=spread, streamed=True, sources=4, asks=IDLE)
            with rig.start_load(running.target, load) as streams:
                pause(spread + 0.5)
                running.rest()
                before = running.cpu_s()
                pause(2.0)
                idle_share = (running.cpu_s() - before) / 2.0
                report = _plain(rig, running.target)
                held = streams.finish()
            sample = _sample("open_streams", running, number, count, report)
            if "us_per_request" in sample.figures:
                own = report.watched[0].cpu_s - idle_share * report.seconds
                sample.figures["us_per_request"] = per(own, report.calls)
            sample.figures["open"] = held.open
            yield sample


def bodies(rig: Rig, peer: Peer, number: int) -> Iterator[Sample]:
    """Plain calls with longer and longer prompts."""
    rig.standin.say(CALM)
    with rig.running(peer.name, peer.launch) as running:
        for size in BODIES:
            report = _plain(rig, running.target, 4 if size > 500_000 else 16, body_bytes=size)
            running.rest()
            yield _sample("body", running, number, size, report)


def endpoints(rig: Rig, number: int) -> Iterator[Sample]:
    """Plain calls over pools of more and more endpoints."""
    rig.standin.say(CALM)
    for count in ENDPOINTS:

        def launch(place: Place, count: int = count) -> Launch:
            return relay.start(place, relay.config(place, endpoints=count))

        with rig.running("relay", launch) as running:
            yield _sample("endpoints", running, number, count, _plain(rig, running.target))


def keys(rig: Rig, number: int) -> Iterator[Sample | Skipped]:
    """Plain calls that use all of more and more keys in turn; their loading, and a reload under load."""
    rig.standin.say(CALM)
    for count in KEYS:

        def launch(place: Place, count: int = count) -> Launch:
            write_keys(place.home / "keys.jsonl", count)
            fields = relay.config(place) | {"key_files": ["keys.jsonl"]}
            return relay.start(place, fields)

        with rig.running("relay", launch) as running:
            start_cpu_s = running.cpu_s()
            one = Target(running.target.url, f"{KEY_PREFIX}{0:08}", pids=running.target.pids)
            if rig.load(one, Load(1, 5.0, calls=1)).calls == 0:
                yield Skipped("growth with keys", "this relay does not read key_files yet")
                return
            many = Target(running.target.url, KEY_PREFIX, pids=running.target.pids)
            sample = _sample("keys", running, number, count, _plain(rig, many, keys=count))
            sample.figures["start_cpu_s"] = start_cpu_s
            sample.figures["reload_stall_ms"] = _reload_stall(rig, running)
            yield sample


def write_keys(path: Path, count: int) -> None:
    """Keys with the limits that the benchmark's own has, one per line."""
    limits = {"rpm": relay.NEVER, "tpm": relay.NEVER, "concurrent": relay.NEVER}
    with path.open("w", encoding="utf-8") as file:
        for index in range(count):
            entry = {
                "id": f"many-{index}",
                "hash": relay.hashed(f"{KEY_PREFIX}{index:08}"),
                "limits": limits,
            }
            file.write(json.dumps(entry) + "\n")


def _reload_stall(rig: Rig, running: Running) -> float:
    """The longest delay of an event while the relay reloads."""
    running.rest()
    asks = "events=400 first_ms=5 interval_ms=5"
    load = Load(20, 6.0, warmup=1.0, spread=0.1, streamed=True, asks=asks)
    with rig.start_load(running.target, load) as streams:
        pause(2.5)
        running.program.send(signal.SIGHUP)
        return streams.report().delay_ms.max


def workers(rig: Rig, number: int) -> Iterator[Sample | Skipped]:
    """Plain calls through one and two workers: what two CPUs could serve, from the CPU that a call took.

    The tools need CPU, too, so on a small machine the rate itself says little. `capacity_per_s` is what the workers
    would serve with a CPU each: all calls, over the CPU seconds of the worker that used most.
    """
    rig.standin.say(CALM)
    for count in WORKERS:

        def launch(place: Place, count: int = count) -> Launch:
            return relay.start(place, relay.config(place, workers=count))

        cpus = {rig.cpus.peer, rig.cpus.standin} if count > 1 else {rig.cpus.peer}
        with rig.running("relay", launch, cpus=cpus) as running:
            if count > 1 and running.processes() < count:
                yield Skipped("growth with workers", "this relay starts no workers yet")
                return
            report = _plain(rig, running.target, 128)
            sample = _sample("workers", running, number, count, report)
            used = report.watched[0]
            sample.figures["busiest_share"] = used.busiest_s / used.cpu_s
            sample.figures["capacity_per_s"] = report.calls / used.busiest_s
            yield sample
