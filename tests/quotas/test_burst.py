"""A thousand calls at once, once for every authority; `make quotas` does so twenty times."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.quotas import burst
from tests.quotas.sites import EMBEDDED, SHARED
from tests.rig import scenario

pytestmark = pytest.mark.alone


@scenario
@pytest.mark.parametrize("site", ["in process", "4 workers", "redis, 2 relays"])
async def test_exactly_what_a_limit_holds_is_admitted(site: str, tmp_path: Path) -> None:
    found = await burst.run((EMBEDDED | SHARED)[site], 1, 1000, tmp_path)

    for name, each in found.items():
        assert each.calls == 2000
        assert (each.overspent, each.refused, each.odd) == (0, 0, []), (name, each)
