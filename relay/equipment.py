"""What outlives a configuration, and the endpoints of one, found again in it and equipped for calls.

What the config says and what we remember are two types: a reload builds a new `Snapshot` over the same `Memory`, so
that health, load, queues, gaps and learnt ratios carry over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from relay.config.model import Config
from relay.config.upstreams import UpstreamConfig
from relay.gaps import GapTable
from relay.routes import RouteMemory
from relay.upstream import tls
from relay.upstream.connections import Connections, connections_of
from relay.upstream.directory import Directory
from relay.upstream.endpoint import Endpoint
from relay.upstream.headers import request_head
from relay.upstream.queue import Queue, queue_of

CHAT_PATH: Final = b"/chat/completions"


class Demo:
    """The built-in upstream of this process and the key that opens it from loopback; new at each start."""

    __slots__ = ("credential", "key", "port")

    def __init__(self, port: int, credential: str, key: str) -> None:
        self.port = port
        self.credential = credential
        self.key = key


class Memory:
    """What outlives a configuration. One per process."""

    __slots__ = ("directory", "gaps", "loop", "report", "routes", "workers")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        directory: Directory,
        report: Callable[[BaseException], None],
        workers: int = 1,
    ) -> None:
        """`workers`: how many processes share what is allowed altogether."""
        self.report = report
        """Is told of bugs of ours."""
        self.workers = workers
        self.loop = loop
        self.directory = directory
        self.gaps = GapTable()
        self.routes: dict[str, RouteMemory] = {}


def endpoints_of(config: Config, memory: Memory, demo: Demo | None) -> dict[str, list[Endpoint]]:
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
    endpoint.reporting.configure(upstream.usage)
    _line_up(endpoint, upstream, memory)
    path = endpoint.base_path + CHAT_PATH
    endpoint.request_head = request_head(path, endpoint.authority, endpoint.credential)
    if endpoint.tls:
        # Reading the system's authorities takes tens of milliseconds, so not at the first call.
        tls.prepare(endpoint.ca_file)


def _line_up(endpoint: Endpoint, upstream: UpstreamConfig, memory: Memory) -> None:
    """Gives the account the queue in which calls wait for it: of several upstreams the last one's."""
    account = endpoint.account
    queue = queue_of(account)
    if queue is None:
        if endpoint.max_concurrent is None:
            return
        account.queue = queue = Queue(account, memory.loop.call_soon)
        queue.name = endpoint.name
    queue.max_wait = upstream.queue.max_wait
    # Each worker has its part of the line.
    queue.max_calls = -(-upstream.queue.max_calls // memory.workers)
