"""A wall clock that a test sets, for processes started with it: libfaketime, which leaves the monotonic clock alone."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from time import time  # noqa: TID251

import pytest

_PLACES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1")


class WallClock:
    """Skips the test where the library is missing, but not in CI."""

    def __init__(self, folder: Path) -> None:
        found = [path for place in _PLACES for path in Path("/").glob(place[1:])]
        if not found:
            assert not os.environ.get("CI"), "libfaketime is missing"
            pytest.skip("libfaketime is missing (Debian: apt-get install faketime)")
        self._file = folder / "clock"
        self.shift(0.0)
        self.env = {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        """Of a process that goes by this clock."""

    def shift(self, seconds: float) -> None:
        """So much later than it really is."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+.3f}\n", "ascii")
        new.replace(self._file)

    def set(self, moment: str) -> None:
        """`2026-12-31 23:59:50`, UTC, now; it runs on from there."""
        self.shift(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp() - time())
