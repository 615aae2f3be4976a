"""Watches what the process is short of, and acts on it: brings the facts to `overload`, and does what that decides.

A few times a second, off the path of any call. What it sees begin and end is logged, once each.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from relay import process
from relay.cgroup import MemoryGauge
from relay.config.model import Server
from relay.observe import logs
from relay.overload import MEMORY, MEMORY_PRESSED, Change
from relay.port import Port

log = logs.get("watch")

TRIM_EVERY = 10.0
"""Seconds between two times that the allocator is asked for what it holds."""


class Watch:
    """Lives as long as the process."""

    def __init__(
        self,
        port: Port,
        observe_lag: Callable[[float], None],
        memory: MemoryGauge | None = None,
    ) -> None:
        self._port = port
        self._overload = port.overload
        self._observe_lag = observe_lag
        self._limit = process.file_limit()
        self._most = self._overload.cap
        self._memory = memory or MemoryGauge()
        self._trimmed = -TRIM_EVERY

    def configure(self, server: Server) -> None:
        """This configuration is in effect. A cap that the limit of open files cannot bear is lowered, with a word."""
        wanted = server.max_connections
        most = self._most
        if wanted == "auto":
            self._overload.cap = most
            return
        assert isinstance(wanted, int), "validated"
        if wanted > most:
            log.warning("max_connections_lowered", wanted=wanted, possible=most, files=self._limit)
        self._overload.cap = min(wanted, most)

    def lagged(self, late: float) -> None:
        """The loop ran a timer so many seconds late."""
        self._overload.tick(late, monotonic())
        self._observe_lag(late)

    def beat(self, now: float) -> None:
        port, overload = self._port, self._overload
        connections = len(port.clients) - len(port.leaving)
        calls = port.reception.underway
        memory = self._memory.share(MEMORY_PRESSED)
        if memory >= MEMORY_PRESSED and now - self._trimmed >= TRIM_EVERY:
            self._trimmed = now
            process.give_back_memory()
            memory = self._memory.share(MEMORY_PRESSED)
        files = process.free_files(self._limit)
        for change in overload.beat(now, connections, calls, files, memory):
            self._tell(change, connections, calls)
        port.trim(now)

    def _tell(self, change: Change, connections: int, calls: int) -> None:
        if change.began:
            facts = {"connections": connections, "calls": calls}
            if change.what == MEMORY:
                facts["limit"] = self._memory.limit
            log.warning("overloaded", short_of=change.what, **facts)
        else:
            log.info(
                "overload_over",
                short_of=change.what,
                seconds=round(change.seconds, 1),
                refused=change.refused,
            )

    def is_unready(self) -> bool:
        """Most of what is new is refused, and has been for a while."""
        return self._overload.is_unready(monotonic())

    def limps(self) -> list[str]:
        """What is short, in words."""
        return [f"overloaded: short of {what}" for what in self._overload.short_of()]
