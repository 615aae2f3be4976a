"""One run's stage: the stand-in, a peer between it and the load, and the loads themselves."""

from __future__ import annotations

import http.client
import itertools
import os
import resource
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import machine
from bench.machine import Cpus
from bench.peers.base import Launch, Place
from bench.programs import Program, ProgramError, pause
from bench.tools import Load, LoadGenerator, Report, Standin, Target, Tools

LOWEST_PORT = 21_000
"""Below the kernel's ephemeral ports, so that no connection of a load takes one first."""
IDLE_SHARE = 0.05
TICKS = os.sysconf("SC_CLK_TCK")
CALL = b'{"model":"%s","messages":[{"role":"user","content":"Are you there?"}],"stream":false}'


@dataclass(frozen=True, slots=True)
class Running:
    """A peer that answers."""

    name: str
    target: Target
    program: Program
    home: Path

    @property
    def pid(self) -> int:
        return self.program.pid

    def cpu_s(self) -> float:
        """Of all its processes, to a hundredth."""
        return sum(cpu for _, cpu, _ in _group(self.pid))

    def rss_kb(self) -> int:
        """Of all its processes."""
        return sum(rss for _, _, rss in _group(self.pid))

    def processes(self) -> int:
        return len(list(_group(self.pid)))

    def rest(self, patience_s: float = 20.0) -> None:
        """Waits until it has digested the last load: closed connections, logs, garbage."""
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            before = self.cpu_s()
            pause(0.3)
            if self.cpu_s() - before < 0.3 * IDLE_SHARE:
                return


class Rig:
    """What all cases of a run share. `pace` shortens or stretches every load."""

    def __init__(
        self, tools: Tools, standin: Standin, cpus: Cpus, home: Path, pace: float = 1.0
    ) -> None:
        self.tools = tools
        self.standin = standin
        self.cpus = cpus
        self.home = home
        self.pace = pace
        self._others: list[float] = []
        self._numbers = itertools.count()
        self._ports = itertools.count(LOWEST_PORT, 2)

    def place(self, streams: int) -> Place:
        """A folder and a port for the next peer."""
        home = self.home / f"peer-{next(self._numbers)}"
        home.mkdir(parents=True)
        port = next(port for port in self._ports if _free(port) and _free(port + 1))
        return Place(home, port, f"127.0.0.1:{self.standin.port}", streams)

    @contextmanager
    def running(
        self,
        name: str,
        launch: Callable[[Place], Launch],
        *,
        streams: int = 1000,
        patience_s: float = 60.0,
        cpus: set[int] | None = None,
    ) -> Iterator[Running]:
        """A peer, from its first good answer to the end of the block; its folder is removed.

        Raises:
            Absent: it is not on this machine.
            ProgramError: it did not come to answer.
        """
        place = self.place(streams)
        try:
            how = launch(place)
            out = None if how.announces else place.home / "calls.log"
            with Program(
                how.command, cpus or {self.cpus.peer}, place.home, how.env, out
            ) as program:
                port = place.port
                if how.announces:
                    port = int(program.first_line() or 0)
                _wait_for_answer(program, port, how, patience_s)
                url = f"http://127.0.0.1:{port}{how.path}"
                target = Target(
                    url, how.key, how.model, (program.pid, self.standin.pid), how.headers
                )
                yield Running(name, target, program, place.home)
        finally:
            shutil.rmtree(place.home, ignore_errors=True)

    def start_load(self, target: Target, load: Load) -> LoadGenerator:
        """A load that runs beside others."""
        home = self.home / f"load-{next(self._numbers)}"
        return LoadGenerator(self.tools, target, load, self.cpus.load, home)

    def load(self, target: Target, load: Load) -> Report:
        """A load, to its end. Notes how much CPU others used meanwhile."""
        began, busy, ours = time.monotonic(), machine.busy_s(), self._ours_s(target)
        with self.start_load(target, load) as generator:
            report = generator.report()
        others = (machine.busy_s() - busy) - (self._ours_s(target) - ours)
        self._others.append(max(0.0, others / (time.monotonic() - began)))
        return report

    def others(self) -> float:
        """CPUs that programs which are none of ours used during the loads since this was last asked; the worst."""
        worst = max(self._others, default=0.0)
        self._others.clear()
        return worst

    def _ours_s(self, target: Target) -> float:
        """CPU seconds of the peer, the stand-in, and the loads that have ended."""
        running = sum(cpu for pid in target.pids for _, cpu, _ in _group(pid))
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return running + ended.ru_utime + ended.ru_stime


def _free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _wait_for_answer(program: Program, port: int, how: Launch, patience_s: float) -> None:
    """Until a plain call brings the stand-in's stamp."""
    end = time.monotonic() + patience_s
    seen = "it does not listen"
    while time.monotonic() < end:
        if not program.running:
            raise ProgramError(f"it ended: {program.last_words()}")
        try:
            status, body = _call(port, how)
        except (OSError, http.client.HTTPException) as error:
            seen = seen if isinstance(error, ConnectionRefusedError) else repr(error)
        else:
            if status == 200 and b'"@' in body:
                return
            seen = f"status {status}: {body[:200]!r}"
        pause(0.1)
    raise ProgramError(f"no good answer in {patience_s:.0f} s: {seen}; {program.last_words()}")


def _call(port: int, how: Launch) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {how.key}"}
    headers |= dict(line.split(": ", 1) for line in how.headers)
    try:
        connection.request("POST", how.path, CALL % how.model.encode(), headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _group(leader: int) -> Iterator[tuple[int, float, int]]:
    """The processes of a group: id, CPU seconds, KiB resident."""
    page_kb = os.sysconf("SC_PAGE_SIZE") // 1024
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        except OSError:
            continue
        # After the name: state, parent, group; user and system ticks are 12th and 13th, resident pages 22nd.
        if int(fields[2]) == leader:
            cpu = (int(fields[11]) + int(fields[12])) / TICKS
            yield int(folder.name), cpu, int(fields[21]) * page_kb
