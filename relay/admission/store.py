"""A gate whose authority is a store that several relays share: it asks, and admits alone what it has a lease of.

It does no I/O: `wake` is called when there is something to say, whoever owns the connection asks for the frame and
brings the answer, or says that the store is `lost`. Rules that hold inside:
- a key without a limit asks nobody;
- a call is refused only on the authority's word, or by `away` while there is no authority;
- a call that waits is told once; nobody waits for a store that is away;
- a call that has gone when its grant comes gives it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import inf
from typing import Final

from relay.admission.asking import Ahead, Asking, Draw, StoreLease, refusal_of
from relay.admission.away import Parts
from relay.admission.configured import GroupLike
from relay.admission.gate import NOT_TAKEN, Applicant, Gate, Lease, Need
from relay.admission.kinds import PERMITS, RATE, REFUNDED
from relay.admission.letters import Frame, Letters, Question, Reply
from relay.admission.memory import limit_of
from relay.admission.principals import Principal, Principals
from relay.admission.purse import YOUR_KEY, Purse
from relay.admission.refusals import refuse
from relay.admission.stakes import Stake
from relay.admission.windows import tick_of
from relay.errors import RelayError

MOST_ASKS: Final = 400
"""Questions in one frame: a millisecond or two of the store's time."""
MOST_REPORTED: Final = 400
"""Limits in use whose levels are told anew each second, beside those that changed."""
ASK_AGAIN: Final = 0.01
"""Seconds until a call that waits for that asks again."""

HELD: Final = 2
PARKED: Final = 3


class StoreGate(Gate):
    """Stands in for the store's authority in a serving process. Lives as long as the process."""

    __slots__ = (
        "_draws",
        "_parked",
        "_parts",
        "_queue",
        "away",
        "budgets_open",
        "failures",
        "letters",
        "processes",
        "rates_open",
        "wake",
    )

    def __init__(
        self,
        principals: Principals,
        groups: Mapping[str, GroupLike],
        new_name: Callable[[], str],
        processes: int = 1,
    ) -> None:
        """`processes` of this relay share the limits at least."""
        super().__init__(principals, groups)
        self.letters = Letters(new_name)
        self.processes = processes
        self.rates_open = True
        self.budgets_open = False
        self.away = True
        """There is nobody to ask."""
        self.failures = 0
        """Times that it did not do what it should."""
        self._parts: Parts | None = None
        self._draws: dict[Purse, Draw] = {}
        self._queue: list[Question] = []
        self._parked: list[Asking] = []
        self.wake: Callable[[], None] = _nothing
        """Something is to be said."""

    # -- calls --

    def reserve(
        self,
        principal: Principal,
        model: str,
        need: Need,
        now: float,
        wall: float,
        applicant: Applicant | None = None,
    ) -> Lease:
        purse = self.purse(principal).of(model)
        if not purse.entries:
            return super().reserve(principal, model, need, now, wall)
        draw = self._draws.get(purse) or self._draw(principal, purse)
        tick = self._tick = max(self._tick, int(now * 1000.0 + 0.5))
        self._wall = wall
        amounts = need.amounts
        lease = StoreLease(self, draw, amounts)
        if draw.sliced:
            at = tick / 1000
            for stake, unit in draw.entries:
                if stake.free < amounts[unit] or at >= stake.until:
                    break
            else:
                if at < self.letters.until:
                    self.inflight += 1
                    self._admit(lease, amounts)
                    return lease
        for machine, unit in purse.entries:
            if amounts[unit] > machine.limit and not machine.shadow:
                refuse(purse.named(), model, amounts, tick, wall)
        if self.away:
            self._decide(lease, model, wall)
            self.inflight += 1
            return lease
        assert applicant is not None, "the answer comes later"
        lease.asking = asking = Asking(lease, model, applicant)
        self.inflight += 1
        self._queue.append(asking)
        self.wake()
        return lease

    def _draw(self, principal: Principal, purse: Purse) -> Draw:
        id = principal.id
        current = self._principals.get(id) or principal
        letters = self.letters
        stakes = []
        for whose, name, machine, _ in purse.named():
            owner = f"k:{id}" if whose == YOUR_KEY else f"g:{current.group}"
            stakes.append(letters.stake(owner, name, machine))
        draw = self._draws[purse] = Draw(id, purse, stakes)
        return draw

    def _admit(self, lease: StoreLease, amounts: tuple[int, int, int, int]) -> None:
        """The call fits into what is leased here."""
        draw = lease.draw
        low = False
        lease.taken = taken = []
        for stake, unit in draw.entries:
            taken.append(stake.take(amounts[unit]))
            if stake.kind == REFUNDED:
                lease.batches = [*(lease.batches or ()), stake.batch]
            if stake.free < stake.floor:
                low = True
        lease.era = self.letters.era
        lease.open = True
        if low and not draw.asking and not self.away:
            draw.asking = True
            self._queue.append(Ahead(draw))
            self.wake()

    def _decide(self, lease: StoreLease, model: str, wall: float) -> None:
        """Without an authority: opens the lease, or raises."""
        parts = self._parts
        if parts is None:
            processes = max(self.processes, self.letters.holders)
            parts = self._parts = Parts(self.rates_open, self.budgets_open, processes)
        draw, amounts = lease.draw, lease.amounts
        lease.parts = parts.take(draw.entries, draw.purse.named(), model, amounts, self._tick, wall)
        lease.taken = [stake.force(amounts[unit], wall) for stake, unit in draw.entries]
        lease.era = -1
        lease.open = True

    def close(self, lease: StoreLease, now: float, tokens: int, cost: int) -> None:
        """What a call took becomes what it used."""
        tick = int(now * 1000.0 + 0.5)
        if tick > self._tick:
            self._tick = tick
        amounts, actual = lease.amounts, (1, tokens, tokens, cost)
        taken, place, refunds = lease.taken, 0, 0
        dirty = False
        for stake, unit in lease.draw.entries:
            stamp = taken[place]
            place += 1
            kind = stake.kind
            if kind == RATE or stamp == NOT_TAKEN:
                continue
            amount, used = amounts[unit], actual[unit]
            if kind != REFUNDED or used > amount:
                stake.settle(stamp, amount, used)
            elif used < amount and lease.era == self.letters.era:
                batches = lease.batches
                stake.refund(stamp, None if batches is None else batches[refunds], amount - used)
            if kind == REFUNDED:
                refunds += 1
            if stake.dirty:
                dirty = True
        if lease.parts is not None:
            for part, stamp, unit in lease.parts:
                part.settle(stamp, amounts[unit], actual[unit], self._tick)
        if dirty:
            self.wake()

    def headers(self, principal: Principal, now: float, model: str | None = None) -> bytes:
        purse = self.purse(principal)
        if model is not None:
            purse = purse.of(model)
        draw = self._draws.get(purse)
        if draw is not None:
            tick = tick_of(now)
            for stake, _ in draw.entries:
                if stake.drift and stake.kind <= REFUNDED:
                    stake.catch_up(tick)
        return super().headers(principal, now, model)

    def iter_ratios(
        self, now: float, wall: float | None = None
    ) -> Iterator[tuple[str, str, float]]:
        tick = tick_of(now)
        for stake in self.letters.lists.used:
            if stake.drift:
                stake.catch_up(tick)
        return super().iter_ratios(now, wall)

    def reload(self, principals: Principals, groups: Mapping[str, GroupLike]) -> dict[str, Purse]:
        self._draws = {}
        return super().reload(principals, groups)

    # -- what whoever owns the connection asks --

    def news(self, now: float) -> bool:
        """Whether something is to be said now."""
        letters = self.letters
        return bool(
            self._queue
            or letters.flight is not None
            or letters.has_more
            or (self._parked and self._parked[0].due <= now)
        )

    def due(self) -> float:
        """When the first call that waits for others asks again, seconds."""
        return self._parked[0].due if self._parked else inf

    def frame(self, now: float, mark: str, report: bool = False) -> Frame:
        """What is to be said: once a second with what is in use, to be told its levels. `mark`: which server it is."""
        self._tick = max(self._tick, tick_of(now))
        letters = self.letters
        if letters.flight is not None:
            return letters.write(now, mark, [], ())
        while self._parked and self._parked[0].due <= now:
            self._queue.append(self._parked.pop(0))
        questions = self._questions(now)
        used: list[Stake] = []
        if report:
            lists = letters.lists
            used, rest = lists.used[:MOST_REPORTED], lists.used[MOST_REPORTED:]
            lists.used = rest + used
        return letters.write(now, mark, questions, used)

    def _questions(self, now: float) -> list[Question]:
        """Of those that still wait; what their stakes have free goes back, for the authority to judge the whole."""
        asked: list[Question] = []
        for place, question in enumerate(self._queue):
            if len(asked) == MOST_ASKS:
                self._queue = self._queue[place:]
                return asked
            if isinstance(question, Asking):
                if not question.waits:
                    continue
                question.now = now
                for stake, _ in question.stakes():
                    stake.give_up()
            asked.append(question)
        self._queue = []
        return asked

    def leave(self, now: float, mark: str) -> Frame:
        """The last word: all that is free goes back, and what calls still hold."""
        stakes = list(self.letters.stakes.values())
        for stake in stakes:
            stake.give_up()
        return self.letters.write(now, mark, [], stakes, leaves=True)

    def answer(self, reply: Reply, now: float, wall: float) -> bool:
        """Takes the answer to the last frame. False: it has to be said otherwise, with the next one."""
        letters = self.letters
        tick = self._tick = max(self._tick, tick_of(now))
        under_way = letters.flight
        flight = letters.read(reply, now)
        if flight is None:
            assert under_way is not None, "an answer without a frame"
            self._queue[:0] = under_way.questions
            return False
        self.away = False
        answers = reply[5]
        for place, question in enumerate(flight.questions):
            if isinstance(question, Asking):
                self._note(question.lease, answers[place] if place < len(answers) else HELD)
            elif isinstance(question, Ahead):
                question.draw.asking = False
        letters.follow(flight, reply[6], now)
        if self._parts is not None and not letters.held:
            self._parts = None
        for place, question in enumerate(flight.questions):
            if isinstance(question, Asking):
                said = answers[place] if place < len(answers) else HELD
                self._tell(question, said, now, tick, wall)
        if self.news(now):
            self.wake()
        return True

    def _note(self, lease: StoreLease, said: int | list[int]) -> None:
        """What was granted is held, before the levels are looked at."""
        if isinstance(said, list):
            lease.taken = said
            lease.era = self.letters.era
            amounts = lease.amounts
            for (stake, unit), stamp in zip(lease.draw.entries, said, strict=True):
                if stamp != NOT_TAKEN:
                    stake.granted(amounts[unit])

    def _tell(
        self, question: Asking, said: int | list[int], now: float, tick: int, wall: float
    ) -> None:
        lease = question.lease
        if isinstance(said, list):
            self._count(lease)
            if question.waits:
                lease.asking = None
                lease.open = True
                question.applicant.admitted()
            else:
                self.close(lease, now, 0, 0)
        elif not question.waits:
            return
        elif said == PARKED:
            question.asked = min(question.asked, now)
            question.due = now + ASK_AGAIN
            self._parked.append(question)
        elif said == HELD:
            self._resolve(question, wall)
        else:
            self._refuse(question, refusal_of(question, tick))

    def _count(self, lease: StoreLease) -> None:
        """Stamps are the periods' from here on; what only counts, and would have refused, is counted."""
        for place, (stake, _) in enumerate(lease.draw.entries):
            stamp = lease.taken[place]
            if stamp < 0:
                self._count_shadowed(lease.draw.id, limit_of(stake.name))
            if stake.kind >= PERMITS:
                lease.taken[place] = stake.ends

    def _resolve(self, question: Asking, wall: float) -> None:
        """Answers a call that waits, without the authority."""
        lease = question.lease
        try:
            self._decide(lease, question.model, wall)
        except RelayError as error:
            self._refuse(question, error)
            return
        lease.asking = None
        question.applicant.admitted()

    def _refuse(self, question: Asking, error: RelayError) -> None:
        question.lease.asking = None
        self.inflight -= 1
        question.applicant.refused(error)

    def lost(self, now: float, wall: float) -> None:
        """The store is away: whoever waits is answered without it."""
        self._tick = max(self._tick, tick_of(now))
        self.away = True
        waiting = [*self.letters.forget_questions(), *self._parked, *self._queue]
        self._queue, self._parked = [], []
        for question in waiting:
            if isinstance(question, Ahead):
                question.draw.asking = False
            elif isinstance(question, Asking) and question.waits:
                self._resolve(question, wall)

    def back(self, now: float) -> None:
        """The store is about to be asked again: of what was taken of rates only what is in use counts."""
        if self._parts is not None:
            for stake, used in self._parts.rates(tick_of(now)):
                stake.moderate(used)

    def recalled(self, owner: str, name: str, recall: int) -> None:
        """Somebody is short of it: what is free goes back, and nothing is kept until the authority gives more again."""
        stake = self.letters.stakes.get((owner, name))
        if stake is not None:
            stake.seen = recall
            stake.keeps = False
            stake.give_up()
            stake.mark()
            self.wake()

    def beat(self, second: float) -> None:
        """A second, about, is over."""
        lists = self.letters.lists
        lists.used = [stake for stake in lists.used if stake.beat(second)]


def _nothing() -> None:
    pass
