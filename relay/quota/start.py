"""Whether a relay shares its limits with others, and by which store."""

from __future__ import annotations

import sqlite3
from secrets import token_hex
from time import time
from typing import TYPE_CHECKING

from relay.admission.budgets import Budgets
from relay.admission.gate import Gate
from relay.admission.principals import Principals
from relay.admission.store import StoreGate
from relay.config.model import Config
from relay.observe import logs
from relay.state import database, salvage
from relay.state.writer import reason_of

if TYPE_CHECKING:
    from relay.quota.link import StoreLink


log = logs.get("quota")


def store_gate(config: Config, principals: Principals, processes: int) -> StoreGate | None:
    """The gate of a process that asks a store; None where limits are counted in the relay itself."""
    if config.store_address is None:
        return None
    return StoreGate(principals, config.groups, _new_name, processes)


class NoLink:
    """There is no store."""

    async def start(self) -> None:
        """Nothing to wait for."""

    async def close(self) -> None:
        """Nothing to say."""


def gate_of(config: Config, principals: Principals, processes: int) -> Gate:
    """The gate of a process that serves alone, or shares its limits by a store."""
    shared = store_gate(config, principals, processes)
    return shared or Gate(principals, config.groups, Budgets(kept=True))


def store_link(config: Config, gate: Gate) -> StoreLink | NoLink:
    """What connects such a gate with its store."""
    address = config.store_address
    if address is None or not isinstance(gate, StoreGate):
        return NoLink()
    # Only here: without a store the library need not be there.
    from relay.quota.link import StoreLink

    return StoreLink(address, gate)


def make_room(config: Config, gate: Gate) -> None:
    """The ledger's file. Where budgets are kept on disk, whoever does so has made it."""
    if isinstance(gate, StoreGate):
        try:
            salvage.enter(config.state.path, time())
        except (OSError, sqlite3.Error, database.NewerVersion) as error:
            log.error("state_unusable", path=str(config.state.path), reason=reason_of(error))


def follow_policy(config: Config, gate: Gate) -> None:
    """What happens while the store is away is as the configuration says."""
    if isinstance(gate, StoreGate):
        gate.rates_open = config.on_store_failure.rates == "open"
        gate.budgets_open = config.on_store_failure.budgets == "open"


def away(gate: Gate) -> list[str]:
    """In words, for `/readyz`."""
    return ["quota store redis is away"] if isinstance(gate, StoreGate) and gate.away else []


def _new_name() -> str:
    return token_hex(6)
