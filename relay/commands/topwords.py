"""What `relay top` says of each finding: the English sentences of the page, which has them for browsers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from relay.commands.times import duration
from relay.page.facts import Finding

SENTENCES: Final = {
    "users_quiet": "no calls in the last {minutes} minutes",
    "users_errors": "users notice: {failed} of {calls} calls failed in the last {minutes} minutes ({share})",
    "users_wait": "users wait: {share} of the streams began later than {target}, one in twenty after {p95} or more",
    "users_fine": "users notice nothing: {calls} calls in the last {minutes} minutes, none failed",
    "upstreams_fine": "all upstreams work ({upstreams})",
    "upstreams_slow": "{name} is slow: first token after {p50}, the others {others}",
    "upstreams_slow_alone": "{name} is slow: first token after {p50}",
    "upstreams_failing": "{name} fails {share} of its attempts ({error})",
    "upstreams_full": "{name} is full: {inflight} of {most} places taken",
    "upstreams_open": "{name} is out: ejected after failures ({error})",
    "upstreams_half_open": "{name} was out and is being tried again",
    "upstreams_paused": "{name} is paused: it answers 429",
    "upstreams_parked": "{name} is parked: its key or account needs you ({error})",
    "keys_fine": "no key is near a limit; the tightest is at {ratio}",
    "keys_unlimited": "no key with a limit has called",
    "keys_near": "{key} has used {ratio} of its {limit}",
    "keys_expires": "{key} expires in {left}",
    "keys_expired": "{key} expired {left} ago: its calls are refused",
    "keys_more": "{limits} more limits are nearly used up",
    "relay_not_ready": "the relay takes no new calls: {reason}",
    "relay_degraded": "{text}",
    "relay_reload_failed": "the last reload failed: {fault}; the file on disk is not the one that serves",
    "relay_waiting": "{calls} calls wait for a place at an upstream",
}
STATES: Final = {
    "closed": "works",
    "open": "ejected",
    "half_open": "on trial",
    "paused": "paused",
    "parked": "parked",
}
OUTCOMES: Final = {
    "upstream_error": "no upstream answered",
    "timeout": "timed out",
    "stream_truncated": "stream broke off",
    "overloaded": "refused: full",
    "degraded": "fixed answer served",
}


def percent(share: float) -> str:
    return f"{share:.1%}" if 0 < share < 0.1 else f"{share:.0%}"


def span(seconds: float) -> str:
    """Two digits of it: 3 d 4 h."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour} h"
    if hours:
        return f"{hours} h {minute} min"
    return f"{minute} min {second} s" if minute else f"{second} s"


def _number(value: float) -> str:
    return f"{value:,.0f}"


_WRITTEN: Final[Mapping[str, Callable[[float], str]]] = {
    **dict.fromkeys(("share", "ratio"), percent),
    "left": span,
    **dict.fromkeys(("p50", "p95", "target", "others"), duration),
    **dict.fromkeys(
        ("failed", "calls", "limits", "inflight", "most", "upstreams", "minutes"), _number
    ),
}


def sentence(finding: Finding, window: float) -> str:
    """`window`: seconds that the figures are of. A code that this version does not know stands for itself."""
    facts: dict[str, str] = {"minutes": _number(window / 60)}
    for name, value in finding.facts.items():
        write = _WRITTEN.get(name)
        facts[name] = str(value) if isinstance(value, str) or write is None else write(value)
    code = f"{finding.about}_{finding.code}"
    if finding.code == "slow" and "others" not in facts:
        code += "_alone"
    try:
        return SENTENCES[code].format_map(facts)
    except KeyError:
        return f"{finding.about}: {finding.code.replace('_', ' ')}"
