"""Rows of connections that do not come about, and of members that fail call after call."""

from __future__ import annotations

from tests.faults.row import DOWN, FAILED, SHORT, Failure, Play, Row, Whole, both, in_turn, plain
from tests.rig import scripts as say
from tests.rig.scripts import Stall

MUTE: Play = [Stall()]
"""Nothing is ever said to whom nobody reaches."""


def unreachable() -> list[Row]:
    def row(name: str, group: str, place: str, result: str) -> Row:
        patience = {"connect": SHORT}
        must = Failure(502, DOWN, result)
        return both(name, group, MUTE, must, place=place, timeouts=patience, unheard=True)

    tls = "TLS failure"
    return [
        row("connection refused", "connection refused", "closed", "connect_refused"),
        row("blackhole", "blackhole", "full", "connect_timeout"),
        row("DNS failure", "DNS failure", "unknown", "dns_error"),
        row("TLS: certificate expired", tls, "expired", "tls_error"),
        row("TLS: another host's certificate", tls, "stranger", "tls_error"),
        row("TLS: authority not trusted", tls, "untrusted", "tls_error"),
        row("TLS: a port without TLS", tls, "no tls", "tls_error"),
        row("TLS: version 1.1 only", tls, "old tls", "tls_error"),
        row("TLS: hello never answered", tls, "mute", "connect_timeout"),
        row("TLS: reset in the handshake", tls, "rude", "connect_refused"),
    ]


def series() -> list[Row]:
    bad, good = say.error(500), say.plain(200, say.completion())
    once = Failure(502, FAILED, "5xx")
    struck = Failure(502, FAILED, "5xx", tries=1, state="open")
    flapping = in_turn(*([bad, *[good] * 5] * 2), bad, good)
    return [
        both(
            *("failing call after call", "one member in the pool", bad, struck),
            calls=6,
            left_out=True,
            first=once,
        ),
        both(
            *("both members failing", "all members failing", bad, struck),
            calls=7,
            both=True,
            first=once,
        ),
        plain(
            *("flapping: 5 good, 1 bad", "flapping", flapping, Whole()),
            calls=14,
            left_out=True,
            left_as="open",
        ),
    ]


def rows() -> list[Row]:
    return [*unreachable(), *series()]
