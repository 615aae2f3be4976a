"""What is asked of an authority in a store: by calls, each for the lease that it waits for, and ahead of calls."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import TYPE_CHECKING, Final

from relay.admission.away import Taken
from relay.admission.gate import Applicant, Lease
from relay.admission.letters import Question
from relay.admission.purse import Purse
from relay.admission.refusals import refuse
from relay.admission.stakes import Batch, Stake
from relay.errors import RelayError, StoreUnavailable

if TYPE_CHECKING:
    from relay.admission.store import StoreGate

RECALL: Final = 0.05
"""Seconds that others have to give back what they do not use."""

_NOTHING: Final[list[int]] = []


class Draw:
    """The stakes that calls of one purse draw on. Lives as long as the purse."""

    __slots__ = ("asking", "entries", "id", "purse", "sliced")

    def __init__(self, id: str, purse: Purse, stakes: list[Stake]) -> None:
        self.id = id
        self.purse = purse
        self.entries = tuple(
            (stake, unit) for stake, (_, unit) in zip(stakes, purse.entries, strict=True)
        )
        """In the order of the purse."""
        self.sliced = not any(machine.shadow for machine, _ in purse.entries)
        """Calls may be admitted here alone. Where a limit only counts, the authority has to say what it would do."""
        self.asking = False
        """It asks ahead for more."""


class Ahead(Question):
    """Asks for more before it is needed."""

    __slots__ = ("draw",)

    def __init__(self, draw: Draw) -> None:
        self.draw = draw

    def stakes(self) -> Iterable[tuple[Stake, int]]:
        return [(stake, 0) for stake, _ in self.draw.entries]

    def wants(self) -> bool:
        return True

    def waited(self) -> bool:
        return True


class StoreLease(Lease):
    """A lease that the store has granted, or will; not `open` until then."""

    __slots__ = ("asking", "batches", "draw", "era", "gate", "parts", "taken")

    def __init__(self, gate: StoreGate, draw: Draw, amounts: tuple[int, int, int, int]) -> None:
        super().__init__(gate, (), amounts, _NOTHING)
        self.open = False
        self.gate = gate
        self.draw = draw
        self.asking: Asking | None = None
        """It waits for an answer."""
        self.taken: list[int] = _NOTHING
        """The stamps of its stakes."""
        self.batches: list[Batch] | None = None
        """Of the stakes that refund, where it was admitted here."""
        self.era = 0
        """Of the numbers of its takes."""
        self.parts: Taken | None = None
        """Where it was admitted while the store was away."""

    def settle(self, now: float, tokens: int, cost: int) -> None:
        if self.asking is not None:
            self.asking = None
            self.gate.inflight -= 1
        elif self.open:
            self.open = False
            self.gate.inflight -= 1
            self.gate.close(self, now, max(tokens, 0), max(cost, 0))

    def forfeit(self, now: float) -> None:
        raise NotImplementedError("an authority's")

    @property
    def amounts(self) -> tuple[int, int, int, int]:
        return self._amounts


class Asking(Question):
    """The question of a call. If it has gone when its grant comes, that is given back."""

    __slots__ = ("applicant", "asked", "due", "lease", "model", "now")

    def __init__(self, lease: StoreLease, model: str, applicant: Applicant) -> None:
        self.lease = lease
        self.model = model
        self.applicant = applicant
        self.asked = inf
        """When others were first called to give back, seconds,"""
        self.due = 0.0
        """and when to ask again."""
        self.now = 0.0

    @property
    def waits(self) -> bool:
        return self.lease.asking is self

    def stakes(self) -> Iterable[tuple[Stake, int]]:
        lease = self.lease
        amounts = lease.amounts
        return [(stake, amounts[unit]) for stake, unit in lease.draw.entries]

    def wants(self) -> bool:
        return self.lease.draw.sliced

    def waited(self) -> bool:
        return self.now >= self.asked + RECALL


def refusal_of(question: Asking, tick: int) -> RelayError:
    """The authority has refused: the copies of its machines say by which limit."""
    lease = question.lease
    named = list(lease.draw.purse.named())
    amounts = lease.amounts
    if not any(m.lacks(amounts[unit], tick, 0.0) and not m.shadow for _, _, m, unit in named):
        # A clock that was set, or a limit that a reload has changed meanwhile.
        return StoreUnavailable()
    try:
        refuse(named, question.model, amounts, tick, 0.0)
    except RelayError as error:
        return error
