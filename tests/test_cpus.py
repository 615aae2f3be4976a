"""`server.workers: auto`: the CPUs that may really be used, by affinity and by every control group above."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.workers.cpus import usable_cpus


def root(tmp_path: Path, group: str, **files: str) -> Path:
    """A file system with this `/proc/self/cgroup`; `__` in a name stands for a slash."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(group, "ascii")
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name.replace("__", "/").replace("_max", ".max")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "ascii")
    return tmp_path


@pytest.mark.parametrize(
    ("quota", "affinity", "cpus"),
    [
        ("max 100000", 8, 8),
        ("200000 100000", 8, 2),
        ("250000 100000", 8, 3),
        ("50000 100000", 8, 1),
        ("400000 100000", 2, 2),
        ("nonsense", 4, 4),
        ("", 4, 4),
    ],
)
def test_the_quota_of_version_2(tmp_path: Path, quota: str, affinity: int, cpus: int) -> None:
    made = root(tmp_path, "0::/a/b\n", a__b__cpu_max=quota)

    assert usable_cpus(made, affinity) == cpus


def test_the_tightest_group_on_the_way_up_counts(tmp_path: Path) -> None:
    made = root(tmp_path, "0::/a/b\n", cpu_max="600000 100000", a__cpu_max="300000 100000")

    assert usable_cpus(made, 8) == 3


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    made = root(tmp_path, "0::/not/visible/here\n", cpu_max="200000 100000")

    assert usable_cpus(made, 8) == 2


@pytest.mark.parametrize("controllers", ["cpu,cpuacct", "cpu"])
def test_the_quota_of_version_1(tmp_path: Path, controllers: str) -> None:
    made = root(tmp_path, f"4:memory:/x\n3:{controllers}:/y\n")
    folder = made / "sys/fs/cgroup" / controllers / "y"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("150000\n", "ascii")
    (folder / "cpu.cfs_period_us").write_text("100000\n", "ascii")

    assert usable_cpus(made, 8) == 2


def test_no_quota_of_version_1_is_no_limit(tmp_path: Path) -> None:
    made = root(tmp_path, "1:cpu:/\n")
    folder = made / "sys/fs/cgroup/cpu"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("-1\n", "ascii")
    (folder / "cpu.cfs_period_us").write_text("100000\n", "ascii")

    assert usable_cpus(made, 8) == 8


def test_without_control_groups_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path, 3) == 3


def test_here() -> None:
    assert usable_cpus() >= 1
