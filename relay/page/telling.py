"""What a process tells the page of its calls since it last did: sums for each upstream, and a few calls (`teller`).

Where several workers serve, each tells the hub once a second, with its numbers; one process tells itself.
"""

from __future__ import annotations

from typing import Final

import msgspec

from relay.page.facts import Call, Failure, Served
from relay.page.sums import Sums

NANO_DOLLARS: Final = 1_000_000_000


class Telling(msgspec.Struct, array_like=True):
    """All that happened since the last one."""

    all: Sums = msgspec.field(default_factory=Sums)
    upstreams: dict[str, Sums] = {}
    errors: dict[str, str] = {}
    """By upstream: the `result` of the latest failed attempt."""
    failures: list[Failure] = []
    refusals: list[Failure] = []
    served: list[Served] = []
    latest: list[Call] = []
