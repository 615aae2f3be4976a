"""Times as people write and read them."""

from __future__ import annotations

import argparse

from relay.commands.table import NOTHING


def duration(seconds: float | None) -> str:
    """Three digits: 312 ms, 1.32 s."""
    if seconds is None:
        return NOTHING
    ms = seconds * 1000
    if ms < 999.5:
        return f"{ms:.3g} ms"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:,.1f} s"


def seconds(text: str) -> float:
    """Of an option: a duration, or a plain number of seconds."""
    from relay.config.values import read_time_limit

    try:
        return read_time_limit(text if text[-1:].isalpha() else f"{text}s")
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no time: say 30 (seconds), 250ms or 2m"
        ) from None
