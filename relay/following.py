"""When the configuration is read anew: when somebody asks for it, and when its files have changed.

The files are looked at twice a second (a few `stat` calls; there is no mechanism of the kernel that sees mounted
folders, swapped links and network file systems alike). A changed file is read when it has been left alone for a
moment, since editors and `>` write in place, in pieces. What cannot be used then is tried once more a second later,
before it counts as a failed reload; that is told once, until the files change again. One reload at a time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from time import time
from typing import Final, Protocol

from relay import process
from relay.config import file
from relay.config.model import Config
from relay.config.notices import expiring
from relay.observe import logs
from relay.reload import Pace, always

log = logs.get("app")

PERIOD: Final = 0.5
"""Seconds between two looks at the files."""
SETTLE: Final = 0.25
"""Seconds that a changed file must have been left alone."""
PATIENCE: Final = 1.0
"""Seconds until what cannot be used is tried for the last time."""
DAY: Final = 86_400.0
"""Seconds between two lines about keys that expire soon."""

Signature = tuple[tuple[int, ...] | None, ...]
"""What `stat` says of each file; None for one that cannot be looked at."""
Still = Callable[[], bool]
"""Whether the files are as they were when it was decided to read them."""


class Subject(Protocol):
    """Who serves by the configuration."""

    @property
    def config(self) -> Config: ...

    async def read_anew(self, still: Still) -> list[str]:
        """Reads the files and puts them into effect; the faults that kept everything as it was."""

    def reload_failed(self, faults: list[str]) -> None:
        """What stands in the files is not what is in effect."""


class Following:
    """Lives as long as the process that owns the reloads."""

    def __init__(self, subject: Subject, pace: Pace, *, watches: bool, every: float = DAY) -> None:
        """`watches`: whether a change of the files is enough; `every`: seconds between two looks at expiries."""
        self._subject = subject
        self._every = every
        self._pace = pace
        self._watches = watches
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._asked = False
        self._closing = False
        self._judged: Signature | None = None
        """Of the files as they were when the last word on them was spoken."""
        self._seen: Signature | None = None
        """As they were at the last look, if they wait to be read."""
        self._doubted = False
        """They have been tried once, in vain."""
        self._failed = False
        """The last reload did."""
        self._told = self._loop.time()
        """When keys that expire soon were last named."""

    def start(self) -> None:
        self._task = self._loop.create_task(self._run())

    def ask(self) -> None:
        """Reload now, whatever the files look like; once more, if that is being done just now."""
        self._asked = True
        self._wake.set()

    async def close(self) -> None:
        """Returns when no reload is under way."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        pause = 0.0
        while not self._closing:
            try:
                if self._asked:
                    self._asked = False
                    await self._reload_asked()
                    pause = PERIOD
                elif self._watches:
                    pause = await self._look()
                await self._tell_of_expiry()
            except Exception as error:
                process.log_bug(error)
                pause = PATIENCE
            await self._rest(pause if self._watches else self._every)

    async def _rest(self, seconds: float) -> None:
        if not self._asked and not self._closing:
            self._wake.clear()
            timer = self._loop.call_later(seconds, self._wake.set)
            await self._wake.wait()
            timer.cancel()

    # -- asked for --

    async def _reload_asked(self) -> None:
        signature = await self._signature()
        faults = await self._subject.read_anew(always)
        self._seen = None
        if faults:
            self._judged = signature
            self._tell(faults)
        else:
            self._failed = False

    # -- found --

    async def _look(self) -> float:
        """Looks at the files, and reads them if it is time. Returns in how many seconds to look again."""
        signature = await self._signature()
        if signature == self._judged:
            self._seen = None
            return PERIOD
        if signature != self._seen:
            self._seen, self._doubted = signature, False
            return SETTLE
        config = self._subject.config
        if not self._failed and await asyncio.to_thread(file.is_in_effect, config):
            self._judged, self._seen = signature, None
            return PERIOD
        faults = await self._try(config, signature)
        if not faults:
            same = paths_of(self._subject.config) == paths_of(config)
            self._judged = signature if same else None
            self._failed, self._seen = False, None
            return PERIOD
        if not self._doubted:
            self._doubted = True
            return PATIENCE
        self._judged, self._seen = signature, None
        self._tell(faults)
        return PERIOD

    async def _try(self, config: Config, signature: Signature) -> list[str]:
        paths = paths_of(config)
        faults = await asyncio.to_thread(half_written, config)
        return faults or await self._subject.read_anew(lambda: signature_of(paths) == signature)

    async def _signature(self) -> Signature:
        # A file system may hang.
        return await asyncio.to_thread(signature_of, paths_of(self._subject.config))

    def _tell(self, faults: list[str]) -> None:
        self._failed = True
        self._subject.reload_failed(faults)
        log.error("reload_failed", faults=faults)

    # -- once a day --

    async def _tell_of_expiry(self) -> None:
        now = self._loop.time()
        if now < self._told + self._every:
            return
        self._told = now
        config, pace = self._subject.config, self._pace
        notice = await asyncio.to_thread(expiring, config, config.filed, time(), pace)
        if notice is not None:
            log.warning("notice", notice=notice)


def paths_of(config: Config) -> list[Path]:
    """The files that are watched: the configuration, and its key files."""
    return [config.path, *config.key_files]


def signature_of(paths: Iterable[Path]) -> Signature:
    """What tells two contents of these files apart without reading them. Links are followed."""
    found: list[tuple[int, ...] | None] = []
    for path in paths:
        try:
            known = os.stat(path)
        except (OSError, ValueError):
            found.append(None)
        else:
            found.append((known.st_dev, known.st_ino, known.st_size, known.st_mtime_ns))
    return tuple(found)


def half_written(config: Config) -> list[str]:
    """Whether the file ends inside a line, unlike the one in effect. Cut off there, it might say something else, and
    still be right: `rpm: 100` of `rpm: 1000`.
    """
    if not config.whole:
        return []
    try:
        with config.path.open("rb") as source:
            source.seek(-1, os.SEEK_END)
            cut = source.read(1) != b"\n"
    except OSError:
        # It is not there, or empty: that is somebody else's to say.
        return []
    return [f"{config.path}: ends inside a line, as if half of it were written"] if cut else []
