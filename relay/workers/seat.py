"""What a forked process is given."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import NamedTuple

from relay.config import file
from relay.config.model import Config
from relay.workers.board import Board


class Seat(NamedTuple):
    worker: int
    """The worker's number; -1 for the hub."""
    board: Board
    link: socket.socket
    """The hub's listener; a worker needs its address only."""
    listeners: Sequence[socket.socket]
    """A worker's own for clients, or the hub's for the admin."""
    listen: str
    """The address of clients."""
    demo_key: str
    human: bool
    """A person started it and reads along."""
    watches: bool
    """A change of the files is enough for a reload."""

    def config(self, first: Config) -> Config:
        """The configuration in force: the first one, or that of the latest reload."""
        source = self.board.accepted()
        return first if source is None else file.loads(source, os.environ, first.path)
