"""This process's end of the store: keeps a connection, brings the gate's frames there and the answers back.

One frame is under way at a time, so that whatever gathers meanwhile goes together in the next. After the first thing
that goes wrong the store counts as away, and one try at a time looks whether it is back: no call waits for it. Going
and coming are told once each.
"""

from __future__ import annotations

import asyncio
import contextlib
from math import inf
from time import monotonic, time
from typing import Final

import msgspec

from relay.admission.store import StoreGate
from relay.config.storeaddress import StoreAddress
from relay.observe import logs
from relay.quota import script
from relay.quota.connection import Line, StoreFailed

log = logs.get("quota")

PATIENCE: Final = 0.06
"""Seconds of silence after which the store counts as away, while calls wait for it;"""
LONGER: Final = 1.0
"""and when it is tried again."""
BEAT: Final = 1.0
"""Seconds between two reports: they renew the lease, and bring the levels of what is in use."""
RETRY: Final = 0.05
"""Seconds until the next try, twice as long after each, up to `LONGEST`."""
LONGEST: Final = 1.0
STARTING: Final = 1.0
"""Seconds that the start of the relay waits for the store."""

_recall = msgspec.msgpack.Decoder(tuple[str, str, int]).decode


class StoreLink:
    """Lives as long as the process."""

    def __init__(self, address: StoreAddress, gate: StoreGate) -> None:
        self._address = address
        self._gate = gate
        self._news = asyncio.Event()
        self._tried = asyncio.Event()
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._away_since: float | None = None
        self._beat_at = 0.0
        self._was_up = False
        gate.wake = self._news.set

    async def start(self) -> None:
        """Waits a little for the first answer, or failure: a relay serves without its store, too, but not as well."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run()), loop.create_task(self._listen())]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STARTING):
                await self._tried.wait()
        if self._gate.away and self._away_since is None:
            self._went_away("silent")

    async def close(self) -> None:
        """Says the last, if somebody listens."""
        self._over.set()
        self._news.set()
        if self._tasks:
            await asyncio.wait(self._tasks[:1], timeout=LONGER)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- frames --

    async def _run(self) -> None:
        pause = RETRY
        while not self._over.is_set():
            line = Line(self._address)
            try:
                await line.open()
                await self._serve(line)
            except StoreFailed as failure:
                self._went_away(failure.reason)
            except Exception as error:
                # A bug, of ours or of the library: limits must be told again, whatever it was.
                log.crash("quota_link_failed", error)
                self._went_away("bug")
            finally:
                await line.close()
            if self._was_up:
                self._was_up, pause = False, RETRY
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._over.wait()
            pause = min(2 * pause, LONGEST)

    async def _serve(self, line: Line) -> None:
        gate = self._gate
        gate.back(monotonic())
        report = True
        patience = LONGER
        while not self._over.is_set():
            frame = gate.frame(monotonic(), line.mark, report)
            await self._exchange(line, script.encoded(frame), patience)
            patience = PATIENCE
            report = await self._next()
        for _ in range(2):
            # If one was under way, this is that one again.
            frame = gate.leave(monotonic(), line.mark)
            await self._exchange(line, script.encoded(frame), LONGER)

    async def _exchange(self, line: Line, frame: bytes, patience: float) -> None:
        try:
            answer = script.decoded(await line.say(frame, patience))
            heard = self._gate.answer(answer, monotonic(), time())
        except ValueError:
            raise StoreFailed("protocol") from None
        if heard and not self._was_up:
            self._came_back()

    async def _next(self) -> bool:
        """Waits until there is something to say. Whether it is time for a report."""
        gate = self._gate
        while not self._over.is_set():
            now = monotonic()
            if now >= self._beat_at:
                if self._beat_at:
                    gate.beat(now - self._beat_at + BEAT)
                self._beat_at = now + BEAT
                return True
            if gate.news(now):
                return False
            self._news.clear()
            await self._rest(min(self._beat_at, gate.due()) - now)
        return False

    async def _rest(self, seconds: float) -> None:
        """Until there is something to say, or so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds if seconds < inf else None):
                await self._news.wait()

    # -- whether it is there --

    def _went_away(self, reason: str) -> None:
        gate = self._gate
        gate.failures += 1
        self._tried.set()
        gate.lost(monotonic(), time())
        if self._away_since is None:
            self._away_since = monotonic()
            log.warning("quota_store_away", store="redis", reason=reason)

    def _came_back(self) -> None:
        self._was_up = True
        self._tried.set()
        since, self._away_since = self._away_since, None
        if since is not None:
            seconds = round(monotonic() - since, 1)
            log.warning("quota_store_back", store="redis", away_seconds=seconds)

    # -- what is called out --

    async def _listen(self) -> None:
        """Others are short of what idles here: without this they would learn of it a second later."""
        while not self._over.is_set():
            line = Line(self._address)
            try:
                await line.open()
                await line.listen()
                while True:
                    owner, name, recall = _recall(await line.heard())
                    self._gate.recalled(owner, name, recall)
            except (StoreFailed, ValueError):
                pass  # The other connection says so.
            except Exception as error:
                log.crash("quota_link_failed", error)
            finally:
                await line.close()
            await asyncio.sleep(LONGEST)
