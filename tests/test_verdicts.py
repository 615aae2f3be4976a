"""The verdict on an endpoint follows from what a failure is a sign of."""

from __future__ import annotations

import pytest

from relay.errors import UpstreamFailed
from relay.upstream.verdicts import Effect, Failure, Retry, Verdict


@pytest.mark.parametrize(
    ("effect", "verdict"),
    [
        (Effect.STRIKE, Verdict.FAILED),
        (Effect.HOLD, Verdict.FAILED),
        (Effect.PAUSE, Verdict.OVERLOADED),
        (Effect.NONE, Verdict.NONE),
        (Effect.PARK_CREDENTIAL, Verdict.NONE),
        (Effect.PARK_ACCOUNT, Verdict.NONE),
        (Effect.FORBIDDEN, Verdict.NONE),
        (Effect.MODEL_ABSENT, Verdict.NONE),
    ],
)
def test_strikes_fail_pauses_overload_and_the_rest_judges_nobody(
    effect: Effect, verdict: Verdict
) -> None:
    failure = Failure("label", Retry.FREE, effect, UpstreamFailed())

    assert failure.verdict is verdict


def test_a_failure_shows_its_label_and_not_its_error() -> None:
    failure = Failure("label", Retry.FREE, Effect.STRIKE, UpstreamFailed("words"))

    assert repr(failure) == "<Failure label free strike>"
