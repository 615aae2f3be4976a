"""How many processes `server.workers: auto` means: one for each CPU that this process may really use.

The number of CPUs of the host says little in a container. Two things bound it: the affinity mask, and the quota of each
control group on the way up from ours (`cpu.max` of version 2, `cpu.cfs_*` of version 1).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import ceil
from pathlib import Path

from relay.cgroup import groups, words


def usable_cpus(root: Path = Path("/"), affinity: int | None = None) -> int:
    """At least 1; a part of a CPU counts as one."""
    if affinity is None:
        affinity = len(os.sched_getaffinity(0))
    return max(1, min([affinity, *(ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """CPUs that each control group above us grants; those without a limit are left out."""
    for version, folder in groups("cpu", root):
        if version == 2:
            yield from _ratio(words(folder / "cpu.max"))
        else:
            quota = words(folder / "cpu.cfs_quota_us")
            yield from _ratio(quota + words(folder / "cpu.cfs_period_us"))


def _ratio(words: list[str]) -> list[float]:
    """Microseconds of CPU in each period of so many; `max` and -1 are no limit."""
    if len(words) < 2 or not (words[0].isdigit() and words[1].isdigit()):
        return []
    quota, period = int(words[0]), int(words[1])
    return [quota / period] if quota and period else []
