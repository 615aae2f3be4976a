"""What the end of an attempt can mean: the words in which failures, breaker and endpoints talk to each other."""

from __future__ import annotations

import enum

from relay.errors import RelayError

OK = "ok"
CANCELLED = "cancelled"
"""The results of attempts that are no failures; `cancelled`: the client left, or another attempt won."""


class Retry(enum.Enum):
    """Whether another member may be tried: a property of the failure, not of the request."""

    FREE = "free"
    """The upstream cannot have worked on it."""
    PAID = "paid"
    """It may have cost money: a further try needs the retry budget."""
    NEVER = "never"


class Effect(enum.Enum):
    """What a failure does to what we remember."""

    NONE = "none"
    STRIKE = "strike"
    """The endpoint's breaker counts it."""
    HOLD = "hold"
    """A strike, and the endpoint asked to be left alone for `wait`."""
    PAUSE = "pause"
    """The account's use of this model rests for `wait`; no strike."""
    PARK_CREDENTIAL = "park_credential"
    PARK_ACCOUNT = "park_account"
    FORBIDDEN = "forbidden"
    """A 403 that may be this one call's: only a row of them parks the credential."""
    MODEL_ABSENT = "model_absent"
    OUTRUN = "outrun"
    """Silent until a hedge that began later had brought a token: a row of them, with no token between, ejects."""


class Verdict(enum.Enum):
    """What the end of an attempt says about its endpoint; given once."""

    OK = "ok"
    FAILED = "failed"
    OVERLOADED = "overloaded"
    OUTRUN = "outrun"
    NONE = "none"


_VERDICTS = {
    Effect.STRIKE: Verdict.FAILED,
    Effect.HOLD: Verdict.FAILED,
    Effect.PAUSE: Verdict.OVERLOADED,
    Effect.OUTRUN: Verdict.OUTRUN,
}


class Failure:
    """How one attempt failed. Dies with its call."""

    __slots__ = ("effect", "error", "result", "retry", "wait")

    def __init__(
        self,
        result: str,
        retry: Retry,
        effect: Effect,
        error: RelayError,
        wait: float | None = None,
    ) -> None:
        self.result = result
        """The label of `relay_upstream_attempts_total`."""
        self.retry = retry
        self.effect = effect
        self.error = error
        """What the client gets if no other member can answer."""
        self.wait = wait
        """Seconds, clamped: how long the upstream wants to be left alone."""

    @property
    def verdict(self) -> Verdict:
        return _VERDICTS.get(self.effect, Verdict.NONE)

    def __repr__(self) -> str:
        return f"<Failure {self.result} {self.retry.value} {self.effect.value}>"
