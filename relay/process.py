"""The process around the relay: what it says of its interpreter, its limits, its memory, its bugs."""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import sysconfig

from relay.observe import logs

log = logs.get("process")

GC_THRESHOLD = 2000
"""Objects before a young collection. A call makes no cycles, so collections are rare and short; the default's 700
shows in the slowest percent of events."""


SWITCH = 0.0005
"""Seconds another thread (a page of metrics) may hold the interpreter: the default's 5 ms would be seen in a stream."""


def warn_of_the_interpreter() -> None:
    """The same code costs a quarter more on a Python that was compiled plainly."""
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    # Debian optimises outside configure; its way to name the database libraries tells its build.
    if not any(sign in arguments for sign in ("--enable-optimizations", "--with-dbmliborder")):
        log.info(
            "plain_python",
            hint="this Python was built without PGO; one with it serves about a quarter more",
        )


def raise_file_limit() -> None:
    """As many open files as the host lets us have: two for each stream."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def settle_memory() -> None:
    """What lives now lives long: young collections need not look at it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 100)
    sys.setswitchinterval(SWITCH)


def log_bug(error: BaseException) -> None:
    log.crash("bug", error)


def log_loop(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """What no boundary caught. The context may quote what was received: only the exception's places are logged."""
    error = context.get("exception")
    if isinstance(error, BaseException):
        log.crash("loop", error)
    else:
        log.error("loop", message=str(context.get("message", ""))[:200])
