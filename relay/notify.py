"""What a service manager is told: systemd's protocol, one datagram with a word in it.

With `Type=notify` it then knows when the relay serves, not just that it runs. Elsewhere there is no `NOTIFY_SOCKET`,
and nothing happens.
"""

from __future__ import annotations

import os
import socket
from typing import Final

READY: Final = b"READY=1"
STOPPING: Final = b"STOPPING=1"

PATIENCE: Final = 1.0
"""Seconds: a manager reads at once, and one that does not must not hold up the streams for long."""


def tell(word: bytes) -> None:
    """Any process of the relay may say it (the unit has `NotifyAccess=all`), and saying it twice changes nothing."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name.startswith(("/", "@")):
        return
    # "@" stands for the zero byte of an address that is no file.
    address = "\0" + name[1:] if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as teller:
            teller.settimeout(PATIENCE)
            teller.sendto(word, address)
    except OSError:
        # Nobody listens: that is no reason not to serve.
        return
