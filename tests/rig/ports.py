"""Ports for servers that must be told one before they start."""

from __future__ import annotations

import random
import socket
from contextlib import suppress


def free_port() -> int:
    """A port that was free a moment ago: for servers that cannot say which one they took for 0.

    Not one of those that the system gives to whoever asks for any, hence to connections of other tests meanwhile.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
