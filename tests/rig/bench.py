"""The benchmarks' own programs, built once for all tests."""

from __future__ import annotations

import functools
from pathlib import Path

from bench import tools
from bench.tools import Tools
from tests.rig.sdks import absent


def built(folder: Path) -> Tools:
    """Both programs. Skips the test without a compiler; fails it in CI."""
    if tools.compiler() is None:
        absent("a C compiler is missing: `apt-get install gcc libc6-dev`")
    return _built(folder)


@functools.cache
def _built(folder: Path) -> Tools:
    return tools.build(folder)
