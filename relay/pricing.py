"""What a call costs: prices compiled to integers, chosen by the time the call started.

Money is integer nano-dollars, so that sums are exact. A price per million tokens may be less than one nano-dollar a
token: prices are kept a million times finer, and a call's cost is rounded up once, at the end.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Self

from relay.config.model import PriceConfig, PriceWindow, Rates

if TYPE_CHECKING:
    from relay.usage import Usage

FEMTO_PER_NANO: Final = 10**6
FEMTO_PER_TOKEN: Final = 10**9
"""Femto-dollars a token costs at US$ 1 per million tokens."""

DAY: Final = 86_400
"""Seconds."""
_EPOCH: Final = date(1970, 1, 1)
_EPOCH_WEEKDAY: Final = _EPOCH.weekday()
_WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _femto(usd_per_million: float) -> int:
    # The decimal the admin wrote, not the nearest binary fraction: 0.07 is 70 nano-dollars exactly.
    return round(Decimal(repr(usd_per_million)) * FEMTO_PER_TOKEN)


class _Tariff:
    """Femto-dollars per token of prompt, cached prompt and answer."""

    __slots__ = ("cached", "input", "output")

    def __init__(self, rates: Rates) -> None:
        self.input = _femto(rates.input)
        self.cached = self.input if rates.cached_input is None else _femto(rates.cached_input)
        self.output = _femto(rates.output)


class _Window:
    """Hours of some days of the week with a tariff of their own."""

    __slots__ = ("days", "excepted", "spans", "tariff")

    def __init__(self, window: PriceWindow) -> None:
        self.tariff = _Tariff(window)
        self.days = frozenset(_WEEKDAYS.index(day) for day in window.days)
        self.excepted = frozenset((day - _EPOCH).days for day in window.except_dates)
        self.spans = tuple((start * 60, end * 60) for start, end in window.hours)

    def _on(self, day: int) -> bool:
        return (day + _EPOCH_WEEKDAY) % 7 in self.days and day not in self.excepted

    def covers(self, day: int, second: int) -> bool:
        for start, end in self.spans:
            if start < end:
                if start <= second < end and self._on(day):
                    return True
            elif (second >= start and self._on(day)) or (second < end and self._on(day - 1)):
                # Over midnight: the hours belong to the day on which they begin.
                return True
        return False


def _cost(usage: Usage, tariff: _Tariff) -> int:
    cached = min(usage.cached, usage.input)
    femto = (
        (usage.input - cached) * tariff.input
        + cached * tariff.cached
        + usage.output * tariff.output
    )
    return -(-femto // FEMTO_PER_NANO)


class Price:
    """What one model costs. Lives as long as the snapshot it was compiled for."""

    __slots__ = ("_base", "_tariffs", "_windows")

    def __init__(self, config: PriceConfig) -> None:
        self._base = _Tariff(config)
        self._windows = tuple([_Window(window) for window in config.windows])
        self._tariffs = (self._base, *[window.tariff for window in self._windows])

    @classmethod
    def of(cls, config: PriceConfig) -> Self:
        return cls(config)

    def cost(self, usage: Usage, started: float) -> int:
        """Nano-dollars of a call that started at the Unix time `started`. Cached tokens are part of the input."""
        return _cost(usage, self._tariff(started))

    def usual(self, usage: Usage) -> int:
        """The same outside all windows."""
        return _cost(usage, self._base)

    def worst(self, taken: int, given: int) -> int:
        """Nano-dollars that a call of at most so many tokens can cost: no hour is dearer, no token cached."""
        worst = 0
        for tariff in self._tariffs:
            dearest = max(tariff.input, tariff.cached)
            worst = max(worst, -(-(taken * dearest + given * tariff.output) // FEMTO_PER_NANO))
        return worst

    def _tariff(self, started: float) -> _Tariff:
        if self._windows:
            day, second = divmod(int(started), DAY)
            for window in self._windows:
                if window.covers(day, second):
                    return window.tariff
        return self._base
