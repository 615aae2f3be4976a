"""The control groups this process is in, as the kernel tells of them: version 1 or 2, from a host or a container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

MOUNT: Final = "sys/fs/cgroup"
NO_LIMIT: Final = 1 << 60
"""Bytes; version 1 writes \"none\" as a number just under 2 ** 63."""


def groups(controller: str, root: Path = Path("/")) -> Iterator[tuple[int, Path]]:
    """(version, folder) of each group from ours up to the top, where this controller may have set something."""
    for line in words(root / "proc/self/cgroup", "\n"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            for folder in _upwards(root / MOUNT, path):
                yield 2, folder
        elif controller in controllers.split(","):
            for name in {controller, controllers}:
                for folder in _upwards(root / MOUNT / name, path):
                    yield 1, folder


def words(path: Path, separator: str | None = None) -> list[str]:
    """Of a small file; none when it cannot be read."""
    try:
        return path.read_text("ascii", "replace").split(separator)
    except OSError:
        return []


def _upwards(mount: Path, path: str) -> list[Path]:
    """The folders from a control group up to the mount; in a container the path may not be seen, the mount is."""
    inner = PurePosixPath(path.lstrip("/"))
    return [mount / inner, *(mount / above for above in inner.parents)]


_FILES: Final = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


class MemoryGauge:
    """How much of the memory that a control group allows is in use: of the tightest one above us, by all in it.

    What the kernel would give up first, pages of files that nobody has read twice, does not count. Without a limit
    nothing is read.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.limit = NO_LIMIT
        """Bytes."""
        self._usage: Path | None = None
        self._stat = Path()
        self._cached = ""
        for version, folder in groups("memory", root):
            limit_file, usage_file, cached = _FILES[version]
            found = words(folder / limit_file)
            if found and found[0].isdigit() and 0 < int(found[0]) < self.limit:
                self.limit = int(found[0])
                self._usage = folder / usage_file
                self._stat = folder / "memory.stat"
                self._cached = cached

    def share(self, alarm: float) -> float:
        """The part of the limit that is in use; 0 without a limit. Some microseconds, for the caches are looked at only
        above `alarm`."""
        if self._usage is None:
            return 0.0
        used = _number(self._usage)
        if used > alarm * self.limit:
            used -= self._inactive()
        return used / self.limit

    def _inactive(self) -> int:
        found = words(self._stat)
        try:
            return int(found[found.index(self._cached) + 1])
        except (ValueError, IndexError):
            return 0


def _number(path: Path) -> int:
    """What a file of one number says; 0 when it cannot be read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(handle, 32))
        finally:
            os.close(handle)
    except (OSError, ValueError):
        return 0
