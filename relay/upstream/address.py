"""Where a base URL leads: the strict reading of `base_url`.

Anything that a URL may carry and a base may not (user name, query, fragment, dot segments) is refused with a
sentence for the admin, which never repeats the URL: it may hold a password.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from hashlib import blake2b

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>/.*)?")
_AUTHORITY = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<host>[^:\[\]]*))(?::(?P<port>[0-9]{0,6}))?")
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_][a-z0-9_-]{0,62})*")
_PATH = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """A base URL, taken apart as the wire needs it."""

    tls: bool
    host: str
    """As a dial and a certificate check take it: lower case, IPv6 without brackets."""
    port: int
    authority: bytes
    """The value of the `Host` header: the port only where it is not the scheme's."""
    path: bytes
    """What stands before `/chat/completions`, without a slash at its end."""


def parse(base_url: str) -> Address:
    """Reads a base URL. Raises ValueError with a sentence that says what is wrong with it."""
    _refuse_parts(base_url)
    url = _URL.fullmatch(base_url)
    if url is None:
        raise ValueError("base_url must be an absolute URL such as https://api.example.com/v1")
    scheme = url["scheme"].lower()
    if scheme not in _DEFAULT_PORTS:
        raise ValueError("base_url must begin with http:// or https://")
    authority = _AUTHORITY.fullmatch(url["authority"])
    if authority is None:
        raise ValueError("base_url must name a host and at most a port (IPv6 in brackets)")
    host = _address6(authority["v6"]) if authority["v6"] is not None else _name(authority["host"])
    port = _port(authority["port"], _DEFAULT_PORTS[scheme])
    shown = f"[{host}]" if ":" in host else host
    if port != _DEFAULT_PORTS[scheme]:
        shown = f"{shown}:{port}"
    return Address(scheme == "https", host, port, shown.encode("ascii"), _path(url["path"] or ""))


def _refuse_parts(base_url: str) -> None:
    if not base_url.isascii() or not base_url.isprintable() or " " in base_url or "\\" in base_url:
        raise ValueError(
            "base_url must be plain ASCII without blanks or backslashes"
            " (write international host names in their xn-- form)"
        )
    if "#" in base_url:
        raise ValueError("base_url must not have a fragment (#...)")
    if "?" in base_url:
        raise ValueError("base_url must not have a query (?...)")
    if "@" in base_url.partition("://")[2].partition("/")[0]:
        raise ValueError(
            "base_url must not hold a user name or password: credentials go into api_keys"
        )


def _address6(literal: str) -> str:
    try:
        address = ipaddress.IPv6Address(literal)
    except ValueError:
        raise ValueError("base_url has no valid IPv6 address in its brackets") from None
    if address.scope_id is not None:
        raise ValueError("base_url must not have an IPv6 zone (%...)")
    return str(address)


def _name(host: str) -> str:
    host = host.lower()
    if not host:
        raise ValueError("base_url has no host")
    if host.rpartition(".")[2].isdigit():
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError("base_url has no valid IPv4 address") from None
    if not _NAME.fullmatch(host):
        raise ValueError("base_url has no valid host name")
    return host


def _port(digits: str | None, default: int) -> int:
    if digits is None:
        return default
    if not digits or not 1 <= int(digits) <= 65535:
        raise ValueError("base_url has no valid port (1 to 65535)")
    return int(digits)


def _path(path: str) -> bytes:
    if not _PATH.fullmatch(path):
        raise ValueError("base_url has a character in its path that a URL may not have")
    path = path.rstrip("/")
    if any(segment in ("", ".", "..") for segment in path.split("/")[1:]):
        raise ValueError("base_url must not have empty or dot segments in its path")
    return path.encode("ascii")


def seed(upstream: str, authority: bytes, path: bytes, credential: str | None) -> int:
    """A number of a place's own, the same in every process."""
    parts = (upstream.encode(), authority, path, (credential or "").encode("utf-8", "replace"))
    return int.from_bytes(blake2b(b"\0".join(parts), digest_size=8).digest(), "big")
