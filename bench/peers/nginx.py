"""nginx: the yardstick. It passes bytes on, with its upstream's key set, and does nothing else; no access log."""

from __future__ import annotations

import re
import subprocess

from bench.peers.base import Apt, Launch, Peer, Place, program

CONFIG = """
worker_processes 1;
daemon off;
pid {home}/nginx.pid;
error_log stderr warn;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    client_max_body_size 0;
    keepalive_requests 1000000000;
    upstream standin {{
        server {upstream};
        keepalive 1024;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://standin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Authorization "Bearer sk-upstream";
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
"""


def launch(place: Place) -> Launch:
    binary = program("nginx", "nginx-light")
    config = place.home / "nginx.conf"
    config.write_text(
        CONFIG.format(
            home=place.home,
            port=place.port,
            upstream=place.upstream,
            connections=int(place.streams * 2.2) + 300,
        ),
        "utf-8",
    )
    return Launch([binary, "-p", str(place.home), "-c", str(config), "-e", "stderr"])


def version() -> str:
    said = subprocess.run(
        [program("nginx", "nginx-light"), "-v"], capture_output=True, text=True, check=False
    )
    found = re.search(r"nginx/([\d.]+)", said.stderr)
    return found.group(1) if found else "?"


PEER = Peer("nginx", "web server, C", Apt("nginx-light"), launch, version)
