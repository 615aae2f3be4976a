"""What `relay serve` runs: reads the configuration, and decides how many processes serve it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from aiohttp import http_parser

from relay import app
from relay.config import file
from relay.config.model import Config
from relay.state import lock
from relay.state.database import FILE, NewerVersion
from relay.workers import parent
from relay.workers.cpus import usable_cpus


def serve(path: Path, human: bool | None = None, *, watches: bool = True) -> int:
    """Runs a relay until it is told to stop. Returns the exit code.

    `watches`: whether a change of the files is enough for a reload.
    """
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        sys.stderr.write("relay: aiohttp's C parser is missing: install aiohttp's binary wheel\n")
        return 1
    try:
        config = file.load(path, os.environ)
    except file.ConfigErrors as error:
        sys.stderr.writelines(f"{fault}\n" for fault in error.faults)
        return 1
    folder = config.state.path
    try:
        held = lock.enter(folder)
    except (lock.Taken, NewerVersion) as error:
        sys.stderr.write(f"relay: {error}\n")
        return 1
    if held is not None and held.used and not (folder / FILE).exists():
        config.notices.append(
            f"state.path: a relay has used this folder before, but {FILE} is gone: "
            "budgets start from nothing."
        )
    workers = workers_of(config)
    try:
        if workers == 1:
            return app.serve(config, human=human, watches=watches)
        return parent.serve(config, workers, human=human, watches=watches)
    finally:
        if held is not None:
            held.release()


def workers_of(config: Config) -> int:
    """The processes that serve clients."""
    workers = config.server.workers
    return usable_cpus() if isinstance(workers, str) else workers
