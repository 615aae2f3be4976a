"""The two C programs: built once per change, started, and their reports read.

`standin` is the upstream of every measurement, `loadgen` its client; the heads of their sources tell what they count.
"""

from __future__ import annotations

import http.client
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from bench import CACHE
from bench.programs import Program, ProgramError

SOURCES = Path(__file__).resolve().parent / "tools"
SHARED = ("deadlines", "histogram", "message")
PARTS = {
    "standin": ("standin", "answers", "asked", "spec", *SHARED),
    "loadgen": ("loadgen", "events", "options", "process", "tally", *SHARED),
}
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")


def compiler() -> str | None:
    """A C compiler, if there is one."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


@dataclass(frozen=True, slots=True)
class Tools:
    """The built programs."""

    standin: Path
    loadgen: Path


def build(folder: Path = CACHE / "tools") -> Tools:
    """Compiles what is older than its sources.

    Raises:
        ProgramError: there is no compiler, or it complains.
    """
    cc = compiler()
    if cc is None:
        raise ProgramError("a C compiler is missing (Debian: apt-get install gcc libc6-dev)")
    folder.mkdir(parents=True, exist_ok=True)
    newest = max(path.stat().st_mtime for path in SOURCES.iterdir())
    for name, parts in PARTS.items():
        target = folder / name
        if target.exists() and target.stat().st_mtime > newest:
            continue
        files = [str(SOURCES / f"{part}.c") for part in parts]
        done = subprocess.run(
            [cc, *FLAGS, "-o", str(target), *files], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise ProgramError(f"{name} does not compile:\n{done.stderr}")
    return Tools(folder / "standin", folder / "loadgen")


# --- what loadgen tells -----------------------------------------------------------------------


class Durations(msgspec.Struct, frozen=True):
    """Milliseconds."""

    count: int
    p50: float
    p90: float
    p99: float
    p999: float
    max: float


class Watched(msgspec.Struct, frozen=True):
    """A process and its descendants, over the seconds counted."""

    processes: int
    cpu_s: float
    busiest_s: float
    rss_kb: int
    """At the end, while all connections still stand."""


class Report(msgspec.Struct, frozen=True):
    """One load."""

    seconds: float
    events: int
    bytes: int
    open: int
    held: int
    own_cpu_s: float
    outcomes: dict[str, int]
    statuses: dict[str, int]
    first_content_ms: Durations
    added_ms: Durations
    delay_ms: Durations
    total_ms: Durations
    watched: list[Watched]

    @property
    def calls(self) -> int:
        """Whole good answers."""
        return self.outcomes["ok"]

    @property
    def failed(self) -> int:
        """Calls that ended in any other way."""
        return sum(self.outcomes.values()) - self.calls


@dataclass(frozen=True, slots=True)
class Load:
    """What loadgen is asked to do; see the head of loadgen.c."""

    connections: int
    seconds: float
    warmup: float = 0.0
    spread: float = 0.0
    streamed: bool = False
    usage: bool = False
    calls: int | None = None
    body_bytes: int = 0
    keys: int = 0
    sources: int = 1
    asks: str = ""
    """Words for the stand-in, in the request."""
    once: bool = False
    never_read: bool = False

    def arguments(self) -> list[str]:
        told: list[tuple[str, object]] = [
            ("-c", self.connections),
            ("-d", self.seconds),
            ("-w", self.warmup),
            ("-S", self.spread),
            ("-b", self.body_bytes),
            ("-K", self.keys),
            ("-B", self.sources),
        ]
        if self.calls is not None:
            told.append(("-n", self.calls))
        if self.asks:
            told.append(("-x", self.asks))
        words = [str(word) for pair in told for word in pair]
        for flag, on in (
            ("-s", self.streamed),
            ("-U", self.usage),
            ("-1", self.once),
            ("-z", self.never_read),
        ):
            if on:
                words.append(flag)
        return words


@dataclass(frozen=True, slots=True)
class Target:
    """Where the calls go, and whose cost is counted."""

    url: str
    key: str = "sk-bench"
    model: str = "bench-model"
    pids: tuple[int, ...] = ()
    headers: tuple[str, ...] = ()


class LoadGenerator(Program):
    """A load under way."""

    def __init__(self, tools: Tools, target: Target, load: Load, cpu: int, home: Path) -> None:
        watched = [word for pid in target.pids for word in ("-P", str(pid))]
        command = [
            str(tools.loadgen),
            *("-u", target.url, "-k", target.key, "-m", target.model),
            *load.arguments(),
            *(word for header in target.headers for word in ("-H", header)),
            *watched,
        ]
        super().__init__(command, {cpu}, home)

    def finish(self) -> Report:
        """Ends it now."""
        self.send(signal.SIGTERM)
        return self.report()

    def report(self) -> Report:
        """Waits for its end.

        Raises:
            ProgramError: it failed.
        """
        out, _ = self._process.communicate()
        if self._process.returncode != 0:
            raise ProgramError(f"loadgen: {self.last_words()}")
        return msgspec.json.decode(out, type=Report)


class StandinReport(msgspec.Struct, frozen=True):
    """What the stand-in did in its life."""

    connections: int
    requests: int
    streams: int
    events: int
    unread: int
    cpu_s: float
    late_ms: Durations


class Standin:
    """The upstream, for as long as the `with` block."""

    def __init__(self, tools: Tools, cpu: int, home: Path, words: str = "") -> None:
        self._program = Program([str(tools.standin), "-p", "0", *words.split()], {cpu}, home)
        line = self._program.first_line()
        if not line:
            self._program.stop()
            raise ProgramError(f"standin: {self._program.last_words()}")
        self.port: int = msgspec.json.decode(line, type=dict[str, int])["port"]
        self.report: StandinReport | None = None
        """After the `with` block."""

    @property
    def pid(self) -> int:
        return self._program.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/chat/completions"

    def say(self, words: str) -> None:
        """How it answers from now on; starts from what it was told before."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", "/standin", words)
            if connection.getresponse().status != 200:
                raise ProgramError(f"standin: what is {words}?")
        finally:
            connection.close()

    def stop(self) -> StandinReport:
        return msgspec.json.decode(self._program.stop(), type=StandinReport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._program.running:
            self.report = self.stop()
