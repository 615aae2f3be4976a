"""The page's files, and whom the page may talk to."""

from __future__ import annotations

import re
from html import escape
from importlib.resources import files
from typing import Final
from urllib.parse import urlsplit

KINDS: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
INDEX: Final = "index.html"

_PORT: Final = re.compile(r":\d+$")
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?", re.IGNORECASE)


def assets() -> dict[str, tuple[str, bytes]]:
    """By name: the content type and the bytes."""
    folder = files("relay") / "page" / "static"
    return {
        file.name: (KINDS["." + file.name.rpartition(".")[2]], file.read_bytes())
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.is_file()
    }


def index(body: bytes, public_url: str | None) -> bytes:
    """The page itself, which knows where it may call."""
    known = b'<meta name="public-url" content="%b">' % escape(public_url or "").encode()
    return body.replace(b'<meta name="public-url" content="">', known, 1)


def policy(host: str = "", port: int = 0, public_url: str | None = None) -> str:
    """The Content-Security-Policy of what is asked for at `host` (the request's header): nothing but our own files.

    With the `port` of the clients the page may call that one, too, on the same host and nowhere else; with a
    `public_url` that one, and no port.
    """
    sources = "'self'"
    if port and public_url is not None:
        url = urlsplit(public_url)
        name, given = _split(url.netloc)
        sources += f" {url.scheme}://{name}{given}"
    elif port:
        name, _ = _split(host)
        sources += f" http://{name}:{port} https://{name}:{port}"
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        f"connect-src {sources}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _split(host: str) -> tuple[str, str]:
    """A host as a policy writes it, and the port with its colon, if there is one."""
    name = _PORT.sub("", host)
    # An address of IPv6 cannot be written in a policy. Any host, then, but this port.
    return name if _NAME.fullmatch(name) else "*", host[len(name) :]
