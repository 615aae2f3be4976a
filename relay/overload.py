"""How much more this process can take: every threshold of the shedding of load, in one place.

    short of       begins                    ends          meanwhile
    connections    one more than the cap     under 90 %    503 on the new one, which is closed; none idles over a second
    descriptors    half of the spare ones    three quarters of them free again
                                                           503 on new connections and new calls
    memory         92 % of the group's       under 88 %    503 on new calls
    time           the loop runs late, by    within 8 s    503 on a part of the new calls, larger while it is late
                   20 ms for half a second   in time

What is there already goes on in all four. Before it comes so far, connections that idle are closed sooner: after 15 s
above 80 % of the cap, after one second above 85 % of the memory.

A machine: it is told facts and decides, and does nothing itself (`watch` brings the facts and acts). What is asked for
each call is one attribute.

Why lateness is smoothed, and not its least value over an interval: a loop that has more to do than time takes all that
is ready in each of its turns, and a tick falls anywhere between two turns. So even at twice the load a core can take
some tick is on time in every half second, while the average rises from 2 ms (at 80 %) over 3 (at 100 %) to 30 and more.
A single stall (a collection, a reload, a host that sleeps) counts `WORST` at the most, and a tenth of that is no
overload.
"""

from __future__ import annotations

from typing import Final

RESERVED: Final = 512
"""Descriptors kept for what is no call: listeners, the admin port, files, answers to those who find no place. It is a
quarter of a small limit."""
PRESSED: Final = 0.8
"""Part of the cap from which connections idle for `PRESSED_IDLE` at most."""
RELIEVED: Final = 0.9
"""Part of the cap under which new connections have found a place again."""
PRESSED_IDLE: Final = 15.0
"""Seconds."""
LEAST_IDLE: Final = 1.0
"""Seconds: who has just been answered, or has just come, is about to ask."""

MEMORY_PRESSED: Final = 0.85
MEMORY_SHORT: Final = 0.92
MEMORY_SLACK: Final = 0.04
"""Parts of the memory that the control group may use."""

WORST: Final = 0.15
"""Seconds that one late tick counts at most."""
SMOOTHING: Final = 10
"""Ticks over which lateness is averaged: a fifth of a second, and longer where they come late."""
LATE: Final = 0.02
"""Seconds of smoothed lateness at which old streams begin to feel it."""
IN_TIME: Final = 0.01
"""Seconds under which more is let in again."""
PERSISTS: Final = 0.5
"""Seconds for which it must be late: a rush of a few hundred calls is over by then."""
CROWD: Final = 16
"""Calls under way with fewer than which it is not calls that make the loop late."""
FIRST: Final = 0.5
"""What is let in is cut to this part of all when it begins to be late…"""
LESS: Final = 0.3
"""…to this part of itself in each further second that is…"""
MORE: Final = 0.125
"""…and grows by this part of all in a second that is in time: the way in which TCP finds a rate that fits."""
LEAST: Final = 1 / 32
LONGEST_STEP: Final = 1.0
"""Seconds between two beats that count at most."""

SHORT_WAIT: Final = 1.0
LONG_WAIT: Final = 5.0
"""Seconds after which who is refused may come back: lateness and places change within seconds, memory does not."""
SPREAD: Final = 8
"""Those who are told to come back are told so many different times, up to twice the wait: not all at once again."""

UNREADY: Final = 1.0
"""Seconds of refusing most of what is new after which a balancer is told."""

UNLIMITED: Final = 1 << 30

CONNECTIONS: Final = "connections"
DESCRIPTORS: Final = "descriptors"
MEMORY: Final = "memory"
TIME: Final = "time"


class Change:
    """A shortage has begun, or is over."""

    __slots__ = ("began", "refused", "seconds", "what")

    def __init__(self, what: str, began: bool, seconds: float, refused: int) -> None:
        self.what = what
        self.began = began
        self.seconds = seconds
        """How long it was."""
        self.refused = refused
        """Connections or calls, in all of it."""


class Spell:
    """One kind of shortage."""

    __slots__ = ("refused", "since", "what")

    def __init__(self, what: str) -> None:
        self.what = what
        self.since = -1.0
        """Seconds of the loop's clock; negative while there is none."""
        self.refused = 0
        """Connections or calls, since it began."""

    @property
    def on(self) -> bool:
        return self.since >= 0.0

    def follow(self, now: float, short: bool) -> Change | None:
        """Whether it is so now. Returns what that changes."""
        if short == self.on:
            return None
        if short:
            self.since = now
            return Change(self.what, True, 0.0, 0)
        change = Change(self.what, False, now - self.since, self.refused)
        self.since, self.refused = -1.0, 0
        return change


class Overload:
    """Lives as long as the process."""

    __slots__ = (
        "_beat",
        "_connections",
        "_credit",
        "_descriptors",
        "_late_since",
        "_memory",
        "_refusals",
        "_time",
        "_wanted",
        "cap",
        "idle_limit",
        "late",
        "reserved",
        "share",
        "shedding",
    )

    def __init__(self, descriptors: int = UNLIMITED) -> None:
        """`descriptors`: how many this process may have open."""
        self.reserved = min(RESERVED, descriptors // 4)
        self.cap = (descriptors - self.reserved) // 2
        """Connections of clients at once: each may need one to an upstream, too."""
        self.idle_limit: float | None = None
        """Seconds a connection may idle; None: as configured."""
        self.late = 0.0
        """Seconds the loop is late, smoothed."""
        self.share = 1.0
        """The part of new calls that is let in as far as time is short."""
        self.shedding = False
        """Whether a new call has to ask (`refuses`): the one thing that is looked at for each."""
        self._late_since = -1.0  # negative while it is not late
        self._beat = 0.0
        self._credit = 1.0
        self._refusals = 0
        self._wanted = False  # a connection found no place since the last beat
        self._connections = Spell(CONNECTIONS)
        self._descriptors = Spell(DESCRIPTORS)
        self._memory = Spell(MEMORY)
        self._time = Spell(TIME)

    # -- questions --

    @property
    def most_turned(self) -> int:
        """Connections beyond the cap that may be there to be answered and closed."""
        return max(1, self.reserved // 4)

    def is_full(self, connections: int) -> bool:
        """Whether the last one of so many is one too many."""
        return connections > self.cap or self._descriptors.on

    def turned(self) -> float:
        """A connection found no place. Returns the seconds after which to try again."""
        self._wanted = True
        self._connections.refused += 1
        return self._wait(SHORT_WAIT)

    def refuses(self, calls: int) -> float | None:
        """Asked for a new call while `shedding`, with so many under way. None lets it in, else it may come again after
        so many seconds."""
        if self._descriptors.on:
            self._descriptors.refused += 1
            return self._wait(SHORT_WAIT)
        if self._memory.on and calls:
            # With nothing under way there is nothing to wait for: what is short then is not in our hands.
            self._memory.refused += 1
            return self._wait(LONG_WAIT)
        self._credit += self.share
        if self._credit >= 1.0:
            self._credit -= 1.0
            return None
        self._time.refused += 1
        return self._wait(SHORT_WAIT)

    def is_unready(self, now: float) -> bool:
        """Most of what is new has been refused for a while."""
        spells = [self._connections, self._descriptors, self._memory]
        if self.share < 0.5:
            spells.append(self._time)
        return any(spell.on and now - spell.since > UNREADY for spell in spells)

    def short_of(self) -> list[str]:
        return [spell.what for spell in self._spells() if spell.on]

    # -- facts --

    def tick(self, late: float, now: float) -> None:
        """The loop ran a timer so many seconds late."""
        self.late += (min(late, WORST) - self.late) / SMOOTHING
        if self.late < IN_TIME:
            self._late_since = -1.0
        elif self.late > LATE and self._late_since < 0.0:
            self._late_since = now

    def beat(
        self, now: float, connections: int, calls: int, descriptors: int, memory: float
    ) -> list[Change]:
        """Some times a second: what is there, how many descriptors are free, which part of the group's memory is used.
        Returns what has begun and what has ended.
        """
        changes = [
            self._connections.follow(now, self._crowded(connections)),
            self._descriptors.follow(now, self._bare(descriptors)),
            self._memory.follow(now, self._tight(memory)),
            self._time.follow(now, self._slow(now, calls)),
        ]
        self._wanted = False
        self.shedding = self._descriptors.on or self._memory.on or self._time.on
        if memory >= MEMORY_PRESSED or self._connections.on:
            self.idle_limit = LEAST_IDLE
        else:
            self.idle_limit = PRESSED_IDLE if connections > PRESSED * self.cap else None
        return [change for change in changes if change is not None]

    def _spells(self) -> list[Spell]:
        return [self._connections, self._descriptors, self._memory, self._time]

    def _crowded(self, connections: int) -> bool:
        return self._wanted or (self._connections.on and connections >= RELIEVED * self.cap)

    def _bare(self, descriptors: int) -> bool:
        half = self.reserved // 2
        return descriptors < (half + half // 2 if self._descriptors.on else half)

    def _tight(self, memory: float) -> bool:
        slack = MEMORY_SLACK if self._memory.on else 0.0
        return memory >= MEMORY_SHORT - slack

    def _slow(self, now: float, calls: int) -> bool:
        step = min(now - self._beat, LONGEST_STEP)
        self._beat = now
        since = self._late_since
        if calls < CROWD or self.late < IN_TIME:
            self.share = min(1.0, self.share + MORE * step)
        elif self.late > LATE and since >= 0.0 and now - since >= PERSISTS:
            self.share = FIRST if self.share == 1.0 else max(LEAST, self.share * LESS**step)
        return self.share < 1.0

    def _wait(self, least: float) -> float:
        self._refusals = (self._refusals + 1) % SPREAD
        return least * (1.0 + self._refusals / SPREAD)
