"""Nano-dollars as people and programs read them: exact, never through a float."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

NANO: Final = 10**9
"""A dollar's."""
DECIMALS: Final = 9
CENTS: Final = 2
"""Decimals that are always shown."""


def exact(nano: int, decimals: int = DECIMALS) -> str:
    """Dollars with so many decimals, of which the cut ones must be zeros: 12.345678900."""
    sign, size = ("-" if nano < 0 else ""), abs(nano)
    whole, part = divmod(size, NANO)
    return f"{sign}{whole:,}.{part:09d}"[: -(DECIMALS - decimals) or None]


def column(amounts: Sequence[int], *, signed: bool = False) -> list[str]:
    """The same with as many decimals as the longest of them needs, so that the points stand under each other."""
    decimals = needed(amounts)
    texts = [exact(amount, decimals) for amount in amounts]
    if not signed:
        return texts
    return [f"+{text}" if amount > 0 else text for text, amount in zip(texts, amounts, strict=True)]


def needed(amounts: Iterable[int]) -> int:
    most = CENTS
    for amount in amounts:
        part = f"{abs(amount) % NANO:09d}".rstrip("0")
        most = max(most, len(part))
    return most


def plain(nano: int) -> str:
    """For programs: no commas, no needless zeros."""
    return exact(nano, needed([nano])).replace(",", "")
