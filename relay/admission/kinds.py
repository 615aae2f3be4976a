"""The kinds of limits as an authority in a store names them, and what it and a process tell each other of one."""

from __future__ import annotations

from typing import Final

from relay.admission.memory import limit_of
from relay.admission.windows import Machine, Permits, RefundingBucket, TokenBucket

RATE: Final = 0
REFUNDED: Final = 1
PERMITS: Final = 2
DAY: Final = 3
MONTH: Final = 4
"""Kinds of limits, as the script names them."""

LARGEST: Final = 9 * 10**15
"""Of all that is counted there: Lua's numbers are exact below 2^53. A larger limit is this one."""

Told = tuple[int, int, int, int, int, int, int]
"""What the authority tells of a limit: used (parts of a rate, spent of a budget), leased by all, leased by this
process, the number of its take or the end of the period, ms until that, the recall under way, whether more is leased
than calls needed."""
Delta = tuple[int, int, int, int, list[int]]
"""Period, settled, given back of the lease, taken without one, refunds: the numbers of their takes and how much."""


def kind_of(machine: Machine, name: str) -> int:
    if isinstance(machine, RefundingBucket):
        return REFUNDED
    if isinstance(machine, TokenBucket):
        return RATE
    if isinstance(machine, Permits):
        return PERMITS
    return MONTH if limit_of(name).endswith("month") else DAY
