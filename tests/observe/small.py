"""A second relay, of one process and with few descriptors: what goes wrong with a relay itself goes wrong here, so that
the other one can be watched meanwhile.

Its models and upstreams are its own, since the rules add up what both say of one.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from tests.observe.place import PRICE, Callers, Provider, key_of
from tests.rig import RelayProcess, config
from tests.rig.raw_client import chat_body, request
from tests.rig.relay_process import Fields

FILES = 256
"""Open files; the relay keeps a quarter of them for itself, the others are for 96 clients and as many upstreams."""
HELD = 110
"""Streams asked for at once: more than there is room for."""

AT_ONCE = 20
FLOODS = 4
PAUSE = 0.05
"""Seconds after each twenty calls of each of four connections: some 1,200 calls a second."""

LONG = "a long prompt " * 300_000
"""Four megabytes, which keep a process busy for some milliseconds."""


def fields(steady: Provider) -> Fields:
    """`steady` answers, `canned` is a fixed text: the cheapest call there is."""
    return config(
        {"steady": steady.upstream},
        {
            "steady": {"pool": [{"upstream": "steady"}], "price": PRICE},
            "canned": {"static": "Later, please."},
        },
        [{"id": "visitor", "key": key_of("visitor")}],
        server={"workers": 1},
    )


class Small(RelayProcess):
    """May have `FILES` open."""

    LONGEST_LINE = 1 << 16

    @staticmethod
    def command(path: Path) -> tuple[str, ...]:
        shell = f'ulimit -n {FILES} && exec "$0" "$@"'
        return ("/bin/sh", "-c", shell, *RelayProcess.command(path))


class Visitors(Callers):
    """Those who call the small relay."""

    def usual(self) -> None:
        self.start("steady", "visitor", 2)

    def hold(self) -> None:
        """Streams that go on for a minute, and more who want one."""
        self.start("steady", "visitor", HELD, pause=0.5)

    def write_at_length(self) -> None:
        content = [{"role": "user", "content": LONG}]
        self.start("steady", "visitor", 2, messages=content)

    def flood(self) -> None:
        for _ in range(FLOODS):
            self.add(self._flood())

    async def _flood(self) -> None:
        # With an id as long as it may be, which stands in each line of the log.
        ids = {"X-Request-Id": "flood-".ljust(128, "x")}
        body = chat_body(model="canned", stream=False)
        call = request("POST", "/v1/chat/completions", body, key=key_of("visitor"), headers=ids)
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(*self.relay.address)
                with contextlib.closing(writer):
                    while True:
                        writer.write(call * AT_ONCE)
                        answered = 0
                        while answered < AT_ONCE:
                            answered += (await reader.read(1 << 16)).count(b"HTTP/1.1 200")
                            if reader.at_eof():
                                raise ConnectionError
                        await asyncio.sleep(PAUSE)
