"""Batches of records: all of them, in order, soon."""

from __future__ import annotations

import asyncio

from relay.records import BATCH, BATCH_WAIT, AttemptRecord, Batch, CallRecord
from tests.plane import play
from tests.rig.deadlines import within


def numbered(number: int) -> CallRecord:
    record = CallRecord()
    record.request_id = str(number)
    return record


def test_a_full_batch_is_observed_at_once_in_the_order_of_the_ends() -> None:
    async def scene() -> None:
        seen: list[list[str]] = []
        batch = Batch(
            asyncio.get_running_loop(),
            [lambda records: seen.append([record.request_id for record in records])] * 2,
        )

        for number in range(BATCH):
            batch.add(numbered(number))

        whole = [str(number) for number in range(BATCH)]
        assert seen == [whole, whole], "each observer gets it"
        batch.flush()
        assert len(seen) == 2

    play(scene())


def test_a_single_record_does_not_wait_long() -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        seen = asyncio.Event()
        batch = Batch(loop, [lambda records: seen.set()])
        start = loop.time()
        batch.add(numbered(1))
        assert not seen.is_set()

        async with within():
            await seen.wait()

        assert loop.time() - start < BATCH_WAIT + 0.5

    play(scene())


def test_flush_leaves_nothing_behind_and_no_timer() -> None:
    async def scene() -> None:
        seen: list[int] = []
        batch = Batch(asyncio.get_running_loop(), [lambda records: seen.append(len(records))])
        batch.add(numbered(1))
        batch.flush()
        batch.flush()
        for number in range(BATCH + 1):
            batch.add(numbered(number))
        batch.flush()

        assert seen == [1, BATCH, 1]

    play(scene())


def test_what_an_observer_adds_is_observed_too() -> None:
    async def scene() -> None:
        seen: list[str] = []

        def observe(records: list[CallRecord]) -> None:
            seen.extend(record.request_id for record in records)
            if len(seen) == 1:
                batch.add(numbered(2))

        batch = Batch(asyncio.get_running_loop(), [observe])
        batch.add(numbered(1))
        batch.flush()
        batch.flush()

        assert seen == ["1", "2"]

    play(scene())


def test_the_attempts_of_one_record_are_its_own() -> None:
    one, other = CallRecord(), CallRecord()

    one.tried(AttemptRecord("a", "ok", 1.0))

    assert len(one.attempts) == 1
    assert other.attempts == ()
    assert CallRecord.attempts == ()
