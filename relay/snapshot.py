"""One immutable configuration, compiled for calls; and `Memory`, what survives when it is replaced.

What the config says and what we remember are two types: a reload builds a new `Snapshot` over the same `Memory`, so
that health, load, gaps and learnt ratios carry over. A call keeps the snapshot it started with; nothing changes it.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Iterator
from math import inf
from typing import Final

from relay.admission.gate import Need
from relay.admission.principals import Principal, Principals
from relay.call import Head
from relay.chatbody import ChatBody
from relay.config.model import Config, ModelConfig
from relay.config.upstreams import UpstreamConfig
from relay.errors import ModelNotFound
from relay.gaps import GapCounts, GapTable
from relay.pricing import Price
from relay.replies import Cors
from relay.upstream import tls
from relay.upstream.connections import Connections, connections_of
from relay.upstream.endpoint import Directory, Endpoint
from relay.upstream.headers import request_head
from relay.upstream.pool import Member, Pool
from relay.upstream.scrub import Scrubber
from relay.usage import Usage

FIRST_RATIO: Final = 0.25
"""Tokens a byte of a prompt, before any answer taught better."""
LEARNING: Final = 0.05
"""Weight of one report in the learnt ratio."""
MARGIN: Final = 1.1
"""On the learnt ratio: prompts differ."""

LOOPBACK = ("127.0.0.1", "::1")
ADDRESSES_KEPT: Final = 4096
"""Addresses whose trust is remembered."""

CHAT_PATH: Final = b"/chat/completions"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
NO_NEED = Need(0, 0, 0)


class Demo:
    """The built-in upstream of this process and the key that opens it from loopback; new at each start."""

    __slots__ = ("credential", "key", "port")

    def __init__(self, port: int, credential: str, key: str) -> None:
        self.port = port
        self.credential = credential
        self.key = key


class RouteMemory:
    """What a model's traffic taught. Lives as long as the process."""

    __slots__ = ("budget_empty", "ratio")

    def __init__(self) -> None:
        self.ratio = FIRST_RATIO
        """Tokens a byte of a prompt."""
        self.budget_empty = 0
        """Retries that the budget refused."""


class Memory:
    """What outlives a configuration. One per process."""

    __slots__ = ("directory", "gaps", "loop", "report", "routes")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        directory: Directory,
        report: Callable[[BaseException], None],
    ) -> None:
        self.report = report
        """Is told of bugs of ours."""
        self.loop = loop
        self.directory = directory
        self.gaps = GapTable()
        self.routes: dict[str, RouteMemory] = {}


class Route:
    """A model name that clients may ask for, and what answers it: a pool or a static text."""

    __slots__ = (
        "attempts",
        "by_prefix",
        "fallbacks",
        "first_token",
        "heartbeat",
        "image_tokens",
        "max_output",
        "memory",
        "name",
        "pool",
        "price",
        "prices",
        "static",
    )

    def __init__(self, name: str, config: ModelConfig, pool: Pool, memory: RouteMemory) -> None:
        self.name = name
        self.pool = pool
        self.static = config.static
        self.attempts = config.retry.attempts
        self.first_token = config.first_token
        self.by_prefix = config.strategy == "prefix"
        self.max_output = config.max_output
        self.image_tokens = config.image_tokens
        self.heartbeat = config.heartbeat.interval or inf
        # The demo's answers cost nobody anything.
        self.price = None if config.price is None or pool.demo else Price.of(config.price)
        self.prices: tuple[Price, ...] = ()
        """Its own and those of its fallbacks: the dearest is what a call may come to."""
        self.fallbacks: tuple[Route, ...] = ()
        self.memory = memory

    def cost(self, usage: Usage, wall: float) -> int:
        """Nano-dollars; 0 without a price."""
        return 0 if self.price is None else self.price.cost(usage, wall)

    def learn(self, bound: int, tokens: int) -> None:
        """A report said how many tokens a prompt of `bound` bytes really had."""
        if bound > 0 and tokens > 0:
            memory = self.memory
            memory.ratio += LEARNING * ((tokens / bound if tokens < bound else 1.0) - memory.ratio)


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
        self.write_stall = config.server.timeouts.write_stall
        self._trusted: tuple[Network, ...] = tuple(config.server.trusted_proxies)
        self._trust: dict[str, bool] = {}
        self.principals = compile_keys(config) if principals is None else principals
        self.endpoints = _endpoints(config, memory, demo)
        self.routes = _routes(config, memory, self.endpoints)
        self.demo_models = [name for name, route in self.routes.items() if route.pool.demo]
        if demo is not None and self.demo_models:
            self.principals.add_demo(demo.key, self.demo_models)
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


def _endpoints(config: Config, memory: Memory, demo: Demo | None) -> dict[str, list[Endpoint]]:
    """Every endpoint of every active upstream: one per API key, remembered from before where it was there."""
    found: dict[str, list[Endpoint]] = {}
    for name, upstream in config.active_upstreams.items():
        most = config.most_at_once(name)
        if upstream.kind == "demo":
            if demo is not None:
                url = f"http://127.0.0.1:{demo.port}/v1"
                found[name] = [_endpoint(name, upstream, url, demo.credential, most, memory)]
            continue
        keys: list[str | None] = [key.get_secret_value() for key in upstream.api_keys]
        found[name] = [
            _endpoint(name, upstream, upstream.base_url, key, most, memory)
            for key in keys or [None]
        ]
    return found


def _endpoint(
    name: str,
    upstream: UpstreamConfig,
    base_url: str | None,
    key: str | None,
    most: int | None,
    memory: Memory,
) -> Endpoint:
    timeouts = upstream.timeouts
    demo = upstream.kind == "demo"
    endpoint = memory.directory.endpoint(
        upstream=name,
        base_url=base_url,
        credential=key,
        demo=demo,
        account=upstream.account or name,
        max_concurrent=most,
        connect=timeouts.connect,
        first_token=timeouts.first_token,
        idle=timeouts.idle,
        answer=timeouts.answer,
        total=timeouts.total,
        ca_file=upstream.ca_file,
    )
    _equip(endpoint, upstream, memory)
    return endpoint


def _equip(endpoint: Endpoint, upstream: UpstreamConfig, memory: Memory) -> None:
    """Gives an endpoint its connections and its prepared head."""
    limits = upstream.connections
    if endpoint.connections is None:
        endpoint.connections = Connections(
            memory.loop, limits.max_idle, limits.max_age, memory.report
        )
    connections_of(endpoint).limit(limits.max_idle, limits.max_age, limits.max_kept)
    path = endpoint.base_path + CHAT_PATH
    endpoint.request_head = request_head(path, endpoint.authority, endpoint.credential)
    if endpoint.tls:
        # Reading the system's authorities takes tens of milliseconds, so not at the first call.
        tls.prepare(endpoint.ca_file)


def _routes(
    config: Config, memory: Memory, endpoints: dict[str, list[Endpoint]]
) -> dict[str, Route]:
    routes: dict[str, Route] = {}
    for name, model in config.models.items():
        members = [
            Member(endpoint, entry.model or name, tier=entry.tier, weight=entry.weight)
            for entry in model.pool
            for endpoint in endpoints.get(entry.upstream, ())
        ]
        pool = Pool(members, strategy=model.strategy, budget=model.retry.budget)
        remembered = memory.routes.setdefault(name, RouteMemory())
        routes[name] = Route(name, model, pool, remembered)
    for name, model in config.models.items():
        route = routes[name]
        route.fallbacks = tuple(routes[other] for other in model.fallback)
        served = (route, *route.fallbacks)
        route.prices = tuple(each.price for each in served if each.price is not None)
    return routes
