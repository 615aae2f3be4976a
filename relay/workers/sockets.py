"""The listening sockets, made by the parent before it forks, so that a taken port ends the start and nothing else.

Each worker has a listener of its own on the port of clients (SO_REUSEPORT: the kernel spreads connections over them).
The parent keeps it open while a worker is started anew: what has connected meanwhile waits, and is served.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from relay.app import BACKLOG
from relay.banner import written
from relay.config.values import Listen
from relay.listener import bound_unsent

ADMIN_BACKLOG = 128

Resolved = tuple[socket.AddressFamily, tuple[str, int]]


class NoPort(OSError):
    """A port cannot be had; the message says which, and why."""


def reserve(address: Listen) -> list[Resolved]:
    """Finds out that nobody listens there, another relay's workers neither, and fixes the port where it is 0."""
    found: list[Resolved] = []
    for family, place in _resolve(address):
        probe = _bound(family, place, shared=False)
        found.append((family, probe.getsockname()[:2]))
        probe.close()
    return found


def worker_listeners(places: Sequence[Resolved]) -> list[socket.socket]:
    """One worker's listeners on addresses that `reserve` has found."""
    return [_listening(_bound(family, place, shared=True), BACKLOG) for family, place in places]


def listeners(address: Listen) -> list[socket.socket]:
    """Listeners that nobody shares."""
    return [
        _listening(_bound(family, place, shared=False), ADMIN_BACKLOG)
        for family, place in _resolve(address)
    ]


def address_of(places: Sequence[Resolved]) -> str:
    host, port = places[0][1][:2]
    return written(host, port)


def _resolve(address: Listen) -> list[Resolved]:
    try:
        found = socket.getaddrinfo(
            address.host or None,
            address.port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
    except OSError as error:
        raise _no_port((address.host, address.port), error) from None
    places = {(family, (str(place[0]), int(place[1]))): None for family, _, _, _, place in found}
    return list(places)


def _bound(family: socket.AddressFamily, place: tuple[str, int], *, shared: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound_unsent(made)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(place)
    except OSError as error:
        made.close()
        raise _no_port(place, error) from None
    return made


def _listening(made: socket.socket, backlog: int) -> socket.socket:
    try:
        made.listen(backlog)
    except OSError as error:
        place = made.getsockname()
        made.close()
        raise _no_port(place, error) from None
    made.setblocking(False)
    return made


def _no_port(place: tuple[str, int], error: OSError) -> NoPort:
    reason = (error.strerror or str(error)).lower()
    return NoPort(error.errno, f"cannot listen on {written(place[0], place[1])}: {reason}")
