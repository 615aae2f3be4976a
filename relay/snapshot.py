"""One immutable configuration, compiled for calls.

A call keeps the snapshot it started with; nothing changes it. What outlives it is `equipment.Memory`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final

from relay.admission.gate import Need
from relay.admission.principals import Principal, Principals
from relay.call import Head
from relay.chatbody import ChatBody
from relay.config.keymodel import demo_id
from relay.config.model import Config
from relay.equipment import Demo, Memory, endpoints_of
from relay.errors import ModelNotFound
from relay.gaps import GapCounts
from relay.replies import Cors
from relay.routes import Route, routes_of
from relay.upstream.connections import Connections, connections_of
from relay.upstream.endpoint import Endpoint
from relay.upstream.scrub import Scrubber

MARGIN: Final = 1.1
"""On the learnt ratio: prompts differ."""

LOOPBACK = ("127.0.0.1", "::1")
ADDRESSES_KEPT: Final = 4096
"""Addresses whose trust is remembered."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
NO_NEED = Need(0, 0, 0)


class Snapshot:
    """One configuration as calls read it."""

    __slots__ = (
        "_gaps",
        "_trust",
        "_trusted",
        "config",
        "cors",
        "demo_models",
        "endpoints",
        "heard",
        "max_body",
        "principals",
        "routes",
        "scrub",
        "write_stall",
    )

    def __init__(
        self,
        config: Config,
        memory: Memory,
        demo: Demo | None = None,
        principals: Principals | None = None,
    ) -> None:
        """`principals` are the config's keys, if somebody has compiled them already."""
        self.config = config
        self.cors = Cors(config.server.cors.allow_origins)
        self.max_body = config.server.max_body
        self.heard = frozenset(config.observability.log_content)
        """Keys whose prompts and answers are logged."""
        self.write_stall = config.server.timeouts.write_stall
        self._trusted: tuple[Network, ...] = tuple(config.server.trusted_proxies)
        self._trust: dict[str, bool] = {}
        self.principals = compile_keys(config) if principals is None else principals
        self.endpoints = endpoints_of(config, memory, demo)
        self.routes = routes_of(config, memory.routes, self.endpoints)
        self.demo_models = [name for name, route in self.routes.items() if route.pool.demo]
        if demo is not None and self.demo_models:
            id = demo_id(self.principals.__contains__)
            self.principals.add_demo(demo.key, self.demo_models, id)
        self.scrub = Scrubber(
            [e.credential for found in self.endpoints.values() for e in found if e.credential],
            [e.host for found in self.endpoints.values() for e in found],
        )
        self._gaps = memory.gaps

    # -- what a call asks --

    def route(self, model: str, principal: Principal) -> Route:
        """The route of a name that this key may use; unknown and forbidden are one answer."""
        route = self.routes.get(model)
        if route is None or not principal.allows(model):
            raise ModelNotFound(model)
        return route

    def allowed(self, principal: Principal) -> Iterator[Route]:
        """Every route the key may use, in the order of the config."""
        return (route for name, route in self.routes.items() if principal.allows(name))

    def need(self, route: Route, chat: ChatBody, bound: int, *, money: bool) -> Need:
        """The worst case of a call whose prompt has at most `bound` tokens, whichever model answers it in the end.

        `money`: whether anybody asks what it costs.
        """
        output = (chat.max_tokens or route.max_output) * chat.n
        if route.resume is not None:
            # What was delivered until the break is a part of a second prompt.
            bound, output = 2 * bound + output, 2 * output
        prompt = int(bound * route.memory.ratio * MARGIN) + 1
        if prompt > bound:
            prompt = bound
        cost = 0
        if money:
            for price in route.prices:
                cost = max(cost, price.worst(bound, output))
        return Need(prompt + output, bound + output, cost)

    def gaps(self, model: str, upstream: str) -> GapCounts:
        return self._gaps.of(model, upstream)

    def connections(self) -> Iterator[Connections]:
        """Of every endpoint."""
        for endpoints in self.endpoints.values():
            for endpoint in endpoints:
                yield connections_of(endpoint)

    def probed(self) -> Iterator[tuple[Endpoint, float, str]]:
        """The endpoints that are asked themselves while they are ejected: how often, and what for."""
        for name, endpoints in self.endpoints.items():
            probe = self.config.upstreams[name].probe
            if probe is not None:
                yield from ((e, probe.interval, probe.path) for e in endpoints if not e.demo)

    def describe(self, route: Route) -> dict[str, object]:
        """The entry of `/v1/models`."""
        return {"id": route.name, "object": "model", "created": 0, "owned_by": "relay"}

    def client_address(self, peer: str | None, head: Head) -> str | None:
        """Where a request comes from, as far as trusted proxies tell; None when only an untold proxy is known."""
        if peer is None or not (self._trust.get(peer) or self._is_trusted(peer)):
            return peer
        if head.forwarded_for is not None:
            for hop in reversed(head.forwarded_for.split(",")):
                address = hop.strip()
                if not self._is_trusted(address):
                    return address
        return head.real_ip

    def is_local(self, peer: str | None, head: Head) -> bool:
        """The peer is on this host and speaks for nobody else, as far as it says."""
        return peer in LOOPBACK and head.forwarded_for is None and head.real_ip is None

    def _is_trusted(self, address: str) -> bool:
        known = self._trust.get(address)
        if known is None:
            try:
                parsed = ipaddress.ip_address(address)
            except ValueError:
                return False
            if len(self._trust) >= ADDRESSES_KEPT:
                self._trust.clear()
            known = any(parsed in network for network in self._trusted)
            self._trust[address] = known
        return known


def compile_keys(config: Config) -> Principals:
    """Everybody who may call. Takes its time: microseconds for each entry of `keys`."""
    return Principals.build(config.keys, config.groups, config.filed)
