"""The watch over a process: real descriptors, the memory of a control group in files, what it logs and does."""

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic

from relay import process
from relay.cgroup import MemoryGauge
from relay.watch import Watch
from tests.calls import called
from tests.plane import Plane, play
from tests.rig import scripts as say
from tests.test_cgroup import MB, root
from tests.wires import asked

PLAIN = asked({"stream": False})


def test_a_group_that_is_nearly_full_refuses_new_calls_until_it_is_not(
    tmp_path: Path,
) -> None:
    made = root(tmp_path, "0::/a\n", a__memory_D_max=100 * MB, a__memory_D_current=95 * MB)
    usage = made / "sys/fs/cgroup/a/memory.current"

    async def scene() -> None:
        async with Plane() as plane:
            watch = Watch(plane.front.port, lambda _: None, MemoryGauge(made))
            old, (provider,) = called(plane)
            provider.say(say.SSE_HEAD + b"".join(map(say.frame, say.EVENTS[:3])))
            watch.beat(monotonic())
            new = plane.caller()
            new.say(PLAIN)

            assert new.answers.only.code == "server_is_overloaded"
            assert 5 <= int(new.answers.only.headers["retry-after"]) <= 10
            assert watch.limps() == ["overloaded: short of memory"]

            usage.write_text(str(50 * MB), "ascii")
            watch.beat(monotonic())
            assert watch.limps() == []
            assert not plane.front.port.overload.shedding
            provider.say(b"".join(map(say.frame, say.EVENTS[3:])) + say.LAST_CHUNK)
            assert old.got.endswith(say.LAST_CHUNK)
            for caller in (old, new):
                caller.leave()

    play(scene())


def test_connections_that_idle_are_closed_when_memory_is_nearly_short(tmp_path: Path) -> None:
    made = root(tmp_path, "0::/a\n", a__memory_D_max=100 * MB, a__memory_D_current=86 * MB)

    async def scene() -> None:
        async with Plane() as plane:
            watch = Watch(plane.front.port, lambda _: None, MemoryGauge(made))
            idle = plane.caller()
            idle.say(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            now = monotonic()
            watch.beat(now + 0.5)
            closed = [idle.wire.closed]

            watch.beat(now + 1.5)
            closed.append(idle.wire.closed)

            assert closed == [False, True]
            assert len(idle.answers) == 1

    play(scene())


def test_free_descriptors_are_counted_above_the_lowest_that_is_free() -> None:
    limit = process.file_limit()
    before = process.free_files(limit)
    opened = [os.dup(2) for _ in range(50)]
    after = process.free_files(limit)
    for each in opened:
        os.close(each)

    assert before - after >= 50
    assert process.free_files(limit) == before
