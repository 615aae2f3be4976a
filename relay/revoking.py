"""What a reload means for calls whose key it has taken away: `keys[].on_revoke`.

A key is taken away when its id is gone, or its hash was replaced without a grace. One that has expired, or whose
grace ran out, was not: its calls began in its time. A request that is still being received has not begun, and is
refused whatever the policy says.
"""

from __future__ import annotations

import asyncio
from typing import Final

from relay.admission.principals import Principal, Principals
from relay.config.model import Config
from relay.exchange import Exchange
from relay.port import Port
from relay.proxy import Proxy
from relay.snapshot import Snapshot
from relay.timers import TICK

STEP: Final = 50
"""Calls that are cut at once: some two milliseconds."""


class Revoking:
    """Ends calls of keys that are gone. Lives as long as the process."""

    def __init__(self, loop: asyncio.AbstractEventLoop, proxy: Proxy, port: Port) -> None:
        self._loop = loop
        self._proxy = proxy
        self._port = port
        self._cut: list[Exchange] = []

    def follow(self, old: Snapshot, new: Snapshot, wall: float) -> None:
        """A new configuration is in force since just now (`wall`, Unix time in seconds)."""
        gone: dict[Principal, bool] = {}

        def is_gone(principal: Principal) -> bool:
            if principal not in gone:
                gone[principal] = was_revoked(principal, old.principals, new.principals, wall)
            return gone[principal]

        for connection in self._port.receiving:
            principal = connection.principal
            if principal is not None and is_gone(principal):
                principal.revoked = True
        told = told_to_cut(new.config)
        for exchange in self._proxy.active:
            principal = exchange.call.caller
            if principal is None or not is_gone(principal):
                continue
            if principal.on_revoke == "cut" or principal.id in told:
                self._cut.append(exchange)
        self._some()

    def _some(self) -> None:
        """Ends some of the calls; the next ones in a moment, since all at once would hold up everybody else's."""
        for exchange in self._cut[-STEP:]:
            exchange.revoked()
        del self._cut[-STEP:]
        if self._cut:
            self._loop.call_later(TICK, self._some)


def was_revoked(principal: Principal, old: Principals, new: Principals, wall: float) -> bool:
    """Whether the configuration that is in force now has taken this key away."""
    if principal.demo:
        return False
    if new.get(principal.id) is None:
        return True
    if new.knows(principal.digest):
        return False
    before = old.of_id(principal.id)
    until = None if before is None else before.former.get(principal.digest)
    return until is None or wall < until


def told_to_cut(config: Config) -> frozenset[str]:
    """Ids of entries that stand there without a key, only to say so."""
    named = [key.id for key in config.keys if key.on_revoke == "cut" and key.digest is None]
    return frozenset([*named, *config.filed.cut])
