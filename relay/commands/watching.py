"""What `relay top` does: asks a relay for its status again and again, and paints what it says.

A relay that is away is told as well as one that is not, over what it last said; it is asked on until it is back.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import time
from typing import Final

import aiohttp
import msgspec

from relay.commands.screen import Line, Screen, shown, speaks_unicode
from relay.commands.terms import OK, as_json, note, say
from relay.commands.topview import picture
from relay.page.facts import Answer

PATIENCE: Final = 3.0
"""Seconds for an answer."""
LARGEST: Final = 16 * 1024 * 1024
"""Bytes of an answer."""
ENDS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SIGNALLED: Final = 128
"""What shells add to the number of the signal that ended a program."""
NARROWEST: Final = 80
"""Columns of a picture that is not painted: fewer would cut off what a script looks for."""
ANY: Final = 10_000
"""Columns where nobody has a width."""


class Away(Exception):
    """There is no status to be had; the message says why, in a few words."""


class Source:
    """The admin port of a relay."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url
        self._token = token

    def session(self) -> aiohttp.ClientSession:
        headers = {"accept": "application/json"}
        if self._token is not None:
            headers["authorization"] = f"Bearer {self._token}"
        return aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=PATIENCE),
            trust_env=False,
        )

    async def read(self, session: aiohttp.ClientSession) -> bytes:
        """The status as it came: JSON. Raises Away."""
        try:
            async with session.get(f"{self.url}/status.json", allow_redirects=False) as response:
                body = await response.content.read(LARGEST)
                while not response.content.at_eof() and len(body) < LARGEST:
                    body += await response.content.read(LARGEST - len(body))
                status = response.status
        except TimeoutError:
            raise Away(f"no answer within {PATIENCE:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Its text may tell the request, and the token with it.
            reason = error.strerror if isinstance(error, OSError) else None
            raise Away(reason or "no relay answers there") from None
        if status == 401:
            raise Away("it asks for the admin token (--token-env, or admin.token)")
        if status != 200 or not body.lstrip().startswith(b"{"):
            raise Away(f"it answers {status}, and not as a relay does")
        return body


def read_answer(body: bytes) -> Answer:
    """Raises Away for what is no status of a relay that this version knows."""
    try:
        return msgspec.json.decode(body, type=Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Away("it answers, and not as a relay of this version does") from None


# --- the picture ----------------------------------------------------------------------------------


class Watching:
    """Looks and paints until somebody has seen enough."""

    def __init__(self, source: Source, screen: Screen, interval: float) -> None:
        self._source = source
        self._screen = screen
        self._interval = interval
        self._answer: Answer | None = None
        self._away: tuple[str, float] | None = None
        """Why there is no status, and since when (Unix time)."""
        self._code = OK
        self._over = asyncio.Event()
        self._curves = speaks_unicode()

    async def run(self) -> int:
        with self._prepared():
            async with asyncio.TaskGroup() as group:
                looking = group.create_task(self._look())
                await self._over.wait()
                looking.cancel()
        return self._code

    async def _look(self) -> None:
        async with self._source.session() as session:
            while True:
                try:
                    self._answer = read_answer(await self._source.read(session))
                    self._away = None
                except Away as error:
                    since = time() if self._away is None else self._away[1]
                    self._away = str(error), since
                self._paint()
                await asyncio.sleep(self._interval)

    def _paint(self) -> None:
        told = self._told()
        rows = self._screen.size[1] if self._screen.full else None
        if self._answer is not None:
            told += picture(self._answer, rows and rows - len(told), self._curves)
        self._screen.paint(told)

    def _told(self) -> list[Line]:
        if self._away is None:
            return []
        why, since = self._away
        lost = f" for {time() - since:.0f} s" if time() - since >= 1 else ""
        old = "; below is what it was before" if self._answer is not None else ""
        line = f"{self._source.url}: {why}; trying again{lost}{old}"
        return [(line, "bad"), ("", "plain")]

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        """The terminal is ours, and keys and signals reach us."""
        loop = asyncio.get_running_loop()
        for number in ENDS:
            loop.add_signal_handler(number, self._ended, SIGNALLED + number)
        loop.add_signal_handler(signal.SIGWINCH, self._resized)
        loop.add_signal_handler(signal.SIGTSTP, self._suspended)
        typed = self._screen.full and sys.stdin.isatty()
        self._screen.open()
        if typed:
            loop.add_reader(sys.stdin, self._typed)
        try:
            yield
        finally:
            if typed:
                loop.remove_reader(sys.stdin)
            self._screen.close()

    def _typed(self) -> None:
        keys = os.read(sys.stdin.fileno(), 64)
        # Nothing at all: the terminal has gone.
        if not keys or b"q" in keys.lower():
            self._ended(OK)

    def _ended(self, code: int) -> None:
        self._code = code
        self._over.set()

    def _resized(self) -> None:
        if self._answer is not None or self._away is not None:
            self._paint()

    def _suspended(self) -> None:
        """Ctrl-Z: the shell gets its terminal, and later we get it again."""
        self._screen.close()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._screen.open()
        self._resized()


async def once(source: Source, as_object: bool) -> None:
    """One picture, or the status as it came. Raises Away."""
    async with source.session() as session:
        body = await source.read(session)
    if as_object:
        say(as_json(json.loads(body)))
        return
    columns = max(Screen().size[0], NARROWEST) if sys.stdout.isatty() else ANY
    for text, _ in picture(read_answer(body), None, speaks_unicode()):
        say(shown(text, columns))


async def stream(source: Source, interval: float) -> None:
    """A line for each look, until it is interrupted; what is away is told beside."""
    async with source.session() as session:
        while True:
            try:
                say(json.dumps(json.loads(await source.read(session)), ensure_ascii=False))
                sys.stdout.flush()
            except Away as error:
                note(f"{source.url}: {error}")
            await asyncio.sleep(interval)
