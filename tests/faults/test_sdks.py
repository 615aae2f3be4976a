"""Every way to break a stream off, through every SDK, Node's fetch and curl."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults import sdks
from tests.rig.sdks import Sdk, require


@pytest.mark.parametrize("sdk", sdks.ALL, ids=lambda sdk: "curl" if sdk is None else sdk.name)
def test_no_broken_stream_looks_whole_to_a_client(tmp_path: Path, sdk: Sdk | None) -> None:
    if sdk is not None:
        require(*sdk.needs)
    (tmp_path / "relay").mkdir()

    met = asyncio.run(sdks.through(tmp_path / "relay", tmp_path / "authority", [sdk]))

    # Without a task and in one, through the SDK and by fetch; curl knows but one way.
    assert len(met) == (1 if sdk is None else 2) * len(sdks.broken_streams())
    assert [(each.client, each.case.row.name) for each in met if each.looks_whole] == []
    wrong = [(each.client, each.case.row.name, each.complaint) for each in met if each.complaint]
    assert wrong == []
