"""Dials, over real sockets: each way to fail has its name, and one that is given up leaves nothing open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from relay.upstream import dial
from relay.upstream.wire import Connection
from tests.dials import Names, Target, dead_port, deaf_port, dials, server
from tests.plane import play
from tests.rig.deadlines import within

# --- connecting -----------------------------------------------------------------------------------


def test_a_dial_gives_a_connection_that_its_pool_knows() -> None:
    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            found = await made.outcome(Target(port))

            assert isinstance(found, Connection)
            assert made.pool.open == {found}
            assert made.pool.take(asyncio.get_running_loop().time()) is None, "not idle: in use"

    play(scene())


def test_a_refused_connection_is_told_as_that() -> None:
    async def scene() -> None:
        with dead_port() as port:
            async with dials() as made:
                assert await made.outcome(Target(port)) == "connect_refused"
                assert not made.pool.open

    play(scene())


def test_silence_ends_after_connect() -> None:
    async def scene() -> None:
        with deaf_port() as port:
            async with dials() as made:
                loop = asyncio.get_running_loop()
                start = loop.time()

                assert await made.outcome(Target(port, connect=0.1)) == "connect_timeout"

                assert 0.09 <= loop.time() - start < 1.0
                assert not made.pool.open

    play(scene())


def test_a_dial_that_is_given_up_calls_nobody_and_leaves_nothing_open() -> None:
    async def scene() -> None:
        with deaf_port() as deaf:
            async with server() as (port, peers), dials() as made:
                silent, quick = made.start(Target(deaf)), made.start(Target(port))
                for task in (silent, quick):
                    task.cancel()
                await asyncio.gather(silent, quick, return_exceptions=True)
                for peer in peers:
                    async with within():
                        await peer.gone.wait()

                assert made.told == []
                assert not made.pool.open

    play(scene())


@pytest.mark.parametrize("turns", range(8))
def test_a_dial_given_up_at_any_moment_leaves_nothing_open(turns: int) -> None:
    """Whoever gives up a dial either was called, or owes it nothing."""

    async def scene() -> None:
        async with server() as (port, peers), dials() as made:
            loop = asyncio.get_running_loop()
            task = made.start(Target(port))
            for _ in range(turns):
                passed = asyncio.Event()
                loop.call_soon(passed.set)
                await passed.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

            if made.told:
                (connection,) = made.told
                assert made.pool.open == {connection}
            else:
                assert not made.pool.open
                for peer in peers:
                    async with within():
                        await peer.gone.wait()

    play(scene())


# --- names ----------------------------------------------------------------------------------------


def fails() -> list[str]:
    raise OSError(None, "DNS lookup failed")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> list[Names]:
    """The resolvers that dialers make from now on."""
    made: list[Names] = []

    def make() -> Names:
        made.append(Names())
        return made[-1]

    monkeypatch.setattr(dial, "DefaultResolver", make)
    return made


def named(port: int, connect: float = 5.0) -> Target:
    return Target(port, host="upstream.test", connect=connect)


def test_a_real_name_is_looked_up_and_its_other_address_tried() -> None:
    """`localhost` is ::1 too where there is IPv6; nobody listens there."""

    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            assert isinstance(await made.outcome(Target(port, host="localhost")), Connection)

    play(scene())


def test_an_address_that_refuses_is_followed_by_the_next(names: list[Names]) -> None:
    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            names[0].answer = lambda: ["127.0.0.2", "127.0.0.1"]

            assert isinstance(await made.outcome(named(port)), Connection)

    play(scene())


def test_a_name_is_looked_up_once_for_all_who_ask_and_then_remembered(names: list[Names]) -> None:
    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            names[0].held.clear()
            tasks = [made.start(named(port)) for _ in range(5)]
            names[0].held.set()
            async with within():
                await asyncio.gather(*tasks)
            await made.outcome(named(port))

            assert len(made.told) == 6
            assert names[0].asked == 1

    play(scene())


def test_a_dial_that_is_given_up_does_not_take_the_look_up_with_it(names: list[Names]) -> None:
    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            names[0].held.clear()
            first, second = made.start(named(port)), made.start(named(port))
            while not names[0].asked:
                passed = asyncio.Event()
                asyncio.get_running_loop().call_soon(passed.set)
                await passed.wait()
            first.cancel()
            names[0].held.set()
            async with within():
                await second

            assert [isinstance(told, Connection) for told in made.told] == [True]
            assert names[0].asked == 1

    play(scene())


@pytest.mark.parametrize("answer", [fails, list])
def test_a_name_without_an_address_is_a_dns_error(
    names: list[Names], answer: Callable[[], list[str]]
) -> None:
    async def scene() -> None:
        async with dials() as made:
            names[0].answer = answer

            assert await made.outcome(named(9)) == "dns_error"

    play(scene())


def test_a_name_server_that_says_nothing_is_a_dns_error_after_connect(names: list[Names]) -> None:
    async def scene() -> None:
        async with dials() as made:
            names[0].held.clear()

            assert await made.outcome(named(9, connect=0.05)) == "dns_error"

    play(scene())


def test_an_old_answer_serves_while_names_cannot_be_looked_up(
    names: list[Names], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "NAME_TTL", 0.0)

    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            await made.outcome(named(port))
            names[0].answer = fails

            found = [await made.outcome(named(port)) for _ in range(3)]

            assert all(isinstance(one, Connection) for one in found)
            assert names[0].asked > 1, "it is asked anew behind the old answer"
            monkeypatch.setattr(dial, "NAME_STALE", 0.0)
            assert await made.outcome(named(port)) == "dns_error"

    play(scene())


def test_a_changed_answer_is_followed(names: list[Names], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "NAME_TTL", 0.0)

    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            names[0].answer = lambda: ["127.0.0.2"]
            assert await made.outcome(named(port)) == "connect_refused"
            names[0].answer = lambda: ["127.0.0.1"]
            # The first of these learns of the change, and may still have used the old address.
            await made.outcome(named(port))

            assert isinstance(await made.outcome(named(port)), Connection)

    play(scene())
