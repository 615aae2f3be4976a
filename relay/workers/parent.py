"""The process that was started, when several serve: it forks the hub and the workers, and restarts what dies.

It has no event loop, no threads and no clients, so that nothing can happen to it: it waits for signals. Rules:
- what was loaded before the fork is shared memory for all, and a restart takes milliseconds;
- what dies is started again at once, then after waits that double; every restart is counted;
- children obey the parent alone, by signals of their own (`child`), since terminals and service managers send
  theirs to all processes at once;
- it ends when all have ended: the workers first, then the hub, which hears their last settlements.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from typing import Final

from relay import notify, process
from relay.config.model import Config
from relay.observe import logs
from relay.observe.linewriter import PromptWriter
from relay.upstream.demo import new_demo_key
from relay.workers import child, hub, link, sockets, worker
from relay.workers.board import Board
from relay.workers.seat import Seat

log = logs.get("parent")

FIRST_WAIT = 0.1
"""Seconds before the second restart; the first is at once, and each further wait is twice the one before."""
LONGEST_WAIT = 10.0
HEALTHY = 60.0
"""Seconds of life after which a death counts as the first again."""

_TERMINATE: Final = (signal.SIGTERM, signal.SIGINT)
_HEARD: Final = (*_TERMINATE, signal.SIGHUP, signal.SIGCHLD)


class _Post:
    """The place of one child: the hub's (index None) or a worker's. Outlives the processes that fill it."""

    __slots__ = ("due", "index", "listeners", "pid", "since", "wait")

    def __init__(self, index: int | None) -> None:
        self.index = index
        self.pid = 0
        self.since = 0.0
        self.wait = 0.0
        """Seconds before the next restart."""
        self.due: float | None = 0.0
        """When to start it; None while it runs, or shall not."""
        self.listeners: list[socket.socket] = []

    @property
    def name(self) -> str:
        return "hub" if self.index is None else f"worker {self.index}"

    def died(self, now: float) -> None:
        self.pid = 0
        if now - self.since > HEALTHY:
            self.wait = 0.0
        self.due = now + self.wait
        self.wait = min(max(self.wait * 2, FIRST_WAIT), LONGEST_WAIT)

    def close(self) -> None:
        """The parent's end of its listeners; a worker that runs has its own."""
        for listener in self.listeners:
            listener.close()
        self.listeners = []


class Parent:
    """Raises OSError when a port cannot be had."""

    def __init__(
        self, config: Config, workers: int, streams: logs.Logs, *, human: bool, watches: bool
    ) -> None:
        self._config = config
        self._streams = streams
        self._human = human
        self._watches = watches
        self._places = sockets.reserve(config.server.listen)
        self._admin = sockets.listeners(config.admin.listen)
        self._link = link.listen()
        self._board = Board(workers)
        self._demo_key = new_demo_key()
        self._hub = _Post(None)
        self._workers = [_Post(index) for index in range(workers)]
        for post in self._workers:
            post.listeners = sockets.worker_listeners(self._places)
        self._asked_to_stop = 0
        self._reload = False
        """Somebody asked for one while there was no hub."""

    @property
    def _stopping(self) -> bool:
        return self._asked_to_stop > 0

    def run(self) -> int:
        """Until it is told to stop and all have ended. Returns the exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, (*_HEARD, *child.ORDERS))
        while True:
            self._start_what_is_due()
            self._wait_for_a_signal()
            if not self._reap():
                return 1
            if self._stopping and not any(post.pid for post in self._workers):
                if not self._hub.pid:
                    log.info("stopped")
                    return 0
                self._send(child.STOP, [self._hub])

    def _wait_for_a_signal(self) -> None:
        due = [post.due for post in self._posts() if post.due is not None]
        if due:
            patience = max(0.0, min(due) - monotonic())
            told = signal.sigtimedwait(_HEARD, patience)
        else:
            told = signal.sigwaitinfo(_HEARD)
        if told is None:
            return
        if told.si_signo in _TERMINATE:
            self._stop()
        elif told.si_signo == signal.SIGHUP:
            self._reload = not self._hub.pid
            self._send(child.RELOAD, [self._hub])

    def _posts(self) -> Iterable[_Post]:
        return (self._hub, *self._workers)

    # -- starting --

    def _start_what_is_due(self) -> None:
        now = monotonic()
        for post in self._posts():
            if post.due is not None and post.due <= now:
                try:
                    self._start(post, now)
                except OSError as error:
                    # Too many processes, or the port was taken meanwhile: as if it had died.
                    log.crash("fork_failed", error, process=post.name)
                    post.since = now
                    post.died(now)

    def _start(self, post: _Post, now: float) -> None:
        if post.index is not None and not post.listeners:
            post.listeners = sockets.worker_listeners(self._places)
        post.pid = child.fork(self._work(post), partial(self._become, post))
        post.since = now
        post.due = None
        log.info("process_started", process=post.name, pid=post.pid)
        if post.index is not None:
            self._board.runs(post.index, post.pid)
        elif self._reload:
            self._reload = False
            self._send(child.RELOAD, [self._hub])

    def _work(self, post: _Post) -> Callable[[], int]:
        seat = Seat(
            hub.HUB if post.index is None else post.index,
            self._board,
            self._link,
            self._admin if post.index is None else post.listeners,
            sockets.address_of(self._places),
            self._demo_key,
            self._human,
            self._watches,
        )
        return partial((hub if post.index is None else worker).run, self._config, seat)

    def _become(self, post: _Post) -> None:
        """In the child: what belongs to the parent or to another child is closed."""
        gc.enable()
        self._streams.close()
        for other in self._posts():
            if other is not post:
                other.close()
        if post.index is not None:
            for listener in self._admin:
                listener.close()

    # -- ends --

    def _reap(self) -> bool:
        """Takes note of who has ended. False if the relay could not even start."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if not pid:
                return True
            post = next((post for post in self._posts() if post.pid == pid), None)
            if post is not None and not self._ended(post, os.waitstatus_to_exitcode(status)):
                return False

    def _ended(self, post: _Post, code: int) -> bool:
        now = monotonic()
        pid = post.pid
        post.died(now)
        if post.index is not None:
            self._board.runs(post.index, 0)
        if self._stopping and (post.index is not None or not any(w.pid for w in self._workers)):
            post.due = None
            if code:
                log.error("process_died", process=post.name, pid=pid, **_how(code))
            return True
        if not self._board.announced:
            log.error("start_failed", process=post.name, pid=pid, **_how(code))
            self._kill()
            return False
        self._board.restarted()
        assert post.due is not None, "it died just now"
        wait = post.due - now
        if wait:
            # Its connections go to the others meanwhile; who is told of it may rely on that.
            post.close()
        log.error("process_died", process=post.name, pid=pid, restart_in=wait, **_how(code))
        return True

    def _stop(self) -> None:
        """The first time a drain, the second time the end of it; and then the end of who does not listen."""
        self._asked_to_stop += 1
        if self._asked_to_stop > 1:
            self._send(child.STOP if self._asked_to_stop == 2 else signal.SIGKILL, self._workers)
            return
        self._board.drain()
        notify.tell(notify.STOPPING)
        log.info("stopping", delay_seconds=self._config.server.drain.delay)
        for post in self._workers:
            post.due = None
            post.close()
        self._send(child.DRAIN, self._workers)

    def _send(self, number: int, posts: Iterable[_Post]) -> None:
        for post in posts:
            if post.pid:
                os.kill(post.pid, number)

    def _kill(self) -> None:
        self._send(signal.SIGKILL, self._posts())


def _how(code: int) -> dict[str, str | int]:
    return {"signal": signal.Signals(-code).name} if code < 0 else {"code": code}


def serve(config: Config, workers: int, *, human: bool | None, watches: bool) -> int:
    """Runs a relay of several processes until it is told to stop. Returns the exit code."""
    streams = logs.setup(human=human, writer=PromptWriter(2))
    process.warn_of_the_interpreter()
    process.raise_file_limit()
    for notice in config.notices:
        log.warning("notice", notice=notice)
    try:
        human = os.isatty(2) if human is None else human
        parent = Parent(config, workers, streams, human=human, watches=watches)
    except OSError as error:
        streams.close()
        sys.stderr.write(f"relay: {error.strerror or error}\n")
        return 1
    # Collections would write into every page that the children share.
    gc.collect()
    gc.freeze()
    gc.disable()
    code = parent.run()
    streams.close()
    return code
