"""The address of a quota store: `redis://[user:password@]host:port/db`, `rediss://` for TLS, `unix:///path/of/socket`.

No message shows any of it but the names of options: it may hold a password.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

EMBEDDED: Final = "embedded"
"""No store: limits are counted in the relay itself."""

PORT: Final = 6379
MOST_DATABASES: Final = 10_000

_SCHEMES: Final = ("redis", "rediss", "unix")
_OPTIONS: Final = ("ca_file", "prefix", "db")
_PREFIX: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_WORDS: Final = "is neither embedded nor an address such as redis://host:6379/0"


class StoreAddress(NamedTuple):
    """Where the store is, and how to get in."""

    host: str
    """Empty where it is a socket of this host."""
    port: int
    socket: str
    tls: bool
    database: int
    user: str | None
    password: str | None
    ca_file: str | None
    """Authorities to trust, instead of the system's."""
    prefix: str
    """Keeps relays apart that share a server, and no keys."""

    def __repr__(self) -> str:
        return "StoreAddress(...)"


def read_address(text: str, base: Path) -> StoreAddress | None:
    """None for `embedded`. Raises ValueError with a sentence; `base` is where relative paths start."""
    if text == EMBEDDED:
        return None
    try:
        url = urlsplit(text)
        port = url.port or PORT
        options = dict(parse_qsl(url.query, strict_parsing=True)) if url.query else {}
    except ValueError:
        raise ValueError(_WORDS) from None
    if url.scheme not in _SCHEMES or re.search(r"\s", text) or url.fragment:
        raise ValueError(_WORDS)
    _check(options, url.scheme)
    socket = unquote(url.path) if url.scheme == "unix" else ""
    if not (socket if url.scheme == "unix" else url.hostname):
        raise ValueError(_WORDS)
    database = options.get("db") or ("" if socket else url.path.strip("/")) or "0"
    if not database.isdecimal() or int(database) >= MOST_DATABASES:
        raise ValueError("ends with the number of the database, such as /0")
    if find_spec("redis") is None:
        raise ValueError("needs the package redis: pip install 'relay[redis]'")
    return StoreAddress(
        host=url.hostname or "",
        port=port,
        socket=socket,
        tls=url.scheme == "rediss",
        database=int(database),
        user=unquote(url.username) if url.username else None,
        password=unquote(url.password) if url.password else None,
        ca_file=str(base / options["ca_file"]) if "ca_file" in options else None,
        prefix=options.get("prefix", ""),
    )


def _check(options: dict[str, str], scheme: str) -> None:
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise ValueError(f"has an unknown option; there are {', '.join(_OPTIONS)}")
    if "prefix" in options and not _PREFIX.fullmatch(options["prefix"]):
        raise ValueError("prefix: letters, digits, dots, dashes, at most 64")
    if "ca_file" in options and scheme != "rediss":
        raise ValueError("ca_file is for rediss://")
