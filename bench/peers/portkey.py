"""Portkey's gateway on Node: the caller's headers tell it the provider; it checks no key."""

from __future__ import annotations

import json

from bench.peers.base import Launch, Npm, Peer, Place, installed, program

PACKAGE = ("node_modules", "@portkey-ai", "gateway")


def launch(place: Place) -> Launch:
    node = program("node", "nodejs")
    server = installed("portkey", *PACKAGE, "build", "start-server.js")
    return Launch(
        [node, str(server), "--headless", f"--port={place.port}"],
        {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"},
        headers=(
            "x-portkey-provider: openai",
            f"x-portkey-custom-host: http://{place.upstream}/v1",
        ),
    )


def version() -> str:
    said: object = json.loads(installed("portkey", *PACKAGE, "package.json").read_text("utf-8"))["version"]
    return str(said)


PEER = Peer("Portkey", "gateway, Node", Npm("@portkey-ai/gateway", "1.15.2"), launch, version)
