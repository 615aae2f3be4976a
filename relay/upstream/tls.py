"""TLS towards upstreams: whom we trust, and sessions that are taken up again.

A full handshake costs the upstream a signature, both sides a key exchange and TLS 1.2 another round trip; a session
that is taken up again spares most of it. asyncio and uvloop have no argument for a session, but both ask the context
for the TLS object of a connection (`wrap_bio`, a public method), so the context is where the newest session is put in.
Rules that hold here:
- a session is used for the host name that it was verified for, under the same authorities, and for no other;
- a certificate is looked at again after `SESSION_AGE`, however many sessions were chained since;
- a file of authorities that was replaced is read anew by the next reload.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from time import monotonic

SESSION_AGE = 3600.0
"""Seconds after which a certificate is verified anew."""

_Stamp = tuple[int, int, int]


class Context(ssl.SSLContext):
    """A context that verifies, speaks HTTP/1.1 and takes sessions up again."""

    def __init__(self, protocol: int) -> None:
        self._kept: dict[str, _Kept] = {}
        """By host name."""

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """As the loop calls it for each connection."""
        name = str(server_hostname)
        kept = self._kept.get(name)
        if kept is None:
            kept = self._kept[name] = _Kept()
        made = super().wrap_bio(
            incoming, outgoing, server_side, server_hostname, session or kept.session(monotonic())
        )
        kept.last = made
        return made


class _Kept:
    """The newest session of one host name.

    Tickets of TLS 1.3 come some time after the handshake, so it is asked for only when the next connection wants it.
    """

    __slots__ = ("_session", "_verified", "last")

    def __init__(self) -> None:
        self._session: ssl.SSLSession | None = None
        self._verified = 0.0
        self.last: ssl.SSLObject | None = None
        """Of the connection that was made last."""

    def session(self, now: float) -> ssl.SSLSession | None:
        """What a new connection may take up, or None."""
        last = self.last
        newest = _session_of(last) if last is not None else None
        if last is not None and newest is not None and newest.has_ticket:
            if not last.session_reused:
                self._verified = now
            self._session = newest
            self.last = None
        if now - self._verified > SESSION_AGE:
            self._session = None
        return self._session


def _session_of(connection: ssl.SSLObject) -> ssl.SSLSession | None:
    if connection.version() is None:
        return None  # in the middle of its handshake, or failed in it
    try:
        return connection.session
    except (ValueError, ssl.SSLError):
        # CPython copies it by way of its encoding, which OpenSSL refuses for one that is not whole.
        return None


_contexts: dict[Path | None, tuple[_Stamp | None, Context]] = {}


def prepare(ca_file: Path | None) -> None:
    """Reads the authorities, the system's and those of this file, if they are not known or the file is another one now.

    Takes tens of milliseconds. Raises OSError (`ssl.SSLError` is one) for a file that holds no certificates.
    """
    stamp = None if ca_file is None else _stamp(ca_file)
    known = _contexts.get(ca_file)
    if known is None or known[0] != stamp:
        _contexts[ca_file] = (stamp, _context(ca_file))


def context(ca_file: Path | None) -> Context:
    """The verifying context for endpoints with these extra authorities."""
    if ca_file not in _contexts:
        prepare(ca_file)
    return _contexts[ca_file][1]


def _stamp(path: Path) -> _Stamp:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _context(ca_file: Path | None) -> Context:
    made = Context(ssl.PROTOCOL_TLS_CLIENT)
    made.load_default_certs()
    if ca_file is not None:
        made.load_verify_locations(cafile=ca_file)
    made.set_alpn_protocols(["http/1.1"])
    return made
