"""The relay of this checkout with everything on: key, rate limits, price, metrics, access log, failover armed.

It is the compiled one (`make compile`) where that is there and as new as the sources, else the sources as they are.
`BENCH_RELAY` in the environment may name another one to measure, such as `/opt/relay/bin/relay`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from bench import ROOT
from bench.peers.base import Absent, Launch, Peer, Place
from relay import __version__

KEY = "sk-bench-0123456789abcdef"
NEVER = 1_000_000_000
"""A limit that is counted at each call and never reached."""

LOG = "calls.log"
"""Where its access log goes, in its folder."""


COMPILED = ROOT / ".cache" / "compiled"
"""Where `make compile` builds."""


def compiled() -> bool:
    """Whether there is a compiled relay that is not older than its sources."""
    stamp = COMPILED / ".done"
    if not stamp.exists():
        return False
    built = stamp.stat().st_mtime
    return all(source.stat().st_mtime <= built for source in (ROOT / "relay").rglob("*.py"))


def command() -> list[str]:
    run = shlex.split(os.environ.get("BENCH_RELAY", "")) or [sys.executable, "-m", "relay"]
    return [*run, "serve", "-c", "config.yaml"]


def hashed(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def config(place: Place, *, endpoints: int = 2, workers: int = 1) -> dict[str, Any]:
    """Everything on. All members of the pool are the stand-in, each an upstream with a credential of its own."""
    names = [f"standin-{number}" for number in range(endpoints)]
    limits = {"rpm": NEVER, "tpm": NEVER, "concurrent": NEVER}
    return {
        "server": {"listen": f"127.0.0.1:{place.port}", "workers": workers},
        "admin": {"listen": f"127.0.0.1:{place.port + 1}"},
        "state": {"path": str(place.home / "state")},
        "upstreams": {
            name: {"base_url": f"http://{place.upstream}/v1", "api_keys": [f"sk-{name}"]}
            for name in names
        },
        "models": {
            "bench-model": {
                "pool": [{"upstream": name} for name in names],
                "price": {"input": 0.27, "output": 0.42},
            }
        },
        "keys": [{"id": "bench", "hash": hashed(KEY), "limits": limits}],
        "observability": {"access_log": "json"},
    }


def start(place: Place, fields: dict[str, Any], source: Path | None = None) -> Launch:
    """A relay with this configuration, of this folder: the compiled one if there is none given."""
    (place.home / "config.yaml").write_text(json.dumps(fields, indent=1), "utf-8")  # which is YAML
    if os.environ.get("BENCH_RELAY"):  # one of somebody's own is not to import this checkout
        return Launch(command(), key=KEY)
    folder = source or (COMPILED if compiled() else ROOT)
    return Launch(command(), {"PYTHONPATH": str(folder)}, key=KEY)


def launch(place: Place) -> Launch:
    return start(place, config(place))


def launch_sources(place: Place) -> Launch:
    if os.environ.get("BENCH_RELAY") or not compiled():
        raise Absent(
            "the relay that was measured is the only one here; `make compile` makes another"
        )
    return start(place, config(place), ROOT)


def version() -> str:
    if os.environ.get("BENCH_RELAY"):
        return "of BENCH_RELAY"
    return f"{__version__}, compiled" if compiled() else __version__


PEER = Peer("relay", "gateway, Python", None, launch, version)
SOURCES = Peer("relay as sources", "gateway, Python", None, launch_sources, lambda: __version__)
