"""Calls and answers that the tests of whole calls are made of, and dials that wait for the test."""

from __future__ import annotations

import json
from collections.abc import Callable
from time import monotonic
from typing import cast

from relay.records import CallRecord
from relay.upstream.connections import Connections
from relay.upstream.dial import Dialer, Target
from relay.upstream.wire import Connection
from tests.plane import NOWHERE, Plane
from tests.rig import scripts as say
from tests.rig.relay_process import Fields
from tests.wires import Caller, Provider

STREAM = say.SSE_HEAD + b"".join(map(say.frame, say.EVENTS)) + say.LAST_CHUNK


def answer(status: int = 200, body: object = None, more: bytes = b"") -> bytes:
    """A whole answer of an upstream, a completion unless told otherwise."""
    raw = json.dumps(say.completion() if body is None else body).encode()
    head = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n"
    return head % (status, len(raw), more) + raw


def fault(status: int, code: str | None = None) -> bytes:
    return answer(status, {"error": {"message": "m", "type": "x", "param": None, "code": code}})


def upstreams(count: int, **timeouts: str) -> dict[str, Fields]:
    return {name: NOWHERE | {"timeouts": timeouts} for name in "abcdef"[:count]}


def model(names: str, *, attempts: int = 3, budget: str = "100%", **more: object) -> Fields:
    """A model whose upstreams are tried in this order."""
    pool = [{"upstream": name, "tier": tier} for tier, name in enumerate(names)]
    return {"pool": pool, "retry": {"attempts": attempts, "budget": budget}, **more}


def called(plane: Plane, names: str = "a", **body: object) -> tuple[Caller, list[Provider]]:
    """A call, and a connection of each upstream that stands ready for it."""
    providers = [plane.provider(name) for name in names]
    caller = plane.caller()
    caller.ask(**body)
    return caller, providers


def tries(record: CallRecord) -> list[tuple[str, str]]:
    return [(attempt.upstream, attempt.result) for attempt in record.attempts]


class Dials:
    """Dials that wait for the test."""

    def __init__(self) -> None:
        self.open: list[Dialled] = []

    def dial(
        self, target: Target, pool: Connections, waiter: Callable[[Connection | None, str], None]
    ) -> Dialled:
        self.open.append(Dialled(self, pool, waiter))
        return self.open[-1]

    @classmethod
    def of(cls, plane: Plane) -> Dials:
        made = cls()
        plane.proxy.tools.dialer = cast(Dialer, made)
        return made


class Dialled:
    """One of them."""

    def __init__(
        self, dials: Dials, pool: Connections, waiter: Callable[[Connection | None, str], None]
    ) -> None:
        self._dials, self._pool, self._waiter = dials, pool, waiter

    def cancel(self) -> None:
        self._dials.open.remove(self)

    def fails(self, fault: str) -> None:
        self._dials.open.remove(self)
        self._waiter(None, fault)

    def connects(self) -> Provider:
        self._dials.open.remove(self)
        connection = Connection(self._pool, monotonic())
        provider = Provider(connection)
        self._pool.made(connection)
        self._waiter(connection, "")
        return provider
