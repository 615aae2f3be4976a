"""A gate whose authority is another process: it asks, many calls at once, and tells the calls when the answer comes.

It does no I/O: what is to be sent gathers in `asks` and `settled`, `wake` is called when the first of it comes, and
whoever owns the link brings the answers. Rules that hold inside:
- a key without a limit asks nobody;
- a call asks once, and is answered once: granted, refused, or refused for want of an authority after `PATIENCE`;
- a grant that nobody waits for any more is given back;
- the machines of its accounts are copies: they follow what the authority tells with each answer, for the
  `x-ratelimit-*` lines, and can be told to an authority that has to begin anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from relay.admission.authority import Ask, Held, Refusal, error_of
from relay.admission.configured import GroupLike
from relay.admission.gate import Applicant, Gate, Lease, Need
from relay.admission.principals import Principal, Principals
from relay.admission.purse import Purse
from relay.admission.windows import Level
from relay.errors import StoreUnavailable

PATIENCE: Final = 1.0
"""Seconds a call waits for the authority."""

Settlement = tuple[int, int, int]
"""Number, tokens, nano-dollars."""


class RemoteLease(Lease):
    """A lease of another process's gate; not `open` until that one has granted it."""

    __slots__ = ("_remote", "applicant", "asked", "asks", "number", "purse", "waiting")

    def __init__(
        self,
        gate: RemoteGate,
        purse: Purse,
        amounts: tuple[int, int, int, int],
        asks: Ask,
        applicant: Applicant,
        asked: float,
    ) -> None:
        super().__init__(gate, (), amounts, [])
        self.open = False
        self._remote = gate
        self.purse = purse
        self.number = asks[0]
        self.asks = asks
        """What it asks for, to be asked again of another authority."""
        self.applicant = applicant
        self.asked = asked
        """When, seconds."""
        self.waiting = True

    def settle(self, now: float, tokens: int, cost: int) -> None:
        if self.waiting:
            self._remote.withdraw(self)
        elif self.open:
            self.open = False
            self._remote.close(self, max(tokens, 0), max(cost, 0))

    @property
    def amounts(self) -> tuple[int, int, int, int]:
        return self._amounts


class RemoteGate(Gate):
    """Stands in for the authority's gate in a worker. Lives as long as the process."""

    __slots__ = (
        "_held",
        "_number",
        "_told",
        "_waiting",
        "asks",
        "failures",
        "settled",
        "wake",
    )

    def __init__(self, principals: Principals, groups: Mapping[str, GroupLike]) -> None:
        super().__init__(principals, groups)
        self._number = 0
        self._waiting: dict[int, RemoteLease] = {}
        """In the order of their asking."""
        self._held: dict[int, RemoteLease] = {}
        """Granted, and not settled yet."""
        self._told: set[str] = set()
        """Keys whose copies follow the authority."""
        self.asks: list[Ask] = []
        self.settled: list[Settlement] = []
        self.failures = 0
        """Calls that got no answer."""
        self.wake: Callable[[], None] = _nothing
        """Something is to be sent."""

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
        assert applicant is not None, "the answer comes later"
        self._number = number = self._number + 1
        amounts = need.amounts
        ask = (number, principal.id, model, amounts[1], amounts[2], amounts[3])
        lease = RemoteLease(self, purse, amounts, ask, applicant, now)
        self._waiting[number] = lease
        self.inflight += 1
        self.asks.append(ask)
        self.wake()
        return lease

    def iter_ratios(
        self, now: float, wall: float | None = None
    ) -> Iterator[tuple[str, str, float]]:
        """Nothing: the authority knows."""
        return iter(())

    # -- what becomes of a lease here --

    def withdraw(self, lease: RemoteLease) -> None:
        """Nobody waits any more: what is granted shall be free for the next one at once."""
        if self._answered(lease.number) is not None:
            self.settled.append((lease.number, 0, 0))
            self.wake()

    def _answered(self, number: int) -> RemoteLease | None:
        """Takes a lease out of those that wait; None for one that does not."""
        lease = self._waiting.pop(number, None)
        if lease is not None:
            lease.waiting = False
            self.inflight -= 1
        return lease

    def close(self, lease: RemoteLease, tokens: int, cost: int) -> None:
        self.inflight -= 1
        self._held.pop(lease.number, None)
        self.settled.append((lease.number, tokens, cost))
        amounts, actual = lease.amounts, (1, tokens, tokens, cost)
        for machine, unit in lease.purse.entries:
            machine.shift(amounts[unit], actual[unit])
        self.wake()

    # -- what the authority says --

    def granted(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            lease = self._answered(number)
            if lease is None:
                # It was withdrawn before it was asked for.
                self.settled.append((number, 0, 0))
                self.wake()
                continue
            self.inflight += 1
            lease.open = True
            self._held[number] = lease
            lease.applicant.admitted()

    def refused(self, refusals: Sequence[Refusal]) -> None:
        for refusal in refusals:
            lease = self._answered(refusal[0])
            if lease is not None:
                lease.applicant.refused(error_of(refusal))

    def follow(self, levels: Mapping[str, Sequence[Level]]) -> None:
        """What is used of the limits of these keys."""
        for key, told in levels.items():
            principal = self._principals.of_id(key)
            if principal is not None:
                self._told.add(key)
                for (_, _, machine, _), level in zip(
                    self.purse(principal).machines, told, strict=False
                ):
                    machine.follow(level)

    # -- what whoever owns the link asks --

    def expire(self, now: float) -> None:
        """Refuses the calls that have waited too long."""
        for lease in list(self._waiting.values()):
            if now < lease.asked + PATIENCE:
                break
            self.failures += 1
            self.withdraw(lease)
            lease.applicant.refused(StoreUnavailable())

    def take(self) -> tuple[list[Ask], list[Settlement]]:
        """What is to be sent, once."""
        asks, settled = self.asks, self.settled
        self.asks, self.settled = [], []
        return asks, settled

    def restate(self) -> tuple[list[Held], dict[str, list[Level]]]:
        """What an authority that begins anew must know: all that is held, and the last levels told.

        Calls that wait ask again. Settlements that were not sent are in the levels.
        """
        self.settled = []
        levels = {}
        for key in self._told:
            principal = self._principals.of_id(key)
            if principal is not None:
                levels[key] = self.levels(principal)
        self.asks = [lease.asks for lease in self._waiting.values()]
        return [lease.asks for lease in self._held.values()], levels

    @property
    def waiting(self) -> int:
        """Calls without an answer."""
        return len(self._waiting)


def _nothing() -> None:
    pass
