"""What a process and the authority in a store say to each other: frames, answers, and how neither is lost.

One frame is under way at a time, and has a number. Rules that hold inside:
- a frame that was not heard is said again, with its number and without its questions: whoever asked has gone;
- an authority that does not know this process any more, or has lost its past, gets a successor of another name, who
  says what the old one had not said, what its running calls hold, and after a loss all that was ever told here;
- the authority's time is checked by this process's own: no answer is older than the frame it answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from relay.admission.kinds import PERMITS, Delta, Told
from relay.admission.stakes import Lists, Stake
from relay.admission.windows import Machine, tick_of

FINE: Final = 0
ANEW: Final = 1
UNKNOWN: Final = 2

LEASE: Final = 15.0
"""Seconds from the sending of a frame in which what was leased may be used."""
MOST_TOLD: Final = 1000
"""Limits of which something is told in one frame: a few milliseconds of the store's time."""
MOST_KNOWN: Final = 500
"""Limits of which is told what was known before a loss."""

Entry = tuple[str, str, int, int, int, list[int], Delta | tuple[()], int]
"""Owner, name, kind, limit, whether it only counts, what is known of it after a loss, what happened, the recall that
is answered."""
Change = tuple[int, Delta]
"""The entry's place, from 1, and what had happened."""
Was = tuple[str, int, list[Change], list[Change]]
"""Name before, its last frame's number, what that frame said, what was not said yet."""
Frame = tuple[
    str, int, str, str, int, list[Entry], list[list[int]], Was | tuple[()], int, int, str, int
]
"""Name, number, epoch, the server's mark, upper bound of its time (ms), entries, asks, predecessor, whether it tells
what was known before a loss (1: more of it comes, 2: this is all), holders last seen, an epoch if one is needed,
whether it leaves. An ask is whether it has waited for a recall, then place, amount and want of each of its limits."""
Reply = tuple[int, str, int, int, int, list[int | list[int]], list[Told]]
"""Status, epoch, time (ms), holders, whether budgets are held, answers, levels of the entries. The answer to an ask is
0 refused, 2 held, 3 parked, or granted: a stamp for each of its limits."""


class Question:
    """What is asked in a frame: for a call, or ahead of calls to come."""

    __slots__ = ()

    def stakes(self) -> Iterable[tuple[Stake, int]]:
        """Of what, and how much."""
        raise NotImplementedError

    def wants(self) -> bool:
        """Whether more than that is of use."""
        raise NotImplementedError

    def waited(self) -> bool:
        """Whether others were called to give back for it, long enough."""
        raise NotImplementedError


class _Sent:
    """One entry of a frame."""

    __slots__ = ("batch", "delta", "stake", "unheard")

    def __init__(self, stake: Stake) -> None:
        self.stake = stake
        self.unheard = stake.unheard
        """What is told of an authority's lost past, as it was then."""
        self.batch = stake.close_batch()
        self.delta = stake.delta()


class Flight:
    """A frame on its way."""

    __slots__ = ("asserts", "entries", "former", "leaves", "questions", "sent")

    def __init__(self) -> None:
        self.entries: list[_Sent] = []
        self.questions: list[Question] = []
        self.former: _Former | None = None
        self.asserts = 0
        self.leaves = False
        self.sent = 0.0


class _Former:
    """Who this process was before."""

    __slots__ = ("name", "number", "sent", "unsent")

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.sent: list[tuple[Stake, Delta]] = []
        self.unsent: list[tuple[Stake, Delta]] = []


class Letters:
    """Lives as long as the process."""

    __slots__ = (
        "_asserts",
        "_epoch",
        "_former",
        "_name",
        "_new_name",
        "_number",
        "_time",
        "_time_at",
        "_untold",
        "era",
        "flight",
        "held",
        "holders",
        "known",
        "lists",
        "stakes",
        "until",
    )

    def __init__(self, new_name: Callable[[], str]) -> None:
        """`new_name` gives names that nobody ever had."""
        self._new_name = new_name
        self._name = new_name()
        self._number = 0
        self._epoch = ""
        self._time = 0
        """The authority's as last told, ms, and when that frame was sent."""
        self._time_at = 0.0
        self._former: _Former | None = None
        self._asserts = False
        self._untold: list[Stake] = []
        """What an authority without a past has to be told yet."""
        self.stakes: dict[tuple[str, str], Stake] = {}
        self.lists = Lists()
        self.era = 0
        """Goes up when the authority has lost its past, and with it the numbers of takes."""
        self.flight: Flight | None = None
        self.known = False
        """It was in touch with the authority, ever."""
        self.held = False
        """The authority grants no budgets yet: others have to tell what they hold."""
        self.holders = 0
        """Processes, as last told."""
        self.until = 0.0
        """The lease of all that is leased, seconds."""

    def stake(self, owner: str, name: str, machine: Machine) -> Stake:
        """This process's in the limit that the machine counts."""
        found = self.stakes.get((owner, name))
        if found is None:
            found = self.stakes[owner, name] = Stake(owner, name, machine, self.lists)
        found.machine = machine
        return found

    # -- writing --

    def write(
        self,
        now: float,
        mark: str,
        questions: list[Question],
        stakes: Iterable[Stake],
        leaves: bool = False,
    ) -> Frame:
        """The next frame, of what is on the list of stakes, and these; or the last one again, if it was not heard."""
        flight = self.flight
        if flight is None:
            flight = self.flight = self._next(questions, stakes)
            flight.leaves = leaves
            self._number += 1
        flight.sent = now
        places: dict[Stake, int] = {}
        tick = tick_of(now)
        entries: list[Entry] = []
        for sent in flight.entries:
            stake = sent.stake
            known = stake.known(tick) if flight.asserts else []
            entries.append(
                (
                    stake.owner,
                    stake.name,
                    stake.kind,
                    stake.limit,
                    int(stake.machine.shadow),
                    known,
                    sent.delta or (),
                    stake.seen,
                )
            )
            places[stake] = len(entries)
        upper = 0
        if self._time:
            upper = self._time + int((now - self._time_at) * 1000) + 1
        return (
            self._name,
            self._number,
            self._epoch,
            mark,
            upper,
            entries,
            [_asked(question, places) for question in flight.questions],
            _was(flight.former, places),
            flight.asserts,
            self.holders,
            self._new_name(),
            int(flight.leaves),
        )

    def _next(self, questions: list[Question], stakes: Iterable[Stake]) -> Flight:
        flight = Flight()
        flight.questions = questions
        dirty = self.lists.dirty
        told, self.lists.dirty = dirty[:MOST_TOLD], dirty[MOST_TOLD:]
        for stake in told:
            stake.dirty = False
        chosen: dict[Stake, None] = dict.fromkeys((*told, *stakes))
        former, self._former = self._former, None
        if former is not None:
            flight.former = former
            chosen.update(dict.fromkeys(stake for stake, _ in (*former.sent, *former.unsent)))
            chosen.update(dict.fromkeys(s for s in self.stakes.values() if s.forced or s.reserved))
        if self._asserts:
            known, self._untold = self._untold[:MOST_KNOWN], self._untold[MOST_KNOWN:]
            chosen.update(dict.fromkeys(known))
            self._asserts = bool(self._untold)
            flight.asserts = 1 if self._asserts else 2
        for question in questions:
            for stake, _ in question.stakes():
                chosen[stake] = None
        flight.entries = [_Sent(stake) for stake in chosen]
        return flight

    @property
    def has_more(self) -> bool:
        """Something is to be said, beside what calls ask."""
        return self._former is not None or self._asserts or bool(self.lists.dirty)

    # -- reading --

    def read(self, reply: Reply, now: float) -> Flight | None:
        """Takes the answer to the frame that is under way, which is over then. None: it has to be said otherwise."""
        status, epoch, time, holders, held, _, levels = reply
        flight = self.flight
        assert flight is not None, "an answer without a frame"
        if status != FINE:
            self._succeed(status == ANEW)
            self._epoch = epoch
            return None
        if len(levels) != len(flight.entries):
            raise ValueError("an answer to something else")
        self.flight = None
        self._epoch = epoch
        self._time, self._time_at = time, flight.sent
        self.holders, self.held = holders, bool(held)
        self.known = True
        self.until = flight.sent + LEASE
        for sent, level in zip(flight.entries, levels, strict=True):
            sent.stake.heard(sent.delta, sent.batch, level, flight.sent)
            if flight.asserts:
                sent.stake.unheard = max(0, sent.stake.unheard - sent.unheard)
        return flight

    def follow(self, flight: Flight, levels: list[Told], now: float) -> None:
        """After what was granted is known: what is free now."""
        tick = tick_of(now)
        for sent, level in zip(flight.entries, levels, strict=True):
            sent.stake.told(level, tick)

    def _succeed(self, anew: bool) -> None:
        """Goes on under another name."""
        flight, self.flight = self.flight, None
        assert flight is not None, "an answer without a frame"
        former = _Former(self._name, self._number)
        former.sent = [
            (sent.stake, _kept(sent.delta, anew)) for sent in flight.entries if sent.delta
        ]
        for stake in self.stakes.values():
            stake.close_batch()
            delta = stake.delta()
            if delta is not None:
                former.unsent.append((stake, _kept(delta, anew)))
            stake.free = 0
            if stake.kind >= PERMITS:
                stake.forced = stake.reserved
        self._name, self._number = self._new_name(), 0
        self._former = former
        self._time = 0 if anew else self._time
        if anew:
            self.era += 1
            self._untold = list(self.stakes.values())
            self._asserts = True

    def forget_questions(self) -> list[Question]:
        """Those of the frame under way: nobody waits for its answer any more."""
        if self.flight is None:
            return []
        asked, self.flight.questions = self.flight.questions, []
        return asked


def _kept(delta: Delta, anew: bool) -> Delta:
    """Numbers of takes mean nothing to an authority that has lost them."""
    return (*delta[:4], []) if anew else delta


def _asked(question: Question, places: dict[Stake, int]) -> list[int]:
    asked = [int(question.waited())]
    wants = question.wants()
    for stake, amount in question.stakes():
        asked += (places[stake], amount, stake.want() if wants else 0)
    return asked


def _was(former: _Former | None, places: dict[Stake, int]) -> Was | tuple[()]:
    if former is None:
        return ()
    sent = [(places[stake], delta) for stake, delta in former.sent]
    unsent = [(places[stake], delta) for stake, delta in former.unsent]
    return former.name, former.number, sent, unsent
