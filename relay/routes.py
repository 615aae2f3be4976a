"""The models that clients may ask for, compiled: what answers each, and by which rules."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Final

from relay.config.model import Config, ModelConfig, PoolEntry
from relay.pricing import Price
from relay.upstream.endpoint import Endpoint
from relay.upstream.percentile import Silences
from relay.upstream.pool import Member, Pool

FIRST_RATIO: Final = 0.25
"""Tokens a byte of a prompt, before any answer taught better."""
LEARNING: Final = 0.05
"""Weight of one report in the learnt ratio, once there were so many that their mean says less than the latest."""


class RouteMemory:
    """What a model's traffic taught. Lives as long as the process."""

    __slots__ = ("budget_empty", "hedges", "ratio", "reports", "resumes", "waste")

    def __init__(self) -> None:
        self.ratio = FIRST_RATIO
        """Tokens a byte of a prompt."""
        self.reports = 0
        """That taught it."""
        self.budget_empty = 0
        """Retries that the budget refused."""
        self.hedges: dict[str, int] = {}
        """Hedges by outcome."""
        self.resumes: dict[str, int] = {}
        """Streams that broke, and were continued elsewhere or could not be: by outcome."""
        self.waste: dict[str, int] = {}
        """By upstream: tokens of prompts whose attempt was overtaken."""

    def hedged(self, outcome: str) -> None:
        self.hedges[outcome] = self.hedges.get(outcome, 0) + 1

    def resumed(self, outcome: str) -> None:
        self.resumes[outcome] = self.resumes.get(outcome, 0) + 1

    def wasted(self, upstream: str, tokens: int) -> None:
        self.waste[upstream] = self.waste.get(upstream, 0) + tokens


class Route:
    """A model name that clients may ask for, and what answers it: a pool or a static text."""

    __slots__ = (
        "attempts",
        "beats_early",
        "by_prefix",
        "fallbacks",
        "first_token",
        "heartbeat",
        "hedge_after",
        "hedged",
        "image_tokens",
        "max_output",
        "memory",
        "name",
        "pool",
        "prices",
        "resume",
        "static",
        "unpriced",
    )

    def __init__(self, name: str, config: ModelConfig, pool: Pool, memory: RouteMemory) -> None:
        self.name = name
        self.pool = pool
        self.static = config.static
        self.attempts = config.retry.attempts
        self.first_token = config.first_token
        self.by_prefix = config.strategy == "prefix"
        self.max_output = config.max_output
        self.image_tokens = config.image_tokens
        self.heartbeat = config.heartbeat.interval or inf
        self.beats_early = config.heartbeat.before_commit and config.heartbeat.interval > 0
        """Signs of life are sent before the commit, too."""
        hedge = config.hedge
        self.hedged = hedge is not None
        after = 0.0 if hedge is None or hedge.after == "p95" else float(hedge.after)
        self.hedge_after = after
        """Seconds of silence; 0 for the endpoint's own 95th percentile."""
        self.resume = config.resume
        """How a stream that broke is continued, if at all."""
        costly = [member for member in pool.members if not member.endpoint.demo]
        self.unpriced = any(member.price is None for member in costly)
        """A member costs somebody something, and nobody has said what."""
        self.prices: tuple[Price, ...] = ()
        """Of its members and those of its fallbacks: the dearest is what a call may come to."""
        self.fallbacks: tuple[Route, ...] = ()
        self.memory = memory

    def available(self, now: float) -> bool:
        """Whether somebody is expected to answer: of its own pool, or of a fallback's. A fixed text counts where it is
        all that the model is; as the last resort of another it is no answer."""
        if self.static is not None:
            return True
        return self.pool.staffed(now) or any(other.pool.staffed(now) for other in self.fallbacks)

    def learn(self, bound: int, tokens: int) -> None:
        """A report said how many tokens a prompt of `bound` bytes really had."""
        if bound > 0 and tokens > 0:
            memory = self.memory
            memory.reports += 1
            weight = max(LEARNING, 1 / memory.reports)
            memory.ratio += weight * ((tokens / bound if tokens < bound else 1.0) - memory.ratio)


def routes_of(
    config: Config, memories: dict[str, RouteMemory], endpoints: dict[str, list[Endpoint]]
) -> dict[str, Route]:
    """Every model's route over these endpoints; what is remembered of a model is found in `memories`, or put there."""
    routes: dict[str, Route] = {}
    for name, model in config.models.items():
        members = [
            Member(
                endpoint,
                entry.model or name,
                tier=entry.tier,
                weight=entry.weight,
                price=None if endpoint.demo else price,
            )
            for entry, price in _priced(model)
            for endpoint in endpoints.get(entry.upstream, ())
        ]
        hedge = model.hedge
        if hedge is not None and hedge.after == "p95":
            for member in members:
                member.endpoint.silences = member.endpoint.silences or Silences()
        pool = Pool(
            members,
            strategy=model.strategy,
            budget=model.retry.budget,
            hedges=None if hedge is None else hedge.budget,
        )
        remembered = memories.setdefault(name, RouteMemory())
        routes[name] = Route(name, model, pool, remembered)
    for name, model in config.models.items():
        route = routes[name]
        route.fallbacks = tuple(routes[other] for other in model.fallback)
        served = (member for each in (route, *route.fallbacks) for member in each.pool.members)
        prices = dict.fromkeys(member.price for member in served)
        route.prices = tuple(price for price in prices if price is not None)
    return routes


def _priced(model: ModelConfig) -> Iterator[tuple[PoolEntry, Price | None]]:
    """The pool with what each costs; the demo's answers cost nobody anything."""
    usual = None if model.price is None else Price.of(model.price)
    for entry in model.pool:
        yield entry, usual if entry.price is None else Price.of(entry.price)
