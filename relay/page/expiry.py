"""Which keys end soon, or have ended: looked for in a thread while somebody looks, since a hundred thousand may end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from heapq import nlargest, nsmallest
from typing import Final, NamedTuple, Protocol

from relay.config.notices import SOON
from relay.page.facts import ENDS, KeyEnd

AHEAD: Final = SOON.total_seconds()
AGAIN: Final = 3600.0
"""Seconds until all keys are looked at again; what ends within them is known before."""


class Ending(Protocol):
    """The keys of a configuration: `principals.Principals`."""

    def expiries(self) -> Iterable[tuple[str, float]]:
        """(id, Unix time) of those that end. Read in a thread."""


class Found(NamedTuple):
    soon: list[KeyEnd]
    """The next ones first."""
    soon_count: int
    past: list[KeyEnd]
    """The latest first."""
    past_count: int


class Expiry:
    """Lives as long as the process that shows it. `wall` is Unix time."""

    def __init__(self) -> None:
        self._keys: Ending | None = None
        self._due = 0.0
        self._found = Found([], 0, [], 0)

    async def look(self, keys: Ending, wall: float) -> None:
        """Returns when it is known what ends: at once, but where the keys are others, or some time has passed."""
        if keys is self._keys and wall < self._due:
            return
        found = await asyncio.get_running_loop().run_in_executor(None, _find, keys, wall)
        self._keys, self._due, self._found = keys, wall + AGAIN, found

    def told(self, wall: float) -> Found:
        """As of now."""
        found = self._found
        over = [end for end in found.soon if end.at <= wall]
        soon = [end for end in found.soon if wall < end.at <= wall + AHEAD]
        return Found(
            soon[:ENDS],
            # Where more are known by their number only, it is that of the last look.
            len(soon) if found.soon_count == len(found.soon) else found.soon_count - len(over),
            [*reversed(over), *found.past][:ENDS],
            found.past_count + len(over),
        )


def _find(keys: Ending, wall: float) -> Found:
    soon, past = [], []
    for id, at in keys.expiries():
        if at <= wall:
            past.append((at, id))
        elif at <= wall + AHEAD + AGAIN:
            soon.append((at, id))
    # Twice as many as are told: some of them will have ended at the next look.
    first, last = nsmallest(2 * ENDS, soon), nlargest(ENDS, past)
    return Found(
        [KeyEnd(id, at) for at, id in first],
        len(soon),
        [KeyEnd(id, at) for at, id in last],
        len(past),
    )
