"""The page's files, and whom the page may talk to."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final

KINDS: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
INDEX: Final = "index.html"

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?", re.IGNORECASE)


def assets() -> dict[str, tuple[str, bytes]]:
    """By name: the content type and the bytes."""
    folder = files("relay") / "page" / "static"
    return {
        file.name: (KINDS["." + file.name.rpartition(".")[2]], file.read_bytes())
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.is_file()
    }


def policy(host: str = "", port: int = 0) -> str:
    """The Content-Security-Policy of what is asked for at `host` (the request's header): nothing but our own files.

    With the `port` of the clients the page may call that one, too, on the same host and nowhere else.
    """
    sources = "'self'"
    if port:
        name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
        # An address of IPv6 cannot be written in a policy. Any host, then, but this port.
        name = name if _NAME.fullmatch(name) else "*"
        sources += f" http://{name}:{port} https://{name}:{port}"
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        f"connect-src {sources}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
