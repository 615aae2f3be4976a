"""HAProxy as a plain HTTP proxy, one thread; told not to hold back small pieces, as it would by default."""

from __future__ import annotations

import re
import subprocess

from bench.peers.base import Apt, Launch, Peer, Place, program

CONFIG = """
global
    nbthread 1
    maxconn {connections}
    tune.maxpollevents 256

defaults
    mode http
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    http-reuse always
    option http-no-delay

frontend bench
    bind 127.0.0.1:{port} backlog 4096
    http-request set-header Authorization "Bearer sk-upstream"
    default_backend standin

backend standin
    server one {upstream}
"""


def launch(place: Place) -> Launch:
    binary = program("haproxy", "haproxy")
    config = place.home / "haproxy.cfg"
    config.write_text(
        CONFIG.format(port=place.port, upstream=place.upstream, connections=place.streams + 100),
        "utf-8",
    )
    return Launch([binary, "-db", "-f", str(config)])


def version() -> str:
    said = subprocess.run(
        [program("haproxy", "haproxy"), "-v"], capture_output=True, text=True, check=False
    )
    found = re.search(r"version ([\d.]+)", said.stdout)
    return found.group(1) if found else "?"


PEER = Peer("HAProxy", "proxy, C", Apt("haproxy"), launch, version)
