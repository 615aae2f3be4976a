"""What goes wrong in `make observe`, one after the other and beside each other, and which alerts must come of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.observe import stage
from tests.observe.stage import LARGE, SMALL, Act

Subject = tuple[str, str]
"""An alert, and what it is about: the name of an upstream, model, key, store or relay; "" for all relays."""


@dataclass(frozen=True)
class Fault:
    """`must` come of it, each about its subject; `may` is what a slow machine adds."""

    what: str
    begins: float
    ends: float
    """Seconds from the start of the traffic."""
    begin: Act
    end: Act
    must: tuple[Subject, ...]
    may: tuple[Subject, ...] = ()


FIRST = 12.0
"""Seconds in which nothing is wrong, and nothing may fire but what stands in the configuration."""
CALM = 25.0
"""Until then one upstream is slow and one key is near its limit, and nothing else is wrong."""
HEALED = 85.0
END = 120.0

STARVED: tuple[Subject, ...] = tuple(
    (alert, relay)
    for alert in ("EventLoopLag", "OverheadHigh", "RelayOverloaded")
    for relay in (LARGE, SMALL)
)
"""What a machine adds that has other work as well: then they are true at any time."""

STANDING: tuple[Subject, ...] = (("KeyExpiresSoon", "trial"),)

FAULTS: tuple[Fault, ...] = (
    Fault(
        "the provider main is killed",
        CALM,
        HEALED,
        stage.kill,
        stage.raise_again,
        (("UpstreamDown", "main"),),
    ),
    Fault(
        "paced answers 429",
        *(CALM, HEALED, stage.mood("paced", "throttling"), stage.mood("paced", "well")),
        (("UpstreamThrottled", "paced"),),
    ),
    Fault(
        "locked rejects our key",
        *(CALM, HEALED, stage.mood("locked", "rejecting"), stage.mood("locked", "well")),
        (("UpstreamCredentialRejected", "locked"), ("ModelUnavailable", "sealed")),
        # Seconds of a few calls a minute, in which all fail.
        (("ErrorBudgetBurn", "sealed"),),
    ),
    Fault(
        "fragile hangs up on one stream in ten",
        *(CALM, HEALED, stage.mood("fragile", "brittle"), stage.mood("fragile", "well")),
        (("StreamsTruncated", "fragile"), ("ErrorBudgetBurn", "fragile")),
    ),
    Fault(
        "thinker takes a second to its first token",
        *(FIRST, HEALED, stage.mood("thinker", "slow"), stage.mood("thinker", "well")),
        (("FirstTokenBudgetBurn", "thinker"),),
    ),
    Fault(
        "more callers come than narrow has places",
        *(CALM, HEALED, stage.crowd, stage.disperse),
        (("QueueSaturated", "narrow"), ("FirstTokenBudgetBurn", "narrow")),
        # Who would wait too long is refused.
        (("ErrorBudgetBurn", "narrow"),),
    ),
    Fault(
        "unlucky fails one call in seven, and retries are used up",
        *(CALM, HEALED, stage.mood("unlucky", "flaky"), stage.mood("unlucky", "well")),
        (("RetryBudgetEmpty", "unlucky"), ("ErrorBudgetBurn", "unlucky")),
        # Two in five are enough for its breaker.
        (("UpstreamDown", "unlucky"), ("ModelUnavailable", "unlucky")),
    ),
    Fault(
        "lost fails whatever it is asked, and another model answers",
        *(CALM, HEALED, stage.mood("lost", "failing"), stage.mood("lost", "well")),
        (("FallbackServing", "lost"), ("UpstreamDown", "lost")),
    ),
    Fault(
        "the key spender uses up its day",
        *(FIRST, HEALED, stage.spend, stage.nothing),
        (("KeyBudgetNearlySpent", "spender"),),
    ),
    Fault(
        "somebody saves a configuration that is wrong",
        *(CALM, HEALED, stage.misconfigure, stage.configure),
        (("ReloadFailed", LARGE),),
    ),
    Fault(
        "another program locks the database",
        *(CALM + 10, CALM + 35, stage.lock, stage.unlock),
        (("QuotaStoreDegraded", "sqlite"),),
        # Keys with a budget are refused meanwhile.
        (("ErrorBudgetBurn", "chat"),),
    ),
    Fault(
        "a worker is killed",
        *(CALM + 45, HEALED, stage.murder, stage.nothing),
        (("WorkerRestarts", LARGE),),
    ),
    Fault(
        "the workers stand still again and again",
        *(HEALED + 7, END - 1, stage.stall, stage.run),
        (("EventLoopLag", LARGE),),
    ),
    Fault(
        "nobody reads the log of the small relay, its database is locked, and thousands call it",
        *(CALM, CALM + 35, stage.inundate, stage.drain),
        # The text that all of them get is a canned one.
        (("LogLinesLost", SMALL), ("LedgerDropping", SMALL), ("ErrorBudgetBurn", "canned")),
    ),
    Fault(
        "more streams are asked of the small relay than it has descriptors for",
        *(CALM + 40, HEALED, stage.hold, stage.let_go),
        (("DescriptorsNearlyUsedUp", SMALL), ("RelayOverloaded", SMALL)),
        (("ErrorBudgetBurn", "other"), ("FirstTokenBudgetBurn", "steady")),
    ),
    Fault(
        "the small relay gets a tenth of a CPU, and prompts of four megabytes",
        *(HEALED + 7, END - 1, stage.throttle, stage.unthrottle),
        (("OverheadHigh", SMALL),),
        (("FirstTokenBudgetBurn", "steady"), ("RelayInstanceDown", SMALL)),
    ),
    Fault(
        "the relays are stopped",
        *(END, END + 10, stage.stop, stage.nothing),
        (("RelayDown", ""), ("RelayInstanceDown", LARGE), ("RelayInstanceDown", SMALL)),
    ),
)


def subject_of(labels: Mapping[str, str], relays: Mapping[str, str]) -> str:
    """`relays`: their names by the label `instance`."""
    named = (labels[name] for name in ("upstream", "model", "key", "store") if name in labels)
    return next(named, relays.get(labels.get("instance", ""), ""))
