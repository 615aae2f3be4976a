"""The process around the relay: what it says of its interpreter, its limits, its memory, its bugs."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import resource
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager

from relay import chunked
from relay.observe import logs

log = logs.get("process")

GC_THRESHOLD = 2000
"""Objects before a young collection. A call makes no cycles, so collections are rare and short; the default's 700
shows in the slowest percent of events."""


SWITCH = 0.0005
"""Seconds another thread (a page of metrics) may hold the interpreter: the default's 5 ms would be seen in a stream."""


def warn_of_the_interpreter() -> None:
    """Says what the same code could cost less with: a better Python, the compiled modules."""
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    # Debian optimises outside configure; its way to name the database libraries tells its build.
    if not any(sign in arguments for sign in ("--enable-optimizations", "--with-dbmliborder")):
        log.info(
            "plain_python",
            hint="this Python was built without PGO; one with it serves about a quarter more",
        )
    if chunked.__file__.endswith(".py"):
        log.info(
            "interpreted",
            hint="the hot path is not compiled; `make compile` halves what a call costs",
        )


MOST_FILES = 1 << 30
"""What "no limit" of open files is taken for."""
LARGEST_POOLED = 4 * 1024 * 1024
"""Bytes of a body up to which its memory is taken from what the process already has."""
KEPT_FREE = 64 * 1024 * 1024
"""Bytes of freed memory that are kept for the next body."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_memory() -> None:
    """Bodies of 128 KiB and more would be mapped, cleared and unmapped by the kernel one by one: 324 page faults for
    each megabyte of a call, and four times the system's time. Where there is no glibc, nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    # Both, or the allocator's own adaption takes the other one back.
    mallopt(_M_MMAP_THRESHOLD, LARGEST_POOLED)
    mallopt(_M_TRIM_THRESHOLD, KEPT_FREE)


def raise_file_limit() -> None:
    """As many open files as the host lets us have: two for each stream."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def file_limit() -> int:
    """How many files this process may have open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_FILES if limit == resource.RLIM_INFINITY else min(limit, MOST_FILES)


def free_files(limit: int) -> int:
    """How many descriptors are free at the least: the kernel gives the lowest one, so all above it are, too."""
    try:
        lowest = os.dup(2)
    except OSError:
        return 0
    os.close(lowest)
    return limit - lowest


def give_back_memory() -> None:
    """Asks the allocator for what it holds and nobody uses. Milliseconds; where there is no glibc, nothing happens."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return
    trim(0)


def settle_memory() -> None:
    """What lives now lives long: young collections need not look at it."""
    keep_memory()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 100)
    sys.setswitchinterval(SWITCH)


@contextmanager
def collections_rest() -> Iterator[None]:
    """No collections meanwhile: they would look at each of some ten thousand objects, of which none is garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def log_bug(error: BaseException) -> None:
    log.crash("bug", error)


def log_loop(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """What no boundary caught. The context may quote what was received: only the exception's places are logged."""
    error = context.get("exception")
    if isinstance(error, BaseException):
        log.crash("loop", error)
    else:
        log.error("loop", message=str(context.get("message", ""))[:200])
