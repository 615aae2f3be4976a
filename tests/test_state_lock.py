"""One relay per state folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from threading import Timer

import pytest

from relay.state import lock
from tests.rig.deadlines import WAIT


def test_a_second_one_is_told_who_holds_it(tmp_path: Path) -> None:
    held = lock.take(tmp_path)

    with pytest.raises(lock.Taken, match=f"process {os.getpid()}\\) uses the state folder"):
        lock.take(tmp_path, patience=0)

    held.release()
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600


def test_a_holder_that_is_just_ending_is_waited_for(tmp_path: Path) -> None:
    held = lock.take(tmp_path)
    timer = Timer(0.1, held.release)
    timer.start()

    second = lock.take(tmp_path, patience=WAIT)

    second.release()
    timer.join()


def test_a_forked_process_holds_it_as_well(tmp_path: Path) -> None:
    held = lock.take(tmp_path)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    held.release()

    with pytest.raises(lock.Taken):
        lock.take(tmp_path, patience=0)
    os.close(write)
    os.waitpid(child, 0)

    lock.take(tmp_path, patience=0).release()


def test_a_file_that_was_left_behind_locks_nobody_out(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("4294967\n")

    lock.take(tmp_path, patience=0).release()


def test_where_there_can_be_no_lock_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        lock.take(tmp_path / "missing")
