"""What workers and hub say to each other. One frame is all that one side had to say in one turn of its loop.

A frame is msgpack of an `Up` or a `Down`, each behind four bytes of length. The short lists carry what happens with
every call; `notes` carry what is rare. Both sides are of one start of one version, so nothing here is negotiated.
"""

from __future__ import annotations

import msgspec

from relay.admission.authority import Ask, Held, Refusal
from relay.admission.remote import Settlement
from relay.admission.windows import Level
from relay.observe.exposition import Snapshot
from relay.page.telling import Telling

Permits = tuple[str, int]
"""Account, how many."""


class Note(msgspec.Struct, array_like=True, tag=True):
    """What is said rarely."""


# -- worker to hub --


class Hello(Note):
    """The first word on every connection: who it is, and what an authority that begins anew must know."""

    worker: int
    pid: int
    digest: str
    leases: list[Held]
    levels: dict[str, list[Level]]
    permits: dict[str, int]
    serving: bool


class Serving(Note):
    """It accepts connections."""


class Numbers(Note):
    """Its metrics, and what limps; `asked` is the question it answers, 0 if none."""

    snapshot: Snapshot
    degraded: list[str]
    asked: int = 0
    overloaded: bool = False
    """It refuses most of what is new."""
    told: Telling = msgspec.field(default_factory=Telling)
    """For the page."""


class Prepared(Note):
    """It has read a new configuration, or cannot."""

    reload: int
    digest: str
    faults: list[str]


class Committed(Note):
    """The new configuration is in effect here."""

    reload: int


class Reports(Note):
    """Permits in use of accounts that had no limit before."""

    permits: list[Permits]


class Judged(Note):
    """Pauses and parks that hold for everybody, with their ends (seconds, of the host's monotonic clock)."""

    pauses: list[tuple[str, str, float]] = []
    """Account, model, end."""
    accounts: list[tuple[str, float]] = []
    credentials: list[tuple[int, float]] = []
    """The endpoint's seed, end."""


class Up(msgspec.Struct, array_like=True):
    settled: list[Settlement] = []
    gave: list[Permits] = []
    asks: list[Ask] = []
    wants: list[Permits] = []
    notes: list[Hello | Serving | Numbers | Prepared | Committed | Reports | Judged] = []


# -- hub to worker --


class Welcome(Note):
    """The answer to `Hello`: serve, under this configuration if it is another than yours."""

    source: bytes | None


class Prepare(Note):
    """Read this configuration, and say what you think of it."""

    reload: int
    source: bytes


class Commit(Note):
    """Everybody is content: it is in effect from now on."""

    reload: int


class Abandon(Note):
    """Somebody is not: forget it."""

    reload: int


class Count(Note):
    """Your numbers, please."""

    asked: int


class Down(msgspec.Struct, array_like=True):
    levels: dict[str, list[Level]] = {}
    granted: list[int] = []
    refused: list[Refusal] = []
    orders: list[tuple[str, str, int]] = []
    """Of permits: kind, account, how many (see `upstream.permits`)."""
    notes: list[Welcome | Prepare | Commit | Abandon | Count | Judged] = []
