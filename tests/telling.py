"""Calls, and what a process tells the page of them."""

from __future__ import annotations

from relay.page.spend import DAY
from relay.page.teller import Teller
from relay.page.telling import Telling
from relay.records import AttemptRecord, CallRecord
from relay.usage import Usage
from tests.recorded import FIRST, call

NOON = FIRST + DAY / 2


def told(*records: CallRecord, upstreams: tuple[str, ...] = ("up", "spare")) -> Telling:
    """What a process tells of these calls."""
    teller = Teller()
    teller.configure(["m"], upstreams)
    teller.observe(list(records))
    return teller.take()


def answered(ttft: float = 0.3, upstream: str = "up", **facts: object) -> CallRecord:
    """A streamed call that went well: 100 tokens in a second."""
    given = {
        "upstream": upstream,
        "stream": True,
        "ttft": ttft,
        "duration": ttft + 1.0,
        "attempts": (AttemptRecord(upstream, "ok", ttft * 1000),),
        "usage": Usage(10, 100),
        "cost": 2_000_000,
    }
    return call(0, **given | facts)


def failed(number: int = 0, **facts: object) -> CallRecord:
    attempts = (AttemptRecord("up", "connect_refused", 1.0), AttemptRecord("spare", "5xx", 2.0))
    given = {"outcome": "upstream_error", "code": 502, "attempts": attempts, "upstream": "spare"}
    return call(number, **given | facts)
