"""The relay of this checkout with everything on: key, rate limits, price, metrics, access log, failover armed.

`BENCH_RELAY` in the environment may name another one to measure, such as `/opt/relay/bin/relay`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
from typing import Any

from bench import ROOT
from bench.peers.base import Launch, Peer, Place

KEY = "sk-bench-0123456789abcdef"
NEVER = 1_000_000_000
"""A limit that is counted at each call and never reached."""

LOG = "calls.log"
"""Where its access log goes, in its folder."""


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


def start(place: Place, fields: dict[str, Any]) -> Launch:
    """A relay with this configuration."""
    (place.home / "config.yaml").write_text(json.dumps(fields, indent=1), "utf-8")  # which is YAML
    # A relay of one's own choice is not to import this checkout.
    env = {} if os.environ.get("BENCH_RELAY") else {"PYTHONPATH": str(ROOT)}
    return Launch(command(), env, key=KEY)


def launch(place: Place) -> Launch:
    return start(place, config(place))


def version() -> str:
    from relay import __version__

    return __version__


PEER = Peer("relay", "gateway, Python", None, launch, version)
