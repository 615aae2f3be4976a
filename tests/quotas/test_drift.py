"""What is billed is what was counted, for some hundred calls; `make quotas` looks at ten thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.quotas import drift
from tests.quotas.sites import EMBEDDED, SHARED
from tests.rig import scenario

pytestmark = pytest.mark.alone


@scenario
@pytest.mark.parametrize("site", ["in process", "2 workers", "redis, 2 relays"])
async def test_what_is_billed_is_what_the_upstreams_counted(site: str, tmp_path: Path) -> None:
    found = await drift.run((EMBEDDED | SHARED)[site], 300, tmp_path)

    assert (found.calls, found.wrong) == (300, 0)
    assert found.whole > 150
    assert found.cut > 60
    assert found.furthest <= 1
    assert found.prompts <= 1
    assert found.hedged > 2
