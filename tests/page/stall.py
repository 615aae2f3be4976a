"""How long opening the page holds the event loop: `python -m tests.page.stall [--keys 1000] [--upstreams 50]`.

A relay of one process in this very process, on asyncio's own loop, of which every turn of every task can be timed (CPU
time, so that what else the machine does is not in it): the longest one is what a stream beside it may have to wait. Its
keys have limits and have called, its upstreams have curves.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from asyncio import events
from collections.abc import Iterator
from pathlib import Path
from time import thread_time

from relay.app import Relay
from relay.config.file import load
from relay.config.model import Config
from relay.observe.accesslog import AccessLog
from relay.observe.linewriter import LineWriter
from tests.page.cost import Page
from tests.rig import Upstream, chat, config
from tests.rig.ports import free_port
from tests.rig.raw_client import Address, get

OPEN = 11.0
"""Seconds that the page stays open: the curves get two further steps."""


@contextlib.contextmanager
def timed() -> Iterator[list[float]]:
    """Milliseconds of each turn of the loop meanwhile."""
    plain = events.Handle._run
    took: list[float] = []

    def run(handle: events.Handle) -> None:
        began = thread_time()
        plain(handle)
        took.append((thread_time() - began) * 1000)

    events.Handle._run = run  # type: ignore[method-assign, assignment]
    try:
        yield took
    finally:
        events.Handle._run = plain  # type: ignore[method-assign]


def configured(folder: Path, upstream: Upstream, keys: int, upstreams: int) -> Config:
    names = [f"upstream-{n}" for n in range(upstreams)]
    models = {"m": {"pool": [{"upstream": name} for name in names], "strategy": "weighted"}}
    limits = {"rpm": 10_000, "tpm": 10**9}
    given = [{"id": f"app-{n}", "key": f"sk-{n:020}", "limits": limits} for n in range(keys)]
    fields = config({name: upstream for name in names}, models, given)
    for section in ("server", "admin"):
        fields[section] |= {"listen": f"127.0.0.1:{free_port()}"}
    fields["server"]["workers"] = 1
    fields["observability"] = {"access_log": "off"}
    fields["state"] = {"path": str(folder / "state")}
    path = folder / "config.yaml"
    path.write_text(json.dumps(fields), "utf-8")
    return load(path, {})


async def listening(address: Address) -> None:
    while True:
        with contextlib.suppress(ConnectionError):
            await get(address, "/livez", key=None)
            return
        await asyncio.sleep(0)


async def opened(admin: Address, seconds: float) -> None:
    """A page comes, and stays for a while."""
    await get(admin, "/", key=None)
    page = Page(*await asyncio.open_connection(*admin))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await page.read_on()
    assert page.received > 0


async def measured(
    folder: Path, keys: int, upstreams: int, seconds: float
) -> tuple[list[float], list[float]]:
    """Milliseconds of each turn: of a second before, and while the page is open."""
    loop = asyncio.get_running_loop()
    async with Upstream() as upstream:
        made = configured(folder, upstream, keys, upstreams)
        data, admin = (
            (listen.host, listen.port) for listen in (made.server.listen, made.admin.listen)
        )
        relay = Relay(made, AccessLog(LineWriter(1), "off"), int, human=False)
        running = loop.create_task(relay.run())
        try:
            await listening(admin)
            for number in range(keys):
                await chat(data, key=f"sk-{number:020}", stream=True)
            with timed() as before:
                await asyncio.sleep(1.0)
            with timed() as after:
                await opened(admin, seconds)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            await running
    return before, after


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.page.stall", description=__doc__)
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--upstreams", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=OPEN)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        before, after = asyncio.run(
            measured(Path(folder), given.keys, given.upstreams, given.seconds)
        )
    longest = " ".join(f"{ms:.1f}" for ms in sorted(after, reverse=True)[:5])
    sys.stdout.write(
        f"longest turns of the loop, ms of CPU: {max(before):.1f} without a page, with one {longest}\n"
    )


if __name__ == "__main__":
    main()
