"""How one member of a tier is picked: a strategy is a function and a row in `STRATEGIES`.

A strategy is given members whose weights are above zero and returns one that is usable now and was not tried by this
call, or None. Rules that hold here:
- `weight` is the share of traffic; a member that cannot take its turn leaves it to the others in their proportion;
- what is drawn is looked at first and the whole tier only when that does not do, so that a pick costs the same for two
  members as for two hundred; `prefix` remembers who comes first, and how much the tier has to do;
- the weight of a member that was left alone and came back grows from a tenth to the whole in ten seconds. Only then is
  it looked at closely (`steady` says no), and it is not preferred for being idle. The only one left takes all.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Collection, Sequence
from hashlib import blake2b
from heapq import heapify, heapreplace, nsmallest
from itertools import accumulate
from math import ceil, inf, lcm, log
from random import Random
from typing import TYPE_CHECKING, Final

from relay.upstream.breaker import FIRST_PART, RAMP

if TYPE_CHECKING:
    from relay.upstream.pool import Member

EXPLORE: Final = 0.05
"""Share of `fastest` picks that ignore the averages, so that a member that was slow once is measured again."""
BOUND: Final = 1.25
"""`prefix`: a member takes up to this times its share of the load before calls go elsewhere."""

PLACES: Final = 2**15
"""`prefix`: prefixes that differ share one of so many places; of 200 members each has the first rank at about 160."""
RANKED: Final = 4
"""Members remembered for a place. Only if none of them will do, all are asked."""
COUNTED: Final = 0.01
"""Seconds for which the load of a tier is not counted anew; what is picked meanwhile is added."""

FINE: Final = 1000
"""Parts of a weight that are told apart while it grows."""

_64_BITS = 2**64 - 1


def part(member: Member, now: float) -> float:
    """How much of its weight counts, up to 1."""
    back = now - member.endpoint.ramp_from
    if back >= RAMP:
        return 1.0
    return FIRST_PART + (1.0 - FIRST_PART) * back / RAMP if back > 0 else FIRST_PART


class Draw:
    """Draws members by weight. Immutable."""

    __slots__ = ("_bounds", "_even", "_total", "_weights", "members")

    def __init__(self, members: Sequence[Member], weights: Sequence[int] | None = None) -> None:
        """`weights` are other ones than those of the configuration."""
        self.members = members
        if weights is None:
            weights = [member.weight for member in members]
        self._weights = weights
        self._even = len(set(weights)) <= 1
        self._bounds = list(accumulate(weights))
        self._total = self._bounds[-1] if weights else 0

    def two(self, rng: Random) -> tuple[Member, Member]:
        """Two different members (one twice if there is only one), the first with its share as its chance."""
        members = self.members
        count = len(members)
        if count == 1:
            return members[0], members[0]
        if self._even:
            first = int(rng.random() * count)
            second = int(rng.random() * (count - 1))
            return members[first], members[second + 1 if second >= first else second]
        bounds = self._bounds
        first = bisect(bounds, int(rng.random() * self._total))
        # The second is drawn from the line of weights with the first's part cut out.
        weight = self._weights[first]
        place = int(rng.random() * (self._total - weight))
        second = bisect(bounds, place if place < bounds[first] - weight else place + weight)
        return members[first], members[second]


_Turn = tuple[int, int, int, "Member"]
"""(place, order among equals, distance to the next, whose)."""


class Tier:
    """The members of one tier of a pool. Remembers whose turn it is; lives as long as its snapshot."""

    __slots__ = ("_counted_at", "_load", "_ranks", "_weight", "draw", "members", "turns")

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = tuple(members)
        self.draw = Draw(self.members)
        circle = 2 * lcm(*(member.weight for member in self.members))
        self.turns: list[_Turn] = [
            (circle // member.weight // 2, order, circle // member.weight, member)
            for order, member in enumerate(self.members)
        ]
        """A heap: in every circle each member has as many turns as its weight, evenly spread."""
        heapify(self.turns)
        self._ranks: dict[int, tuple[Member, ...]] = {}
        self._counted_at = -inf
        self._load = 0
        self._weight = 0.0
        """Of the members that can be used."""

    def usable(self, now: float, tried: Collection[Member]) -> list[Member]:
        return [m for m in self.members if m not in tried and m.usable(now)]

    def two(
        self, now: float, tried: Collection[Member], rng: Random
    ) -> tuple[Member, Member] | None:
        """Two drawn by weight among those that can be used."""
        pair = self.draw.two(rng)
        if not tried and pair[0].steady(now) and pair[1].steady(now):
            return pair
        return self._two_of_some(now, tried, rng, pair)

    def _two_of_some(
        self, now: float, tried: Collection[Member], rng: Random, pair: tuple[Member, Member]
    ) -> tuple[Member, Member] | None:
        """The same where one of the pair is away, or coming back: as the first it is passed over in part, and as the
        second left out, for that it is idle or was quick before says nothing."""
        first, second = pair
        if tried or not (first.usable(now) and second.usable(now)):
            left = self.usable(now, tried)
            if not left:
                return None
            first, second = Draw(left).two(rng)
        grown = part(first, now)
        if grown < 1.0 and rng.random() >= grown:
            first, second = self.as_grown(now, tried, rng)
        return first, first if part(second, now) < 1.0 else second

    def as_grown(self, now: float, tried: Collection[Member], rng: Random) -> tuple[Member, Member]:
        """Two drawn by what counts of their weights, when somebody who comes back has declined. Some must be usable."""
        left = self.usable(now, tried)
        weights = [ceil(member.weight * FINE * part(member, now)) for member in left]
        return Draw(left, weights).two(rng)

    def ranked(self, place: int) -> tuple[Member, ...]:
        """The first members for a place, by rendezvous hashing."""
        ranks = self._ranks.get(place)
        if ranks is None:
            ranks = tuple(nsmallest(RANKED, self.members, key=lambda m: _distance(place, m)))
            self._ranks[place] = ranks
        return ranks

    def fair_share(self, now: float) -> float:
        """Calls for each unit of weight if all members that can be used had their part, with the one to come."""
        if not 0 <= now - self._counted_at < COUNTED:
            load, weight = 0, 0.0
            for member in self.members:
                if member.steady(now):
                    weight += member.weight
                elif member.usable(now):
                    weight += member.weight * part(member, now)
                else:
                    continue
                load += member.endpoint.inflight
            self._load, self._weight = load, weight
            self._counted_at = now
        self._load += 1
        return self._load / self._weight if self._weight else 0.0


Strategy = Callable[[Tier, float, Collection["Member"], bytes | None, Random], "Member | None"]
"""(tier, now, tried, prefix, rng)"""


def weighted(
    tier: Tier, now: float, tried: Collection[Member], prefix: bytes | None, rng: Random
) -> Member | None:
    """Smooth round robin: exact shares in every circle, without clumps."""
    turns = tier.turns
    if not tried:
        # Whoever is first and cannot be used has had its turn.
        for _ in turns:
            place, order, distance, member = turns[0]
            heapreplace(turns, (place + distance, order, distance, member))
            if member.steady(now):
                return member
            if member.usable(now):
                grown = part(member, now)
                declined = grown < 1.0 and rng.random() >= grown
                return tier.as_grown(now, tried, rng)[0] if declined else member
    return _turn_of(tier, tier.usable(now, tried), tried)


def _turn_of(tier: Tier, usable: list[Member], tried: Collection[Member]) -> Member | None:
    """The turn of the first of `usable`, out of order; those of the unusable before it are over, too."""
    if not usable:
        return None
    able = set(usable)
    chosen = min(turn for turn in tier.turns if turn[3] in able)
    moved = []
    for place, order, distance, member in tier.turns:
        behind = chosen[0] - place
        if member is chosen[3]:
            place += distance
        elif behind > 0 and member not in able and member not in tried:
            # None of them may come back with a heap of turns saved up.
            place += distance * (behind // distance + 1)
        moved.append((place, order, distance, member))
    heapify(moved)
    tier.turns = moved
    return chosen[3]


def least_inflight(
    tier: Tier, now: float, tried: Collection[Member], prefix: bytes | None, rng: Random
) -> Member | None:
    """The less loaded, by weight, of two drawn; equally loaded ones by weight alone."""
    pair = tier.two(now, tried, rng)
    if pair is None:
        return None
    first, second = pair
    if second.endpoint.inflight * first.weight < first.endpoint.inflight * second.weight:
        return second
    return first


def fastest(
    tier: Tier, now: float, tried: Collection[Member], prefix: bytes | None, rng: Random
) -> Member | None:
    """The one with the lower TTFT average of two drawn; one that was never measured is measured first."""
    pair = tier.two(now, tried, rng)
    if pair is None:
        return None
    first, second = pair
    if second.endpoint.ttft < first.endpoint.ttft and rng.random() >= EXPLORE:
        return second
    return first


def by_prefix(
    tier: Tier, now: float, tried: Collection[Member], prefix: bytes | None, rng: Random
) -> Member | None:
    """Rendezvous hashing with bounded loads: equal prefixes meet at one member, whose cache knows them.

    A prefix keeps its place: a detour around a member that is loaded, away or tried ends when the reason does.
    """
    if prefix is None:
        return least_inflight(tier, now, tried, None, rng)
    place = int.from_bytes(blake2b(prefix, digest_size=8).digest(), "big") % PLACES
    share = BOUND * tier.fair_share(now)
    for member in tier.ranked(place):
        room = member.endpoint.inflight < ceil(share * member.weight)
        if not room or member in tried:
            continue
        if member.steady(now) or (member.usable(now) and _at_home(place, member, now)):
            return member
    left = tier.usable(now, tried)
    left = [m for m in left if _at_home(place, m, now)] or left
    # Not all can be at their bound, for together the bounds exceed the load; but it was counted a moment ago.
    within = [m for m in left if m.endpoint.inflight < ceil(share * m.weight)]
    return min(within or left, key=lambda member: _distance(place, member), default=None)


def _at_home(place: int, member: Member, now: float) -> bool:
    """Of the places of a member that comes back more and more are its own again; each moves once."""
    mixed = _mixed(place + PLACES, member)
    return mixed < part(member, now) * 2.0**64


def _distance(place: int, member: Member) -> float:
    """An exponentially distributed number with the weight as its rate: the least of them is chosen by weight."""
    return -log((_mixed(place, member) + 1) / 2**64) / member.weight


def _mixed(place: int, member: Member) -> int:
    """64 bits by the finaliser of SplitMix64; the hash of a tuple is no mixer, that of bytes differs by process."""
    mixed = place ^ member.endpoint.seed
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58_476D_1CE4_E5B9) & _64_BITS
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D0_49BB_1331_11EB) & _64_BITS
    return mixed ^ (mixed >> 31)


STRATEGIES: dict[str, Strategy] = {
    "weighted": weighted,
    "least_inflight": least_inflight,
    "fastest": fastest,
    "prefix": by_prefix,
}
