"""The wheel: everything due is told, nothing early, nothing after it was dropped."""

from __future__ import annotations

import asyncio
import socket
from time import monotonic

import uvloop

from relay.timers import NEVER, STALLED, TICK, Wheel


class Item:
    def __init__(self, told: list[tuple[str, float]], name: str, done: asyncio.Event) -> None:
        self.slot = NEVER
        self.told = told
        self.name = name
        self.done = done

    def expired(self, now: float) -> None:
        self.told.append((self.name, now))
        self.done.set()


def test_items_are_told_in_the_order_of_their_deadlines_and_never_early() -> None:
    async def scene() -> tuple[float, list[tuple[str, float]]]:
        loop = asyncio.get_running_loop()
        wheel, done = Wheel(loop), asyncio.Event()
        told: list[tuple[str, float]] = []
        start = loop.time()
        wheel.add(Item(told, "late", done), start + 0.08)
        wheel.add(Item(told, "early", asyncio.Event()), start + 0.03)
        async with asyncio.timeout(5):
            await done.wait()
        wheel.close()
        return start, told

    start, told = asyncio.run(scene())

    assert [name for name, _ in told] == ["early", "late"]
    assert told[0][1] >= start + 0.03
    assert told[1][1] >= start + 0.08


def test_a_dropped_item_is_not_told() -> None:
    async def scene() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        wheel, done = Wheel(loop), asyncio.Event()
        told: list[tuple[str, float]] = []
        dropped = Item(told, "dropped", asyncio.Event())
        wheel.add(dropped, loop.time() + TICK)
        wheel.add(Item(told, "kept", done), loop.time() + 3 * TICK)
        wheel.drop(dropped)
        assert dropped.slot == NEVER
        async with asyncio.timeout(5):
            await done.wait()
        wheel.close()
        return told

    assert [name for name, _ in asyncio.run(scene())] == ["kept"]


def test_an_item_may_add_itself_again_even_for_the_past() -> None:
    class Twice(Item):
        def expired(self, now: float) -> None:
            self.told.append((self.name, now))
            if len(self.told) == 1:
                self.wheel.add(self, now - 1)
            else:
                self.done.set()

        wheel: Wheel

    async def scene() -> int:
        loop = asyncio.get_running_loop()
        wheel, done = Wheel(loop), asyncio.Event()
        told: list[tuple[str, float]] = []
        item = Twice(told, "twice", done)
        item.wheel = wheel
        wheel.add(item, loop.time())
        async with asyncio.timeout(5):
            await done.wait()
        wheel.close()
        return len(told)

    assert asyncio.run(scene()) == 2


def test_it_sleeps_when_nothing_is_due_and_wakes_for_the_next_item() -> None:
    async def scene() -> int:
        loop = asyncio.get_running_loop()
        wheel = Wheel(loop)
        told: list[tuple[str, float]] = []
        for name in ("first", "second"):
            done = asyncio.Event()
            wheel.add(Item(told, name, done), loop.time() + TICK)
            async with asyncio.timeout(5):
                await done.wait()
        wheel.close()
        return len(told)

    assert asyncio.run(scene()) == 2


def test_it_tells_how_late_the_loop_is() -> None:
    async def scene() -> list[float]:
        loop = asyncio.get_running_loop()
        wheel, done = Wheel(loop), asyncio.Event()
        lags: list[float] = []
        wheel.on_lag = lags.append
        wheel.add(Item([], "item", done), loop.time() + TICK)
        async with asyncio.timeout(5):
            await done.wait()
        wheel.close()
        return lags

    lags = asyncio.run(scene())

    assert lags
    assert all(lag >= 0 for lag in lags)


def test_it_turns_once_a_tick_and_never_spins() -> None:
    async def scene() -> tuple[float, int]:
        loop = asyncio.get_running_loop()
        wheel, done = Wheel(loop), asyncio.Event()
        lags: list[float] = []
        wheel.on_lag = lags.append
        start = loop.time()
        wheel.add(Item([], "item", done), start + 40 * TICK)
        async with asyncio.timeout(10):
            await done.wait()
        wheel.close()
        return loop.time() - start, len(lags)

    took, turns = uvloop.run(scene())

    assert turns <= took / TICK + 2


def test_after_a_stall_of_ours_what_has_come_meanwhile_is_read_before_anybody_is_late() -> None:
    async def scene() -> list[str]:
        loop = asyncio.get_running_loop()
        wheel, read = Wheel(loop), asyncio.Event()
        told: list[tuple[str, float]] = []
        item = Item(told, "silence", asyncio.Event())
        (near, far), (busy, other) = socket.socketpair(), socket.socketpair()
        start = loop.time()

        class Reader(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                wheel.drop(item)
                read.set()

        class Stall(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                far.send(b"a token in time")
                while monotonic() < start + 2 * TICK + 2 * STALLED:
                    pass  # a collection, a host that sleeps

        for sock in (near, busy):
            sock.setblocking(False)
        first, _ = await loop.create_connection(Reader, sock=near)
        second, _ = await loop.create_connection(Stall, sock=busy)
        wheel.add(item, start + 2 * TICK)
        other.send(b"work")
        async with asyncio.timeout(5):
            await read.wait()
        for end in (first, second, far, other):
            end.close()
        wheel.close()
        return [name for name, _ in told]

    assert uvloop.run(scene()) == []
