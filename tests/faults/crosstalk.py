"""Very many short streams, each with a tag of its own in every event: no byte of one may reach another.

Upstreams and clients are processes of their own, so that the relay has a CPU to itself. Of the answers some break off,
at any byte, by FIN or RST, before the head or after it; of the clients some leave, the others use their connections
again. What arrives is compared with what this very stream should be, byte by byte.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import random
import re
import socket
import struct
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from tests.rig import scripts as say
from tests.rig.deadlines import SCALE
from tests.rig.raw_client import chat_body, request
from tests.rig.relay_process import ROOT, RelayProcess, config

AT_ONCE = 64
WORDS = 12
"""Events with content in a stream."""
BROKEN = 0.12
"""Share of the answers that break off."""
LEAVING = 0.1
"""Share of the clients that leave in the middle."""
QUIET = 30.0 * SCALE
"""Seconds without a byte after which a stream hangs."""

_PLACE = b"tagNNNNNNNN"
_TAG = re.compile(rb"tag[0-9]{8}")
_STREAM = b"".join(
    [
        *[say.delta({"content": f"{_PLACE.decode()}.{number} "}) for number in range(WORDS)],
        say.FINISH,
        say.DONE,
    ]
)
_BUSY = b"HTTP/1.1 503 X\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def stream_of(tag: bytes) -> bytes:
    """All that the client of this tag should read."""
    return _STREAM.replace(_PLACE, tag)


def _reset(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


# --- upstream -------------------------------------------------------------------------------------


class Echo(asyncio.Protocol):
    """Answers each call with its own tag."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._held = b""
        self._transport = cast(asyncio.Transport, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._held += data
        end = self._held.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        length = int(self._held[:end].lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        if len(self._held) < end + length:
            return
        found = _TAG.search(self._held, end)
        assert found is not None
        self._held = self._held[end + length :]
        self._answer(found[0])

    def _answer(self, tag: bytes) -> None:
        dice, payload = self._dice, stream_of(tag)
        pieces = [say.SSE_HEAD]
        at = 0
        while at < len(payload):
            size = dice.randint(1, 600)
            pieces.append(say.frame(payload[at : at + size]))
            at += size
        wire = b"".join([*pieces, say.LAST_CHUNK])
        fate = dice.random()
        end = ""
        if fate < BROKEN:
            end = dice.choice(("close", "reset"))
            wire = b"" if fate < BROKEN / 6 else wire[: dice.randrange(1, len(wire) - 5)]
        elif fate < BROKEN + 0.02:
            wire = _BUSY
        cuts = sorted(dice.randrange(len(wire) + 1) for _ in range(dice.randint(0, 3)))
        self._say([wire[i:j] for i, j in zip([0, *cuts], [*cuts, None], strict=True)], end)

    def _say(self, pieces: list[bytes], end: str) -> None:
        """A piece a turn of the loop, so that they arrive in segments of their own."""
        if self._transport.is_closing():
            return
        if pieces:
            self._transport.write(pieces[0])
            asyncio.get_running_loop().call_soon(self._say, pieces[1:], end)
        elif end == "close":
            self._transport.close()
        elif end:
            _reset(self._transport)


async def upstream(seed: int) -> None:
    """Two of them; prints their ports, and serves until stdin closes."""
    loop = asyncio.get_running_loop()
    ports = []
    for number in range(2):
        make = functools.partial(Echo, random.Random(seed + number))
        server = await loop.create_server(make, "127.0.0.1", 0, backlog=512)
        ports.append(server.sockets[0].getsockname()[1])
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    await _until_stdin_closes()


async def _until_stdin_closes() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


# --- clients --------------------------------------------------------------------------------------


class Crowd:
    """All clients: what is to be asked, and what was seen."""

    def __init__(self, port: int, streams: int, seed: int) -> None:
        self.port = port
        self.left = streams
        self.asked = 0
        self.dice = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.foreign: list[str] = []
        self.over = asyncio.Event()
        self.running = 0

    def next_tag(self) -> bytes | None:
        if not self.left:
            return None
        self.left -= 1
        self.asked += 1
        return b"tag%08d" % self.asked

    def connect(self) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(
            loop.create_connection(lambda: Caller(self), "127.0.0.1", self.port)
        )
        task.add_done_callback(self._connected)
        self.running += 1

    def _connected(self, task: asyncio.Task[Any]) -> None:
        if task.exception() is not None:
            self.foreign.append(f"no connection: {task.exception()!r}")
            self.ended()

    def ended(self) -> None:
        self.running -= 1
        if not self.running:
            self.over.set()


class Caller(asyncio.Protocol):
    """One connection: a stream after the other."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._tag: bytes | None = None
        self._raw = b""
        self._leave_at = 0
        self._left = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport = cast(asyncio.Transport, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        self._tag = tag = self._crowd.next_tag()
        if tag is None:
            self._left = True
            self._transport.close()
            return
        dice = self._crowd.dice
        self._raw = b""
        self._leave_at = dice.randrange(1, 3000) if dice.random() < LEAVING else 0
        body = chat_body(messages=[{"role": "user", "content": tag.decode()}])
        self._transport.write(request("POST", "/v1/chat/completions", body))
        self._timer = asyncio.get_running_loop().call_later(QUIET, self._hangs)

    def _hangs(self) -> None:
        self._crowd.foreign.append(f"{self._tag!r} hangs after {self._raw!r}")
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._raw += data
        if self._leave_at and len(self._raw) >= self._leave_at:
            self._judge("left")
            self._left = True
            if self._leave_at % 2:
                _reset(self._transport)
            else:
                self._transport.close()
        elif self._raw.endswith(say.LAST_CHUNK):
            self._judge("whole")
            self._ask()
        elif self._raw.startswith(b"HTTP/1.1 5") and self._raw.endswith(b"}}"):
            self._judge("refused")
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._left and self._tag is not None:
            self._judge("broken")
        if self._timer is not None:
            self._timer.cancel()
        if self._crowd.left:
            self._crowd.connect()
        self._crowd.ended()

    def _judge(self, end: str) -> None:
        """Compares what came with what should have: anything else is foreign."""
        crowd, tag = self._crowd, self._tag
        assert tag is not None
        assert self._timer is not None
        self._timer.cancel()
        crowd.counts[end] += 1
        if not right(tag, end, self._raw):
            crowd.foreign.append(f"{tag!r}, {end}: {self._raw[-600:]!r}")
        crowd.counts["bytes"] += len(self._raw)
        crowd.counts["events"] += self._raw.count(b"\n\n")


def right(tag: bytes, end: str, raw: bytes) -> bool:
    """Whether these bytes are an answer to this tag that ended so, and nothing else."""
    head, _, framed = raw.partition(b"\r\n\r\n")
    if head.count(b"HTTP/1.1") > 1 or any(found != tag for found in _TAG.findall(raw)):
        return False
    wanted = stream_of(tag)
    if end == "refused":
        return framed.startswith(b'{"error":')
    payload = _unframed(framed)
    if end == "whole":
        # An upstream that broke between the finish and `[DONE]` had said all there was to say.
        return payload in (wanted, wanted.removesuffix(say.DONE))
    return _broken(payload, wanted, told=end == "broken")


def _broken(payload: bytes, wanted: bytes, told: bool) -> bool:
    """A beginning of the answer, then, if the upstream failed and the client stayed, the one error event."""
    at = payload.rfind(b'data: {"error"')
    seen = payload if at < 0 else payload[:at]
    if told and at < 0:
        return False
    return wanted.startswith(seen) and (at < 0 or seen.endswith(b"\n\n"))


def _unframed(framed: bytes) -> bytes:
    """The payload of what came of a chunked body."""
    found, at = [], 0
    while (eol := framed.find(b"\r\n", at)) > 0:
        size = int(framed[at:eol], 16)
        found.append(framed[eol + 2 : eol + 2 + size])
        at = eol + 4 + size
    return b"".join(found)


async def clients(port: int, streams: int, seed: int) -> None:
    """Prints what was seen."""
    loop = asyncio.get_running_loop()
    crowd = Crowd(port, streams, seed)
    began = loop.time()
    for _ in range(min(AT_ONCE, streams)):
        crowd.connect()
    await crowd.over.wait()
    told = dict(crowd.counts) | {"streams": crowd.asked, "seconds": loop.time() - began}
    sys.stdout.write(json.dumps(told | {"foreign": crowd.foreign[:20]}) + "\n")


# --- together -------------------------------------------------------------------------------------


@asynccontextmanager
async def _process(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.crosstalk", *arguments),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def measure(directory: Path, streams: int, seed: int = 7) -> dict[str, Any]:
    """Counts of ends, events and bytes; `foreign` tells the first streams that were not what they should be."""
    async with _process("upstream", str(seed)) as served:
        assert served.stdout is not None
        ports = json.loads(await served.stdout.readline())
        names = ("a", "b")
        upstreams = {
            name: {"base_url": f"http://127.0.0.1:{port}/v1"}
            for name, port in zip(names, ports, strict=True)
        }
        pool = [{"upstream": name} for name in names]
        models = {"m": {"pool": pool, "retry": {"budget": "100%"}}}
        fields = config(upstreams, models, observability={"access_log": "off"})
        async with RelayProcess(fields, directory) as relay:
            asked = (str(relay.address[1]), str(streams), str(seed))
            async with _process("clients", *asked) as process:
                assert process.stdout is not None
                line = await process.stdout.readline()
            page = await relay.metrics()
            told: dict[str, Any] = json.loads(line)
            told["in flight"] = sum(
                value
                for series, value in page.items()
                if series.startswith(("relay_upstream_inflight", "relay_inflight_streams"))
            )
            return told


if __name__ == "__main__":
    import uvloop

    numbers = [int(word) for word in sys.argv[2:]]
    uvloop.run(upstream(*numbers) if sys.argv[1] == "upstream" else clients(*numbers))
