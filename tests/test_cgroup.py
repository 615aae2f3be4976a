"""How much memory the control groups leave, by files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.cgroup import NO_LIMIT, MemoryGauge

MB = 1 << 20


def root(tmp_path: Path, group: str, **files: object) -> Path:
    """A file system with this `/proc/self/cgroup`; in a name `__` is a slash, `_D_` a dot."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(group, "ascii")
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name.replace("__", "/").replace("_D_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n", "ascii")
    return tmp_path


def test_version_2_counts_without_the_pages_that_would_go_first(tmp_path: Path) -> None:
    made = root(
        tmp_path,
        "0::/a\n",
        a__memory_D_max=100 * MB,
        a__memory_D_current=90 * MB,
        a__memory_D_stat=f"anon 1\nfile 2\ninactive_file {20 * MB}\nactive_file 3",
    )
    gauge = MemoryGauge(made)

    assert gauge.limit == 100 * MB
    assert gauge.share(0.85) == pytest.approx(0.7)
    assert gauge.share(0.95) == pytest.approx(0.9), "below the alarm nobody looks"


def test_version_1_has_other_names(tmp_path: Path) -> None:
    made = root(
        tmp_path,
        "4:memory:/a\n1:cpu:/\n0::/\n",
        memory__a__memory_D_limit_in_bytes=100 * MB,
        memory__a__memory_D_usage_in_bytes=95 * MB,
        memory__a__memory_D_stat=f"inactive_file 1\ntotal_inactive_file {5 * MB}",
    )

    assert MemoryGauge(made).share(0.85) == pytest.approx(0.9)


def test_the_tightest_group_on_the_way_up_counts_with_all_that_is_in_it(tmp_path: Path) -> None:
    made = root(
        tmp_path,
        "0::/a/b\n",
        a__memory_D_max=50 * MB,
        a__memory_D_current=40 * MB,
        a__b__memory_D_max=80 * MB,
        a__b__memory_D_current=10 * MB,
    )

    assert MemoryGauge(made).share(0.85) == pytest.approx(0.8)


@pytest.mark.parametrize("limit", ["max", "9223372036854771712", "nonsense", "0", ""])
def test_no_limit_is_no_pressure(tmp_path: Path, limit: str) -> None:
    made = root(tmp_path, "0::/a\n", a__memory_D_max=limit, a__memory_D_current=90 * MB)
    gauge = MemoryGauge(made)

    assert gauge.limit == NO_LIMIT
    assert gauge.share(0.85) == 0.0


def test_a_group_that_cannot_be_read_any_more_is_no_pressure(tmp_path: Path) -> None:
    made = root(tmp_path, "0::/a\n", a__memory_D_max=100 * MB, a__memory_D_current=99 * MB)
    gauge = MemoryGauge(made)
    assert gauge.share(0.85) == pytest.approx(0.99)

    (made / "sys/fs/cgroup/a/memory.current").unlink()

    assert gauge.share(0.85) == 0.0


def test_no_control_groups_at_all(tmp_path: Path) -> None:
    assert MemoryGauge(tmp_path).share(0.85) == 0.0
