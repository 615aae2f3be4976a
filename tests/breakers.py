"""A breaker whose jitter and tickets a test holds."""

from __future__ import annotations

from random import Random

from relay.upstream.breaker import Breaker, State


class Fixed(Random):
    """Draws always the same."""

    def __init__(self, drawn: float) -> None:
        super().__init__()
        self._drawn = drawn

    def random(self) -> float:
        return self._drawn


class Rig:
    """A breaker and the tickets of its attempts, as an endpoint gives them out."""

    def __init__(self, drawn: float = 0.0) -> None:
        self.breaker = Breaker(Fixed(drawn))
        self.latest = 0

    def begin(self, now: float) -> int:
        self.latest += 1
        self.breaker.begin(now, self.latest)
        return self.latest

    def succeed(self, now: float, ticket: int | None = None) -> bool:
        return self.breaker.succeeded(now, ticket or self.begin(now), self.latest)

    def fail(self, now: float, ticket: int | None = None) -> bool:
        return self.breaker.failed(now, ticket or self.begin(now), self.latest)

    def throttle(self, now: float, ticket: int | None = None) -> bool:
        return self.breaker.throttled(now, ticket or self.begin(now), self.latest)

    def finish(self, action: str, now: float, ticket: int) -> None:
        if action == "ok":
            self.succeed(now, ticket)
        elif action == "fail":
            self.fail(now, ticket)
        elif action == "throttle":
            self.throttle(now, ticket)
        else:
            self.breaker.given_back(now, ticket)

    def trip(self, now: float = 0.0) -> None:
        for _ in range(5):
            self.fail(now)
        assert self.breaker.state is State.OPEN
