"""The listening sockets of the data port.

What is set on a listening socket every connection that it accepts inherits, without a system call of its own.
"""

from __future__ import annotations

import socket

MAX_UNSENT = 65536
"""Bytes of an answer that the kernel holds while the client has no room for them.

By default that grows to 4 MB: so much of a fast stream goes to a client that reads nothing before anybody notices.
What is on its way does not count, so a client far away loses no speed.
"""
ACCEPTED_AT_ONCE = 8
"""Connections, of each listening socket."""


def listeners(host: str, port: int, backlog: int) -> list[socket.socket]:
    """One for every address that the name has. Raises OSError, with a sentence, when one cannot be had."""
    made: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, number, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, number)
            made.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # As in nginx: [::] is every address of IPv6, 0.0.0.0 every one of IPv4.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound_unsent(sock)
            sock.bind(address)
            sock.listen(backlog)
    except OSError as error:
        for sock in made:
            sock.close()
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        reason = (error.strerror or str(error)).lower()
        raise OSError(error.errno, f"cannot listen on {shown}: {reason}") from None
    return made


def doors(listener: socket.socket) -> list[socket.socket]:
    """The listening socket, as often as connections may be accepted in one turn of the loop.

    uvloop takes one from each listener in a turn. Turns of a busy loop last tens of milliseconds, so that new clients
    would wait for minutes, unanswered, in the kernel.
    """
    return [listener, *(listener.dup() for _ in range(ACCEPTED_AT_ONCE - 1))]


def bound_unsent(sock: socket.socket) -> None:
    """Sets `MAX_UNSENT` where the system knows it."""
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT)
