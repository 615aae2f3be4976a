"""Pools, and what keeps a member of one from being used, for the tests of picking."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from relay.upstream import failures
from relay.upstream.directory import Directory
from relay.upstream.failures import Effect, Failure, Verdict
from relay.upstream.pool import Member, Pool
from tests.endpoints import failing

NOW = 100.0
RNG = Random(5)


def member(
    directory: Directory, name: str, tier: int = 0, weight: int = 1, limit: int | None = None
) -> Member:
    at = directory.endpoint(
        upstream=name, base_url=f"http://{name}/v1", credential=f"key-of-{name}-0123456789"
    )
    at.max_concurrent = limit
    at.ceiling = at.ceiling if limit is None else limit
    return Member(at, "m", tier=tier, weight=weight)


def three(*tiers: int, strategy: str = "least_inflight") -> tuple[Pool, list[Member]]:
    """A pool of three in one tier, or of one member for each tier given."""
    known = Directory(None, Random(1))
    found = [member(known, f"u{n}", tier) for n, tier in enumerate(tiers or (0, 0, 0))]
    return Pool(found, strategy), found


def lone() -> tuple[Pool, Member]:
    """A pool of one."""
    only = member(Directory(None, Random(1)), "u", limit=2)
    return Pool([only]), only


def pick(pool: Pool, now: float = NOW, tried: tuple[Member, ...] = ()) -> Member | None:
    return pool.pick(now, tried, None, RNG)


def served(pool: Pool, now: float = NOW) -> set[Member | None]:
    """Who gets calls, of many."""
    return {pick(pool, now) for _ in range(60)}


def end(at: Member, failure: Failure | None, now: float = NOW) -> None:
    """An attempt that ends so."""
    ticket = at.begin(now)
    at.end(now, Verdict.OK if failure is None else failure.verdict, failure, ticket)


def eject(at: Member, now: float = NOW) -> None:
    for _ in range(5):
        end(at, failures.connect_refused(), now)


def park(at: Member, now: float = NOW) -> None:
    end(at, failing(Effect.PARK_CREDENTIAL), now)


def pause(at: Member, wait: float, now: float = NOW) -> None:
    end(at, failing(Effect.PAUSE, wait), now)


def hold(at: Member, wait: float, now: float = NOW) -> None:
    end(at, failing(Effect.HOLD, wait), now)


def fill(at: Member) -> None:
    at.endpoint.ceiling = at.endpoint.account.inflight


def lose_model(at: Member, now: float = NOW) -> None:
    end(at, failing(Effect.MODEL_ABSENT), now)


OBSTACLES: dict[str, Callable[[Member], None]] = {
    "ejected": eject,
    "held": lambda at: hold(at, 30.0),
    "paused": lambda at: pause(at, 30.0),
    "parked": park,
    "full": fill,
    "without the model": lose_model,
}
