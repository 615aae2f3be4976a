"""What a forked process does before and after its own work."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from typing import Final, NoReturn

from relay.observe import logs

log = logs.get("process")

DRAIN: Final = signal.SIGUSR1
"""To a worker: finish what runs, and end. To the hub: read the configuration anew."""
RELOAD: Final = signal.SIGUSR1
STOP: Final = signal.SIGUSR2
"""End now."""
ORDERS: Final = (signal.SIGUSR1, signal.SIGUSR2)
"""How the parent commands: what a terminal or a service manager sends to all processes at once is its to understand."""
IGNORED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_PR_SET_PDEATHSIG: Final = 1


def fork(run: Callable[[], int], clean: Callable[[], None]) -> int:
    """Starts a process that runs this and ends. `clean` undoes there what was the parent's own. Returns its id."""
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        _live(parent, run, clean)
    return pid


def _live(parent: int, run: Callable[[], int], clean: Callable[[], None]) -> NoReturn:
    code = 1
    try:
        # Nothing survives a parent that is killed: nobody would restart it, or tell it to drain.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            for number in IGNORED:
                signal.signal(number, signal.SIG_IGN)
            clean()
            code = run()
    except BaseException as error:
        log.crash("process_failed", error)
    finally:
        os._exit(code)


def own_pids() -> list[int]:
    """This process, and the one that has forked it."""
    return [os.getppid(), os.getpid()]


def listen_to_orders() -> None:
    """From now on signals are delivered: their handlers are set."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ORDERS)
