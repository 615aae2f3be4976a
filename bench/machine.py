"""The machine: which CPUs measure and which are measured, how many files may be open, what it is called in a report.

A report names the CPU model, the kernel and the Python build, never a host name or a path.
"""

from __future__ import annotations

import os
import platform
import resource
import sysconfig
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec


@dataclass(frozen=True, slots=True)
class Cpus:
    """One CPU for what is measured, the rest for what measures."""

    peer: int
    standin: int
    load: int

    @property
    def apart(self) -> bool:
        """Whether the tools leave the measured program's CPU alone."""
        return self.peer not in (self.standin, self.load)


def cpus() -> Cpus:
    """The first three CPUs this process may use; two or one are made to do."""
    mine = sorted(os.sched_getaffinity(0))
    return Cpus(mine[0], mine[1 % len(mine)], mine[2] if len(mine) > 2 else mine[1 % len(mine)])


def open_files() -> int:
    """Raises the limit of open files to the most that is allowed, for the programs started from here; that limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return 1 << 20 if hard == resource.RLIM_INFINITY else hard


def most_streams() -> int:
    """Streams that one proxy can hold: two connections each, and a tenth to spare, or nginx would close idle ones."""
    return int(open_files() * 0.45)


def busy_s() -> float:
    """CPU seconds that all CPUs have worked since the machine started, for anybody."""
    user, nice, system, _, _, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text("utf-8").split(None, 9)[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class Machine(msgspec.Struct, frozen=True):
    """What a reader needs to judge the figures."""

    date: str
    cpu: str
    cores: int
    kernel: str
    python: str
    optimised: bool
    """Whether this Python was built with profile-guided optimisation."""


def describe() -> Machine:
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    # Debian optimises outside configure; the relay looks for the same two signs.
    optimised = any(sign in arguments for sign in ("--enable-optimizations", "--with-dbmliborder"))
    return Machine(
        date=datetime.now(UTC).date().isoformat(),
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        kernel=f"Linux {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}",
        optimised=optimised,
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
