"""What a call would get by the files alone: who it is, what it may, which limits it draws on, who would answer, for
how much, and the error where it is sure to be refused. Everything is asked of the parts that serve calls.

What only a running relay knows is told as unknown: how its upstreams are, and what is used of its rates. Of budgets
what it has written down is read.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from relay.admission.budgets import Budgets
from relay.admission.gate import Gate, Need
from relay.admission.memory import limit_of, model_of
from relay.admission.period import Period
from relay.admission.principals import Principal
from relay.chatbody import ChatBody, decode
from relay.config.model import Config
from relay.config.rules import nearest
from relay.config.values import write_instant
from relay.equipment import Demo, Memory
from relay.errors import InvalidKey, ModelNotFound, ModelNotPriced, NoUpstream, RelayError
from relay.pricing import Price
from relay.process import log_bug
from relay.routes import Route
from relay.snapshot import NO_NEED, Snapshot
from relay.state import budgets, database
from relay.upstream.directory import Directory
from relay.usage import Usage

MINUTE: Final = 60
AHEAD: Final = 8 * 24 * 60
"""Minutes that are looked ahead for another price: every hour of the week, and a day more."""
MILLION: Final = 1_000_000
NANO: Final = 10**9

Facts = dict[str, Any]


class NoSuchKey(Exception):
    """Nobody has this id; the message says who may have been meant."""


def explain(config: Config, id: str, model: str | None, body: bytes | None, wall: float) -> Facts:
    """The facts, for a program to read. Without a body the prompt is taken for empty. Raises NoSuchKey."""
    loop = asyncio.new_event_loop()
    try:
        memory = Memory(loop, Directory(), log_bug)
        snapshot = Snapshot(config, memory, Demo(1, "", "sk-demo"))
        return _Explained(snapshot, id, model, body, wall).facts()
    finally:
        loop.close()


class _Explained:
    """One explanation on its way."""

    def __init__(
        self, snapshot: Snapshot, id: str, model: str | None, body: bytes | None, wall: float
    ) -> None:
        self._snapshot = snapshot
        self._config = snapshot.config
        self._id = id
        self._model = model
        self._body = body
        self._wall = wall
        self._error: RelayError | None = None
        """What the call is sure to get."""
        self._why: str | None = None
        """What the client is not told."""
        self._limits_money = False
        """A limit in dollars holds: models without a price are passed over."""

    def facts(self) -> Facts:
        found: Facts = {}
        principal = self._principal()
        if principal is not None:
            found["key"] = self._key(principal)
            self._admit(principal)
        chat = self._chat()
        if chat is not None:
            found["model"] = model = self._model or chat.model
            route = self._route(principal, model)
            if route is not None:
                found |= self._of_route(route, principal, chat)
        error = self._error
        found["refused"] = error is not None
        if error is not None:
            found["error"] = {"status": error.status, **error.as_object()}
        if self._why is not None:
            found["why"] = self._why
        return found

    def _refused(self, error: RelayError, why: str | None = None) -> None:
        """The first reason counts: it is what the client hears."""
        if self._error is None:
            self._error, self._why = error, why

    # --- who --------------------------------------------------------------------------------------

    def _principal(self) -> Principal | None:
        principal = self._snapshot.principals.of_id(self._id)
        if principal is not None:
            return principal
        left_out = [key.id for key in self._config.keys if key.digest is None]
        left_out += self._config.filed.left_out
        if self._id in left_out:
            self._refused(InvalidKey(), f"'{self._id}' is left out: it has no key and no hash")
            return None
        known = [*self._snapshot.principals.by_id, *left_out]
        raise NoSuchKey(f"there is no key with the id '{self._id}'{nearest(self._id, known)}")

    def _key(self, principal: Principal) -> Facts:
        return {
            "id": principal.id,
            "group": principal.group,
            "models": list(principal.models),
            "expires": _instant(principal.expires),
            "allow_ips": [str(network) for network in principal.networks],
            "weight": principal.weight,
            "abort_billing": principal.abort_billing,
            "on_revoke": principal.on_revoke,
            "rotating_until": _instant(
                max((u for u in principal.former.values() if u > self._wall), default=None)
            ),
        }

    def _admit(self, principal: Principal) -> None:
        """As at the door; the call is taken to come from where it may."""
        address = str(principal.networks[0].network_address) if principal.networks else "127.0.0.1"
        try:
            principal.refuse(principal.digest, address, self._wall, True)
        except RelayError as error:
            self._refused(error)

    # --- what -------------------------------------------------------------------------------------

    def _chat(self) -> ChatBody | None:
        body = self._body
        if body is None:
            body = b'{"model": "m", "messages": [{"role": "user", "content": ""}]}'
        try:
            return decode(body)
        except RelayError as error:
            self._refused(error)
            return None

    def _route(self, principal: Principal | None, model: str) -> Route | None:
        route = self._snapshot.routes.get(model)
        if route is None:
            ending = nearest(model, list(self._snapshot.routes))
            self._refused(ModelNotFound(model), f"no model has this name{ending}")
        elif principal is not None and not principal.allows(model):
            may = ", ".join(principal.models) or "none"
            self._refused(ModelNotFound(model), f"the key may not use it: its models are {may}")
        return route

    def _of_route(self, route: Route, principal: Principal | None, chat: ChatBody) -> Facts:
        bound = chat.prompt_bound(route.image_tokens) if self._body is not None else 0
        need = self._snapshot.need(route, chat, bound, money=True)
        found: Facts = {"needs": self._needs(route, chat, bound, need)}
        if principal is not None:
            found["limits"] = self._limits(route, principal, need)
        found["route"] = self._way(route)
        usual = self._config.models[route.name].price
        if usual is not None and any(member.price for member in route.pool.members):
            found["price"] = _price(Price.of(usual), self._wall)
        return found

    def _needs(self, route: Route, chat: ChatBody, bound: int, need: Need) -> Facts:
        return {
            "prompt_tokens": bound if self._body is not None else None,
            "output_tokens": (chat.max_tokens or route.max_output) * chat.n,
            "tpm": need.tokens_bound,
            "tokens": need.tokens_worst,
            "usd": need.cost_worst / NANO if route.prices else None,
        }

    # --- limits -----------------------------------------------------------------------------------

    def _limits(self, route: Route, principal: Principal, need: Need) -> list[Facts]:
        known, gate = _gate(self._snapshot)
        purse = gate.purse(principal).of(route.name)
        self._limits_money = purse.limits_money
        if purse.limits_money and route.unpriced:
            self._refused(ModelNotPriced(route.name))
        amounts = (need if purse.counts_tokens else NO_NEED).amounts
        found = []
        for owner, name, machine, unit in purse.named():
            # A budget begins with its period.
            machine.lacks(0, 0, self._wall)
            scale = NANO if limit_of(name).startswith("usd") else 1
            used = machine.used(0, self._wall) if known and isinstance(machine, Period) else None
            found.append(
                {
                    "limit": limit_of(name),
                    "of": "key" if owner == "your key" else f"group {principal.group}",
                    "model": model_of(name),
                    "allowed": machine.limit / scale if scale > 1 else machine.limit,
                    "used": used / scale if used is not None and scale > 1 else used,
                    "reserved": amounts[unit] / scale if scale > 1 else amounts[unit],
                    "counts_only": machine.shadow,
                }
            )
        try:
            gate.reserve(principal, route.name, Need(*amounts[1:]), 0.0, self._wall)
        except RelayError as error:
            self._refused(error)
        return found

    # --- who answers ------------------------------------------------------------------------------

    def _way(self, route: Route) -> Facts:
        model = self._config.models[route.name]
        found: Facts = {
            "strategy": model.strategy,
            "attempts": route.attempts,
            "fallback": [self._named(other) for other in model.fallback],
        }
        if route.static is not None:
            return {"static": True}
        found["members"] = list(self._members(route))
        if not any(member["serves"] for member in found["members"]):
            following = next((f for f in route.fallbacks if not self._is_passed_over(f)), None)
            if following is not None:
                found["answered_by"] = following.name
            else:
                self._refused(NoUpstream(), "all its upstreams are left out")
        return found

    def _named(self, model: str) -> str:
        route = self._snapshot.routes[model]
        if self._is_passed_over(route):
            return f"{model} (passed over: it has no price)"
        return f"{model} (static)" if route.static is not None else model

    def _is_passed_over(self, route: Route) -> bool:
        return self._limits_money and route.unpriced

    def _members(self, route: Route) -> Iterator[Facts]:
        """In the order of the tiers, with who cannot serve and why."""
        serving = {member.endpoint.name for member in route.pool.members if member.weight}
        entries = self._config.models[route.name].pool
        for entry in sorted(entries, key=lambda entry: entry.tier):
            upstream = self._config.upstreams[entry.upstream]
            note = None
            if upstream.left_out:
                note = "left out: its api_keys are empty"
            elif not entry.weight:
                note = "weight 0: nothing new"
            elif upstream.kind == "demo" and entry.upstream not in serving:
                note = "the demo steps aside: another member can serve"
            elif upstream.kind == "demo":
                note = "the demo: a canned answer"
            yield {
                "tier": entry.tier,
                "upstream": entry.upstream,
                "model": entry.model or route.name,
                "weight": entry.weight,
                "api_keys": len(upstream.api_keys),
                "max_concurrent": self._config.most_at_once(entry.upstream)
                if not upstream.left_out
                else None,
                "serves": entry.upstream in serving and bool(entry.weight),
                "state": "unknown",
                "price": None
                if entry.price is None or upstream.kind == "demo"
                else _price(Price.of(entry.price), self._wall),
                "note": note,
            }


def _gate(snapshot: Snapshot) -> tuple[bool, Gate]:
    """A gate that knows what is used of budgets, and whether it does."""
    config = snapshot.config
    rows = used_budgets(config)
    kept = Budgets(kept=rows is not None)
    kept.learn(rows or ())
    return rows is not None, Gate(snapshot.principals, config.groups, kept)


def used_budgets(config: Config) -> list[Any] | None:
    """What a relay has written down of its budgets (rows of `admission.budgets`); None if nobody knows."""
    folder: Path = config.state.path
    if config.quota_store != "embedded" or not (folder / database.FILE).exists():
        return None
    try:
        return budgets.read(folder)
    except (OSError, sqlite3.Error, database.NewerVersion):
        return None


# --- prices ---------------------------------------------------------------------------------------


def _price(price: Price, wall: float) -> Facts:
    """What it costs now, and when that changes next."""
    now = _rates(price, wall)
    minute = int(wall) // MINUTE
    for later in range(minute + 1, minute + AHEAD):
        then = _rates(price, later * MINUTE)
        if then != now:
            return {"now": now, "changes": _instant(later * MINUTE), "then": then}
    return {"now": now, "changes": None}


def _rates(price: Price, wall: float) -> Mapping[str, float]:
    """US$ per million tokens, as calls that begin at this moment pay."""
    return {
        "input": price.cost(Usage(MILLION, 0), wall) / NANO,
        "cached_input": price.cost(Usage(MILLION, 0, cached=MILLION), wall) / NANO,
        "output": price.cost(Usage(0, MILLION), wall) / NANO,
    }


def _instant(wall: float | None) -> str | None:
    return None if wall is None else write_instant(datetime.fromtimestamp(wall, UTC))
