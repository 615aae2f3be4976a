"""The relay under test: a process started from a config literal, read by its log lines.

stdout is the access log, one JSON object per call; stderr tells start, reload and state changes,
one JSON object per line too. A test waits for a line that fits, never for a time. Leaving the
`async with` drains the relay and checks that it neither crashed nor reported a bug of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.rig.deadlines import SCALE, WAIT, within
from tests.rig.raw_client import KEY, Address, Answer, chat, get
from tests.rig.upstream import Upstream

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""
PACKAGE = os.environ.get("RELAY_TEST_PACKAGE") or str(ROOT)
"""Where the package under test stands: the sources, or what `make compile` made of them."""

WORKERS = int(os.environ.get("RELAY_TEST_WORKERS", "1"))
"""Processes of a relay whose test does not say how many."""

Fields = dict[str, Any]
Models = dict[str, Fields]
Upstreams = dict[str, Upstream | Fields]
Line = dict[str, Any]


def config(
    upstreams: Mapping[str, Upstream | Fields],
    models: Mapping[str, Fields] | None = None,
    keys: Sequence[Fields] | None = None,
    **more: object,
) -> Fields:
    """A whole configuration. Without `models`, a model `m` with one tier per upstream, in order."""
    ready: Fields = {}
    for name, given in upstreams.items():
        fields = {"base_url": given.base_url} if isinstance(given, Upstream) else given
        ready[name] = {"api_keys": [f"sk-upstream-{name}"]} | fields
    if models is None:
        pool = [{"upstream": name, "tier": tier} for tier, name in enumerate(upstreams)]
        models = {"m": {"pool": pool, "retry": {"attempts": 3, "budget": "100%"}}}
    whole: Fields = {
        "server": {"listen": "127.0.0.1:0", "workers": WORKERS},
        "admin": {"listen": "127.0.0.1:0"},
        "upstreams": ready,
        "models": dict(models),
        "keys": [{"id": "tester", "key": KEY}] if keys is None else list(keys),
    }
    for section, value in more.items():
        if section in ("server", "admin"):
            assert isinstance(value, dict)
            whole[section] |= value
        else:
            whole[section] = value
    return whole


class RelayProcess:
    """One relay. `fields` is written as JSON, which is YAML."""

    LONGEST_LINE = 1 << 22
    """Bytes. About twice as much of what it says is taken from it before anybody reads it."""

    def __init__(
        self,
        fields: Fields | Path,
        directory: Path,
        env: Mapping[str, str] | None = None,
        *,
        watches: bool = False,
    ) -> None:
        """`watches`: whether it reads files that have changed; most tests say themselves when it shall."""
        self._watches = watches
        self._fields = fields
        self.path = fields if isinstance(fields, Path) else directory / "config.yaml"
        self.env = {"PATH": os.environ["PATH"], "PYTHONPATH": PACKAGE} | dict(env or {})
        self._directory = directory
        self.calls: list[Line] = []
        self.lines: list[Line] = []
        self.ready: Line = {}
        self._said: list[str] = []
        self._told: list[str] = []
        """What came on stdout and stderr: lines, since a text that grows by each of 100,000 is copied as often."""
        self.address: Address = ("", 0)
        self.admin: Address = ("", 0)
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._changed = asyncio.Condition()
        self.read = asyncio.Event()
        """Set while somebody reads what it says; cleared, its pipes fill up."""
        self.read.set()
        self._open = 2
        self._ended = False

    # --- life ---------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if not isinstance(self._fields, Path):
            state = {"state": {"path": str(self._directory / "state")}}
            self.write(state | self._fields)
        self._process = await asyncio.create_subprocess_exec(
            *self.command(self.path),
            *(() if self._watches else ("--no-watch",)),
            cwd=self._directory,
            env=self.env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=self.LONGEST_LINE,
        )
        loop = asyncio.get_running_loop()
        self._readers = [
            loop.create_task(self._read(self._process.stdout, self._out)),
            loop.create_task(self._read(self._process.stderr, self._err)),
        ]
        try:
            self.ready = await self.log(
                lambda line: line.get("event") == "ready", timeout=20 * SCALE
            )
        except BaseException:
            await self.kill()
            raise
        self.address = _address(self.ready["listen"])
        self.admin = _address(self.ready["admin"])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            await self.kill()
            print(f"--- the relay's stderr\n{self.stderr}", file=sys.stderr)
            return
        if not self._ended:
            code = await self.stop()
            assert code == 0, f"exit code {code}\n{self.stderr}"
        assert "Traceback" not in self.stderr, self.stderr
        assert not [call for call in self.calls if call.get("error") == "internal_error"]

    @classmethod
    def command(cls, path: Path) -> tuple[str, ...]:
        """What starts a relay with this file."""
        return (sys.executable, "-m", "relay", "serve", "-c", str(path))

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def reload(self) -> None:
        """SIGHUP. What came of it is told in the log."""
        self.signal(signal.SIGHUP)

    async def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.signal(signal.SIGTERM)
        return await self.exit()

    async def exit(self, timeout: float = WAIT) -> int:
        """Waits until the process has ended and all its lines are read."""
        assert self._process is not None
        try:
            async with within(timeout):
                code = await self._process.wait()
                await asyncio.gather(*self._readers)
        except TimeoutError:
            await self.kill()
            raise AssertionError(f"the relay did not end\n{self.stderr}") from None
        self._ended = True
        return code

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        if self._process is not None:
            await self._process.wait()
        await asyncio.gather(*self._readers)
        self._ended = True

    def write(self, fields: Fields) -> None:
        """Writes the configuration file, for a reload."""
        self.path.write_text(json.dumps(fields, indent=2, ensure_ascii=False), "utf-8")

    @property
    def stdout(self) -> str:
        return "".join(self._said)

    @property
    def stderr(self) -> str:
        return "".join(self._told)

    # --- what it says -------------------------------------------------------------------------

    async def log(self, fits: Callable[[Line], bool], *, timeout: float = WAIT) -> Line:
        """The first line on stderr that fits, past or to come."""
        return await self._find(self.lines, fits, timeout)

    async def nth_log(self, number: int, fits: Callable[[Line], bool]) -> Line:
        """Like `log`, but the one after `number` others that fit."""
        passed: list[Line] = []

        def fits_now(line: Line) -> bool:
            if fits(line) and not any(line is other for other in passed):
                passed.append(line)
            return len(passed) > number and line is passed[number]

        return await self.log(fits_now)

    async def call(self, fits: Callable[[Line], bool] = bool, *, timeout: float = WAIT) -> Line:
        """The first line of the access log that fits, past or to come."""
        return await self._find(self.calls, fits, timeout)

    async def call_of(self, answer: Answer) -> Line:
        """The access log's line of this answer."""
        name = answer.headers["x-request-id"]
        return await self.call(lambda line: line.get("request_id") == name)

    async def metrics(self) -> dict[str, float]:
        """`/metrics` as `name{labels}` → value."""
        answer = await get(self.admin, "/metrics", key=None)
        assert answer.status == 200, answer
        found: dict[str, float] = {}
        for line in answer.body.decode().splitlines():
            if line and not line.startswith("#"):
                series, _, value = line.rpartition(" ")
                found[series] = float(value)
        return found

    async def chat(self, **fields: Any) -> Answer:
        """One chat call to this relay."""
        return await chat(self.address, **fields)

    async def _find(self, lines: list[Line], fits: Callable[[Line], bool], timeout: float) -> Line:
        def found() -> Line | None:
            return next((line for line in lines if fits(line)), None)

        with contextlib.suppress(TimeoutError):
            async with within(timeout), self._changed:
                await self._changed.wait_for(lambda: found() is not None or not self._open)
        line = found()
        assert line is not None, f"no such line\nstdout:\n{self.stdout}\nstderr:\n{self.stderr}"
        return line

    async def _read(self, stream: asyncio.StreamReader | None, take: Callable[[str], None]) -> None:
        assert stream is not None
        while line := await stream.readline():
            await self.read.wait()
            async with self._changed:
                take(line.decode("utf-8"))
                self._changed.notify_all()
        async with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def _out(self, text: str) -> None:
        self._said.append(text)
        self.calls.append(json.loads(text))

    def _err(self, text: str) -> None:
        self._told.append(text)
        if text.startswith("{"):
            self.lines.append(json.loads(text))


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)
