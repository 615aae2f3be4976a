"""How long a test may wait, and the decorator that makes a coroutine a test.

`RELAY_TEST_SCALE` stretches every deadline, for machines slower than a laptop; it never shortens
a promise under test (those are asserted on the timestamps of what arrived).
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Coroutine
from typing import ParamSpec

SCALE = float(os.environ.get("RELAY_TEST_SCALE", "1"))

WAIT = 10.0 * SCALE
"""Seconds one wait may take before the test fails."""

WHOLE = 60.0 * SCALE
"""Seconds a whole scenario may take."""

EARLY = 0.005
"""Seconds by which a timer may come before its time by another clock: the loop's own knows whole milliseconds."""

P = ParamSpec("P")


def within(seconds: float = WAIT) -> asyncio.Timeout:
    """A deadline around a wait: `async with within(): await something`."""
    return asyncio.timeout(seconds)


async def output(process: asyncio.subprocess.Process, seconds: float = WAIT) -> tuple[bytes, bytes]:
    """What a process prints until it ends. It does not outlive the test, whatever ends that."""
    try:
        async with within(seconds):
            return await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def scenario(test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """Runs an async test in a loop of its own, under `WHOLE`."""

    async def bounded(*args: P.args, **kwargs: P.kwargs) -> None:
        async with asyncio.timeout(WHOLE):
            await test(*args, **kwargs)

    @functools.wraps(test)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(bounded(*args, **kwargs))

    return wrapper
