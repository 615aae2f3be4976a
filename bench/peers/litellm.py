"""LiteLLM's proxy with one model and its master key; no database, no callbacks."""

from __future__ import annotations

import json

from bench.peers.base import Launch, Peer, Pip, Place, installed, pip_version

KEY = "sk-bench"


def launch(place: Place) -> Launch:
    binary = installed("litellm", "bin", "litellm")
    path = place.home / "config.yaml"
    path.write_text(
        json.dumps(  # which is YAML
            {
                "model_list": [
                    {
                        "model_name": "bench-model",
                        "litellm_params": {
                            "model": "openai/bench-model",
                            "api_base": f"http://{place.upstream}/v1",
                            "api_key": "sk-upstream",
                        },
                    }
                ],
                "general_settings": {"master_key": KEY},
                "litellm_settings": {"num_retries": 0, "request_timeout": 600},
            },
            indent=1,
        ),
        "utf-8",
    )
    command = [str(binary), "--config", str(path), "--host", "127.0.0.1", "--port", str(place.port)]
    # It would otherwise ask the internet for prices and send telemetry.
    quiet = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "LITELLM_LOG": "ERROR",
        "DISABLE_ADMIN_UI": "True",
    }
    return Launch([*command, "--num_workers", "1", "--telemetry", "False"], quiet, key=KEY)


# 1.107.0 was a compromised release: never let this version float.
PEER = Peer(
    "LiteLLM",
    "gateway, Python",
    Pip("litellm[proxy]==1.106.0"),
    launch,
    pip_version("litellm"),
    patience_s=180,
)
