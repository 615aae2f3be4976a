"""TensorZero's gateway, as its Python package embeds it: the Rust server in a process that does nothing else.

Its storage of calls is off. It must be told no port: it says which one it took.
"""

from __future__ import annotations

from bench.peers.base import Launch, Peer, Pip, Place, installed, pip_version

CONFIG = """
[gateway]
observability.enabled = false

[models.bench-model]
routing = ["standin"]

[models.bench-model.providers.standin]
type = "openai"
model_name = "bench-model"
api_base = "http://{upstream}/v1"
api_key_location = "env::BENCH_UPSTREAM_KEY"
"""

SERVE = """
import signal, sys, tensorzero
gateway = tensorzero._start_http_gateway(
    config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False
)
print(gateway.base_url.rsplit(":", 1)[1].split("/")[0], flush=True)
signal.pause()
"""


def launch(place: Place) -> Launch:
    python = installed("tensorzero", "bin", "python")
    path = place.home / "tensorzero.toml"
    path.write_text(CONFIG.format(upstream=place.upstream), "utf-8")
    return Launch(
        [str(python), "-c", SERVE, str(path)],
        {"BENCH_UPSTREAM_KEY": "sk-upstream", "RUST_LOG": "error"},
        path="/openai/v1/chat/completions",
        model="tensorzero::model_name::bench-model",
        announces=True,
    )


PEER = Peer(
    "TensorZero",
    "gateway, Rust",
    Pip("tensorzero==2026.6.0"),
    launch,
    pip_version("tensorzero"),
)
