"""What a client's connection needs of the server that accepted it: `front.Front` implements it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from relay.call import RequestIds
from relay.heads import HeadMemo
from relay.reception import Reception
from relay.timers import Wheel

if TYPE_CHECKING:
    from relay.connection import ClientConnection


class Patience:
    """Seconds, from `server.timeouts`; replaced whole by a reload."""

    __slots__ = ("body", "header", "keep_alive")

    def __init__(self, header: float, body: float, keep_alive: float) -> None:
        self.header = header
        self.body = body
        self.keep_alive = keep_alive


class Port(Protocol):
    """What a connection needs of the server that accepted it."""

    reception: Reception
    wheel: Wheel
    ids: RequestIds
    patience: Patience
    memo: HeadMemo
    receiving: set[ClientConnection]
    """Those on which a part of a request has come."""

    def came(self, client: ClientConnection) -> None: ...

    def gone(self, client: ClientConnection) -> None: ...
