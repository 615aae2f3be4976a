"""Tiers of members and what the strategies pick of them, for the tests of balancing."""

from __future__ import annotations

from itertools import count
from random import Random

import pytest
from hypothesis import strategies as st

from relay.upstream.balance import STRATEGIES, Tier
from relay.upstream.directory import Directory
from relay.upstream.pool import Member

NOW = 100.0

weights_of = st.lists(st.integers(1, 12), min_size=1, max_size=8)

each_strategy = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)

ticks = count(1)


def members(*weights: int, max_concurrent: int | None = None) -> list[Member]:
    """One for each weight, each on an endpoint of its own."""
    known = Directory(None, Random(1))
    return [
        Member(
            known.endpoint(
                upstream=f"u{number}",
                base_url=f"http://host{number}/v1",
                max_concurrent=max_concurrent,
            ),
            "m",
            weight=weight,
        )
        for number, weight in enumerate(weights)
    ]


def away(member: Member, until: float = 1e9) -> None:
    member.endpoint.pause("m", NOW, until - NOW)


def hold(name: str, tier: Tier, count: int, rng: Random) -> list[Member]:
    """Calls that do not end: whom each was given to."""
    found = []
    for _ in range(count):
        member = STRATEGIES[name](tier, NOW, (), b"prefix", rng)
        assert member is not None
        member.begin(NOW)
        found.append(member)
    return found


def home(tier: Tier, prefix: bytes, now: float | None = None) -> Member:
    """Where the strategy `prefix` sends this one."""
    # Each time a moment later: the load of a tier is counted anew.
    now = NOW + next(ticks) if now is None else now
    member = STRATEGIES["prefix"](tier, now, (), prefix, Random(0))
    assert member is not None
    return member
