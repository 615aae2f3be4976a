"""A scrape of a very long page keeps no stream waiting, on a real relay and real streams."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.observe.exposition import TEXT
from tests.observe.scrapes import LINES, PROMISED, STREAMS, at, measure
from tests.rig import SCALE, scenario

SECONDS = 4.0
"""With scrapes, and as many without."""


@scenario
@pytest.mark.parametrize("workers", [1, 2])
async def test_events_come_as_soon_while_a_very_long_page_is_scraped(
    tmp_path: Path, workers: int
) -> None:
    found = await measure(tmp_path, workers, TEXT, SECONDS)

    assert found.lines > LINES
    assert len(found.took) == SECONDS
    assert len(found.scraped) > SECONDS * STREAMS * 50
    # Not the latest of thousands: where others use this machine, one comes late without any scrape.
    assert at(0.99, found.scraped) < at(0.99, found.calm) + PROMISED * SCALE, (
        at(0.99, found.calm),
        at(0.99, found.scraped),
    )
