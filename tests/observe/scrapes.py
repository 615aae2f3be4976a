"""Does a scrape hold up a stream? A real relay with a page of more than 50,000 lines, streams of an event every 10 ms,
and a scraper: what comes later while it scrapes than while it does not.

    python -m tests.observe.scrapes --seconds 20

Prints a line for each format and number of workers: how late events come (50 %, 99.9 %, the latest) without scrapes and
with one a second, in turn, so that both see the same minutes of the machine. `RELAY_TEST_PACKAGE` names another build
of the package. The exit code is 1 when an event came more than 20 ms later than any did without scrapes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from relay.observe.exposition import OPENMETRICS, TEXT
from tests.observe import metronome
from tests.observe.metronome import Came
from tests.observe.place import PRICE, key_of
from tests.rig import RelayProcess, Upstream, Upstreams, chat, config
from tests.rig.raw_client import get
from tests.rig.relay_process import Fields

LINES = 50_000
KEYS = 1000
MODELS = 400
"""Each of one upstream: 110 lines and more of a page."""
STREAMS = 20
TURN = 4.0
"""Seconds with scrapes, and as many without, again and again."""
PROMISED = 0.02
"""Seconds that a scrape may add to an event."""
AT_ONCE = 8
ACCEPTS = {"text": TEXT, "openmetrics": OPENMETRICS}
LIMITS = {
    **{"rpm": 10**6, "tpm": 10**9, "concurrent": 1000, "requests_per_day": 10**6},
    **{"tokens_per_day": 10**9, "tokens_per_month": 10**9},
    **{"usd_per_day": 1000, "usd_per_month": 1000},
}


def fields(quick: Upstream, port: int, workers: int) -> Fields:
    """`port`: where the metronome listens."""
    models: dict[str, Any] = {
        f"model-{number}": {"pool": [{"upstream": "quick"}], "price": PRICE}
        for number in range(MODELS)
    }
    models["timed"] = {"pool": [{"upstream": "metronome"}], "price": PRICE}
    keys = [
        {"id": f"key-{n}", "key": key_of(f"key-{n}"), "limits": LIMITS, "expires": "2099-01-01"}
        for n in range(KEYS)
    ]
    upstreams: Upstreams = {
        "quick": quick,
        "metronome": {"base_url": f"http://127.0.0.1:{port}/v1"},
    }
    return config(upstreams, models, keys, server={"workers": workers})


class Preferred(RelayProcess):
    """As what measures it is, so that what else runs on the machine shows as little as may be in what is measured."""

    @staticmethod
    def command(path: Path) -> tuple[str, ...]:
        first = metronome.PREFERRED if os.geteuid() == 0 else ()
        return (*first, *RelayProcess.command(path))


@dataclass
class Measured:
    """What came while nobody scraped, and what came meanwhile."""

    lines: int
    """Of the page."""
    took: list[float] = field(default_factory=list)
    """Seconds of each scrape."""
    calm: list[float] = field(default_factory=list)
    scraped: list[float] = field(default_factory=list)
    """Delays in seconds, sorted."""

    @property
    def added(self) -> float:
        """Seconds by which the latest event came later than the latest without scrapes."""
        return self.scraped[-1] - self.calm[-1]


def at(quantile: float, delays: list[float]) -> float:
    return delays[min(len(delays) - 1, int(quantile * len(delays)))]


@asynccontextmanager
async def crowded(home: Path, workers: int, port: int) -> AsyncIterator[RelayProcess]:
    """A relay whose page is very long."""
    async with Upstream() as quick, Preferred(fields(quick, port, workers), home) as relay:
        numbers = iter(range(KEYS))

        async def caller() -> None:
            for number in numbers:
                key, model = key_of(f"key-{number}"), f"model-{number % MODELS}"
                answer = await chat(relay.address, key=key, model=model)
                assert answer.status == 200, answer

        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
        yield relay


async def measure(home: Path, workers: int, accept: str, seconds: float) -> Measured:
    """One relay, scraped in this format."""
    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe()
    upstream = spawn.Process(target=metronome.beat, args=(STREAMS, theirs), daemon=True)
    upstream.start()
    try:
        port: int = await _told(ours)
        async with crowded(home, workers, port) as relay:
            args = (relay.address, key_of("key-0"), "timed", STREAMS, 2 * seconds, theirs)
            client = spawn.Process(target=metronome.listen, args=args, daemon=True)
            client.start()
            try:
                return await _observed(relay, accept, seconds, ours)
            finally:
                client.kill()
                await asyncio.to_thread(client.join)
    finally:
        upstream.kill()
        await asyncio.to_thread(upstream.join)


async def _observed(
    relay: RelayProcess, accept: str, seconds: float, client: Connection
) -> Measured:
    assert await _told(client), "no event came"
    began = monotonic()
    spells: list[tuple[float, float]] = []
    found = Measured(0)
    for scrapes in cycle((False, True)):
        start = monotonic()
        if start - began > 2 * seconds - TURN / 2:
            break
        for _ in range(int(TURN)):
            asked = monotonic()
            if scrapes:
                page = await get(relay.admin, "/metrics", key=None, headers=_wants(accept))
                found.took.append(monotonic() - asked)
                found.lines = page.body.count(b"\n")
                assert "content-encoding" not in page.headers
            await asyncio.sleep(max(0.0, asked + 1.0 - monotonic()))
        if scrapes:
            spells.append((start, monotonic()))
    came: list[Came] = await _told(client)
    for each in came:
        during = any(start <= each.sent <= end for start, end in spells)
        (found.scraped if during else found.calm).append(each.delay)
    found.calm.sort()
    found.scraped.sort()
    return found


def _wants(accept: str) -> dict[str, str]:
    # As Prometheus asks. The relay compresses nothing, so that nothing is spent on it.
    return {"Accept": accept, "Accept-Encoding": "gzip"}


async def _told(pipe: Connection) -> Any:
    return await asyncio.to_thread(pipe.recv)


def line(what: str, found: Measured) -> str:
    def three(delays: list[float]) -> str:
        return " / ".join(f"{1000 * at(q, delays):.1f}" for q in (0.5, 0.999, 1.0))

    return (
        f"| {what} | {found.lines:,} | {max(found.took):.2f} | {three(found.calm)} | "
        f"{three(found.scraped)} | {len(found.scraped):,} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.observe.scrapes")
    parser.add_argument("--seconds", type=float, default=20.0, help="of scrapes, for each line")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    args = parser.parse_args()
    tell = sys.stdout.write
    tell(
        "| page | lines | longest scrape s | delays without scrapes, ms: p50 / p99.9 / max | with | events |\n"
        "|---|---|---|---|---|---|\n"
    )
    kept = True
    for workers in args.workers:
        for name, accept in ACCEPTS.items():
            with TemporaryDirectory() as home:
                found = asyncio.run(measure(Path(home), workers, accept, args.seconds))
            assert found.lines > LINES, found.lines
            tell(line(f"{name}, {workers} worker{'s' * (workers > 1)}", found) + "\n")
            sys.stdout.flush()
            kept = kept and found.added <= PROMISED
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
