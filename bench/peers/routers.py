"""The routers of the inference engines: sglang-router, smg and vllm-router share an ancestor and most options.

They choose among workers and check their health; retries are off, no key is checked, nothing is counted per key.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.peers.base import Launch, Peer, Pip, Place, installed, pip_version


def arguments(place: Place) -> list[str]:
    return [
        *("--host", "127.0.0.1", "--port", str(place.port)),
        *("--worker-urls", f"http://{place.upstream}"),
        *("--policy", "round_robin", "--disable-retries"),
        *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(place.port + 1)),
        *("--log-level", "error", "--request-timeout-secs", "600"),
    ]


def sglang(place: Place) -> Launch:
    python = installed("sglang-router", "bin", "python")
    command = [str(python), "-m", "sglang_router.launch_router", *arguments(place)]
    return Launch([*command, "--max-concurrent-requests", "-1"])


def smg(place: Place) -> Launch:
    binary = installed("smg", "bin", "smg")
    return Launch([str(binary), "launch", *arguments(place), "--max-concurrent-requests", "-1"])


def vllm(place: Place) -> Launch:
    binary: Path = installed("vllm-router", "bin", "vllm-router")
    return Launch([str(binary), *arguments(place), "--max-concurrent-requests", "100000"])


def _peer(name: str, version: str, launch: Callable[[Place], Launch]) -> Peer:
    return Peer(name, "router, Rust", Pip(f"{name}=={version}"), launch, pip_version(name))


PEERS = (
    _peer("sglang-router", "0.3.2", sglang),
    _peer("smg", "1.13.0", smg),
    _peer("vllm-router", "0.1.17", vllm),
)
