"""What a call is told that the limits of its key keep out: which limit, how far, and how long to wait."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NoReturn

from relay.admission.memory import BUDGETS, limit_of, model_of
from relay.admission.windows import Machine
from relay.errors import BudgetSpent, RateLimited, RelayError

Named = tuple[str, str, Machine, int]
"""Whose limit, its machine's name, its machine, its unit."""

_UNITS: Final = {
    "rpm": "requests per minute",
    "tpm": "tokens per minute",
    "concurrent": "concurrent requests",
    "requests_per_day": "requests per day",
    "tokens_per_day": "tokens per day",
    "tokens_per_month": "tokens per month",
    "usd_per_day": "dollars per day",
    "usd_per_month": "dollars per month",
}


def go_duration(ms: int) -> bytes:
    """Milliseconds as Go's `time.Duration` prints them: 20ms, 1.2s, 6m0s, 1h0m0s."""
    if ms < 1000:
        return b"%dms" % ms if ms else b"0s"
    seconds, ms = divmod(ms, 1000)
    text = b"%d.%03d" % (seconds % 60, ms)
    text = text.rstrip(b"0").rstrip(b".") + b"s" if ms else b"%ds" % (seconds % 60)
    if seconds < 60:
        return text
    minutes = seconds // 60
    if minutes < 60:
        return b"%dm%b" % (minutes, text)
    return b"%dh%dm%b" % (minutes // 60, minutes % 60, text)


def refuse(
    limits: Iterable[Named], model: str, amounts: tuple[int, int, int, int], tick: int, wall: float
) -> NoReturn:
    """Name the limit that keeps this call out longest: one no wait helps, else the longest wait."""
    worst: Named | None = None
    longest: float | None = 0.0
    for found in limits:
        _, _, machine, unit = found
        if machine.shadow or not machine.lacks(amounts[unit], tick, wall):
            continue
        wait = machine.wait(amounts[unit], tick)
        if worst is None or wait is None or wait > (longest or 0.0):
            worst, longest = found, wait
        if longest is None:
            break
    if worst is None:
        raise AssertionError("refused without a limit that refuses")
    raise _refusal(worst, model, amounts[worst[3]], longest, tick, wall)


def _refusal(
    limit: Named,
    model: str,
    amount: int,
    wait: float | None,
    tick: int,
    wall: float,
) -> RelayError:
    owner, full_name, machine, _ = limit
    name = limit_of(full_name)
    whose = name if model_of(full_name) is None else f"{name} of this model"
    money = name.startswith("usd")
    allowed = _amount(machine.limit, money)
    needed = _amount(amount, money)
    unit = _UNITS[name]
    if amount > machine.limit:
        text = (
            f"This request to `{model[:128]}` needs up to {needed}, "
            f"more than the limit of {owner}: {allowed} {unit} ({whose})."
        )
    else:
        text = (
            f"Limit of {owner} reached for `{model[:128]}`: {allowed} {unit} ({whose}), "
            f"used {_amount(machine.used(tick, wall), money)}, requested {needed}."
        )
    if name in BUDGETS:
        return BudgetSpent(name, text)
    if wait is not None:
        text += f" Please try again in {go_duration(round(wait * 1000)).decode('ascii')}."
    return RateLimited(name, text, wait)


def _amount(value: int, money: bool) -> str:
    return f"{value / 1e9:.6g}" if money else str(value)
