"""Endpoints, their attempts and failures, and a listener, for the tests of what is remembered of them."""

from __future__ import annotations

from random import Random

from relay.errors import NoUpstream
from relay.upstream.directory import Directory
from relay.upstream.endpoint import Endpoint
from relay.upstream.failures import Effect, Failure, Retry, Verdict, connect_refused

URL = "http://127.0.0.1:8000/v1"
KEY = "sk-live-Zq8Kw2Lm5Xr7Tb9Np3Vc6Yd1"
OK, OVERLOADED, NONE = Verdict.OK, Verdict.OVERLOADED, Verdict.NONE


class Told:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.states: list[tuple[str, str]] = []
        self.reasons: list[str] = []

    def __call__(self, endpoint: Endpoint, state: str, reason: str) -> None:
        self.states.append((endpoint.label, state))
        self.reasons.append(reason)


def directory(told: Told | None = None) -> Directory:
    return Directory(told, Random(1))


def endpoint(told: Told | None = None) -> Endpoint:
    return directory(told).endpoint(upstream="deepseek", base_url=URL, credential=KEY)


def failing(effect: Effect, wait: float | None = None) -> Failure:
    """Of which nothing but its effect counts."""
    return Failure("label", Retry.FREE, effect, NoUpstream(), wait)


def attempt(at: Endpoint, now: float, failure: Failure | None = None) -> None:
    """One that begins and ends now, well or with this failure."""
    ticket = at.begin(now)
    at.end(now, OK if failure is None else failure.verdict, failure, ticket)


def trip(at: Endpoint, now: float = 0.0) -> None:
    """So many failures in a row that its breaker opens."""
    for _ in range(5):
        attempt(at, now, connect_refused())
