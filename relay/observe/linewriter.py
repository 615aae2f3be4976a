"""Writes whole lines to a file descriptor from a thread of its own, so that nobody waits for a blocked sink.

`PromptWriter` is for a process that forks and therefore has no threads: it drops what the sink does not take at once.

A pipe that nobody reads, or a full disk, must not stop the streams: what does not fit into the bounded queue is
dropped and counted. One producer at a time may write; there is one writer per process, made after any fork.
"""

from __future__ import annotations

import os
import re
import select
import stat
import threading
from queue import SimpleQueue

MAX_PENDING = 8 * 1024 * 1024
"""Bytes held for a slow sink: about ten seconds of log at 2,000 calls a second."""

ATOMIC = 4096
"""Bytes: Linux's PIPE_BUF. Longer writes of several processes to one pipe may be mixed within a line."""

# Every character of Unicode's categories Cc, Cf, Zl and Zp above ASCII's own control characters, which JSON escapes
# anyway: line ends of other worlds, and what makes a terminal show a text in another order than it has.
_HIDDEN = re.compile(
    "[\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def plain_lines(block: bytes) -> bytes:
    """Lines of JSON with what a reader could not see escaped, so that a line is one line for every program."""
    if block.isascii() and b"\x7f" not in block:
        return block
    return _HIDDEN.sub(_escape, block.decode()).encode()


def _escape(match: re.Match[str]) -> str:
    pairs = match[0].encode("utf-16-be")
    return "".join(f"\\u{pairs[at]:02x}{pairs[at + 1]:02x}" for at in range(0, len(pairs), 2))


def storable(text: str) -> str:
    """The text without lone surrogates, which a header's undecodable bytes become and no encoder takes."""
    return text.encode("utf-8", "backslashreplace").decode()


class LineWriter:
    """Holds the lines that the sink has not taken yet. Its thread starts with the first line and ends with `close`."""

    __slots__ = (
        "_closed",
        "_fd",
        "_lost",
        "_most",
        "_offered",
        "_queue",
        "_refused",
        "_shared",
        "_taken",
        "_thread",
        "_torn",
    )

    def __init__(self, fd: int, max_pending: int = MAX_PENDING) -> None:
        self._fd = fd
        self._most = max_pending
        self._queue: SimpleQueue[tuple[bytes, int] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        mode = os.fstat(fd).st_mode
        self._shared = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        self._torn = False
        """A write stopped in the middle of a line."""
        # Each number has one writer, the producer's two and the thread's two, so that none needs a lock.
        self._offered = 0
        self._refused = 0
        self._taken = 0
        self._lost = 0

    @property
    def dropped(self) -> int:
        """Lines lost since the start."""
        return self._refused + self._lost

    def write(self, block: bytes, lines: int) -> None:
        """Hands over whole lines, each with its line feed. Never waits, never raises."""
        if self._closed or self._offered - self._taken + len(block) > self._most:
            self._refused += lines
            return
        self._offered += len(block)
        self._queue.put((block, lines))
        if self._thread is None:
            # A daemon: a sink that stays blocked must not keep the process from ending.
            self._thread = threading.Thread(target=self._run, name=f"lines-{self._fd}", daemon=True)
            self._thread.start()

    def close(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds until all is written. False if something had to be left behind."""
        self._closed = True
        thread = self._thread
        if thread is None:
            return True
        self._queue.put(None)
        thread.join(timeout)
        return not thread.is_alive()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            block, lines = item
            try:
                self._write_out(block)
            except OSError:
                # Which lines of the block came through is unknown: they count as lost, the next block is tried again.
                self._lost += lines
            self._taken += len(block)

    def _write_out(self, block: bytes) -> None:
        if self._torn:
            self._write_all(b"\n")
            self._torn = False
        if not self._shared:
            self._write_all(block)
            return
        start = 0
        while len(block) - start > ATOMIC:
            end = block.rfind(b"\n", start, start + ATOMIC) + 1
            if not end:
                end = block.find(b"\n", start) + 1
            self._write_all(block[start:end])
            start = end
        if start < len(block):
            self._write_all(block[start:])

    def _write_all(self, data: bytes) -> None:
        done = 0
        while done < len(data):
            try:
                done += os.write(self._fd, memoryview(data)[done:])
            except BlockingIOError:
                # Somebody who shares the descriptor made it non-blocking: this thread waits all the same.
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()
            except OSError:
                self._torn = done > 0 and data[done - 1 : done] != b"\n"
                raise


class PromptWriter:
    """As a `LineWriter`, for few lines, without a thread and without a queue."""

    __slots__ = ("_fd", "_poll", "dropped")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self.dropped = 0
        """Lines lost since the start."""

    def write(self, block: bytes, lines: int) -> None:
        """Whole lines, of less than `ATOMIC` bytes: a pipe that is ready takes so much without waiting."""
        try:
            if self._poll.poll(0):
                os.write(self._fd, block[: ATOMIC - 1] + b"\n" if len(block) > ATOMIC else block)
                return
        except OSError:
            pass
        self.dropped += lines

    def close(self, timeout: float) -> bool:
        return True
