"""Portkey's gateway on Node: the caller's headers tell it the provider; it checks no key."""

from __future__ import annotations

import json

from bench.peers.base import Launch, Npm, Peer, Place, installed, program

# The server under it puts a `Response` of its own in place of Node's, which keeps a provider's headers as they are,
# unchangeable; Portkey adds some, so each stream would end as a 500. It is left with Node's own.
KEEP_RESPONSE = """
const define = Object.defineProperty;
Object.defineProperty = (target, name, how) =>
  target === globalThis && name === "Response" ? target : define(target, name, how);
"""

PACKAGE = ("node_modules", "@portkey-ai", "gateway")


def launch(place: Place) -> Launch:
    node = program("node", "nodejs")
    server = installed("portkey", *PACKAGE, "build", "start-server.js")
    first = place.home / "first.cjs"
    first.write_text(KEEP_RESPONSE, "utf-8")
    return Launch(
        [node, "--require", str(first), str(server), "--headless", f"--port={place.port}"],
        {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"},
        headers=(
            "x-portkey-provider: openai",
            f"x-portkey-custom-host: http://{place.upstream}/v1",
        ),
    )


def version() -> str:
    said: object = json.loads(installed("portkey", *PACKAGE, "package.json").read_text("utf-8"))[
        "version"
    ]
    return str(said)


PEER = Peer("Portkey", "gateway, Node", Npm("@portkey-ai/gateway", "1.15.2"), launch, version)
