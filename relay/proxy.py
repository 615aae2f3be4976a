"""Where calls start: what they all share, and `handle`.

A request that `reception` let through becomes a `Call`; `Proxy.handle` starts its `Exchange`, which tells the rest of
the story (`exchange`).
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, time

from relay import replies
from relay.admission.gate import Gate
from relay.admission.principals import Principal
from relay.call import Call, Head
from relay.exchange import Exchange
from relay.records import CallRecord
from relay.snapshot import Snapshot
from relay.upstream.attempt import Tools
from relay.upstream.shares import Shares


class Proxy:
    """What every call of this process works with."""

    __slots__ = (
        "_date",
        "active",
        "draining",
        "emit",
        "gate",
        "on_idle",
        "report",
        "shares",
        "streams",
        "tools",
    )

    def __init__(
        self,
        gate: Gate,
        tools: Tools,
        emit: Callable[[CallRecord], None],
        report: Callable[[BaseException], None],
    ) -> None:
        self.gate = gate
        self.tools = tools
        self.emit = emit
        self.report = report
        """Is told of bugs of ours."""
        self._date = replies.Date()
        self.active: set[Exchange] = set()
        """Calls under way."""
        self.streams: dict[tuple[str, str], int] = {}
        """Committed streams under way, by model and upstream."""
        self.shares: Shares | None = None
        """Of the upstreams' permits, where several workers share them out."""
        self.draining = False
        self.on_idle: Callable[[], None] | None = None
        """Called when the last call under way has ended."""

    def count_stream(self, record: CallRecord, change: int) -> None:
        pair = (record.served_model or "other", record.upstream)
        self.streams[pair] = self.streams.get(pair, 0) + change

    def ended(self, exchange: Exchange) -> None:
        self.active.discard(exchange)
        if self.on_idle is not None and not self.active:
            self.on_idle()

    def lines(
        self,
        snapshot: Snapshot,
        head: Head | None,
        request_id: bytes,
        principal: Principal | None,
        model: str | None = None,
    ) -> bytes:
        """The header lines that every answer carries."""
        limits = b"" if principal is None else self.gate.headers(principal, monotonic(), model)
        cors = b""
        if head is not None and head.origin is not None:
            cors = snapshot.cors.lines(head.origin)
        date = self._date.line(time())
        return b"".join((b"x-request-id: ", request_id, b"\r\n", limits, cors, date))

    def handle(self, call: Call, snapshot: Snapshot) -> Exchange:
        """Starts a call whose principal is known and whose body is whole."""
        exchange = Exchange(self, call, snapshot)
        self.active.add(exchange)
        try:
            exchange.begin()
        except Exception as error:
            self.report(error)
            exchange.broke()
        return exchange
