"""Dials, over real sockets: each way to fail has its name, and one that is given up leaves nothing open."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable
from contextlib import nullcontext

import pytest

from relay.upstream import dial, names
from relay.upstream.dial import Dialer
from relay.upstream.wire import Connection
from tests.dials import Dials, Target, dead_port, deaf_port, dials, server
from tests.plane import play, turn
from tests.rig.deadlines import SCALE, within

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


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_descriptor_that_we_lack_is_not_the_upstreams_fault(host: str) -> None:
    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            # The name is known, so that only the socket is missing.
            assert isinstance(await made.outcome(Target(port, host)), Connection)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            lowest = os.dup(0)
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                fault = await made.outcome(Target(port, host))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

            assert fault == "no_descriptor"

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


def test_a_bug_in_a_dial_is_reported_and_its_asker_told() -> None:
    def buggy(_: str) -> list[str]:
        raise ZeroDivisionError

    async def scene() -> None:
        async with dials() as made:
            made.names.answer = buggy

            assert await made.outcome(named(9)) == "dns_error"
            (bug,) = made.bugs
            assert isinstance(bug, ZeroDivisionError)
            made.bugs.clear()

    play(scene())


# --- names ----------------------------------------------------------------------------------------


def fails(_: str) -> list[str]:
    raise OSError(None, "DNS lookup failed")


def named(port: int, connect: float = 5.0, host: str = "upstream.test") -> Target:
    return Target(port, host=host, connect=connect)


async def asked(made: Dials, times: int) -> None:
    """Returns when the resolver has been asked so often."""
    async with within():
        while len(made.names.asked) < times:
            await turn()


def test_a_real_name_is_looked_up_and_its_other_address_tried() -> None:
    """`localhost` is ::1 too where there is IPv6; nobody listens there."""

    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            made.dialer = Dialer(asyncio.get_running_loop())

            assert isinstance(await made.outcome(Target(port, host="localhost")), Connection)
            assert await made.outcome(Target(port, host="no.such.invalid")) == "dns_error"

    play(scene())


def test_an_address_that_refuses_is_followed_by_the_next() -> None:
    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            made.names.answer = lambda _: ["127.0.0.2", "127.0.0.1"]

            assert isinstance(await made.outcome(named(port)), Connection)

    play(scene())


def test_a_name_is_looked_up_once_for_all_who_ask_and_then_remembered() -> None:
    async def scene() -> None:
        async with server() as (port, _), server() as (other, _), dials() as made:
            made.names.silent.add("upstream.test")
            tasks = [made.start(named(each)) for each in (port, other) * 3]
            await asked(made, 1)
            made.names.free.set()
            async with within():
                await asyncio.gather(*tasks)
            await made.outcome(named(port))

            assert len(made.told) == 7
            assert all(isinstance(told, Connection) for told in made.told)
            assert made.names.asked == ["upstream.test"]

    play(scene())


def test_a_dial_that_is_given_up_does_not_take_the_look_up_with_it() -> None:
    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            made.names.silent.add("upstream.test")
            first, second = made.start(named(port)), made.start(named(port))
            await asked(made, 1)
            first.cancel()
            made.names.free.set()
            async with within():
                await second

            assert [isinstance(told, Connection) for told in made.told] == [True]
            assert len(made.names.asked) == 1

    play(scene())


@pytest.mark.parametrize("answer", [fails, lambda _: []])
def test_a_name_without_an_address_is_a_dns_error(answer: Callable[[str], list[str]]) -> None:
    async def scene() -> None:
        async with dials() as made:
            made.names.answer = answer

            assert await made.outcome(named(9)) == "dns_error"

    play(scene())


def test_a_name_server_that_says_nothing_is_a_dns_error_after_connect() -> None:
    async def scene() -> None:
        async with dials() as made:
            made.names.silent.add("upstream.test")

            assert await made.outcome(named(9, connect=0.05)) == "dns_error"
            made.names.free.set()

    play(scene())


def test_names_that_are_never_answered_keep_nobody_else_from_theirs() -> None:
    """Nor do they hold threads that other work needs."""

    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            silent = [f"silent-{number}.test" for number in range(50)]
            made.names.silent.update(silent)
            for host in silent:
                made.start(named(9, host=host))
            await asked(made, len(silent))

            assert isinstance(await made.outcome(named(port)), Connection)
            async with within():
                assert await asyncio.to_thread(lambda: "done") == "done"
            made.names.free.set()

    play(scene())


def test_an_old_answer_serves_while_names_cannot_be_looked_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(names, "NAME_TTL", 0.0)
    monkeypatch.setattr(names, "NAME_REST", 0.0)

    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            await made.outcome(named(port))
            made.names.answer = fails

            found = [await made.outcome(named(port)) for _ in range(3)]

            assert all(isinstance(one, Connection) for one in found)
            await asked(made, 2)  # anew, behind the old answer
            monkeypatch.setattr(names, "NAME_STALE", 0.0)
            made.names.answer = lambda _: ["127.0.0.1"]
            await made.outcome(named(port))
            made.names.answer = fails
            while await made.outcome(named(port)) != "dns_error":
                pass

    play(scene())


def test_a_resolver_that_hangs_holds_up_nobody_who_knows_the_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(names, "NAME_TTL", 0.0)

    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            await made.outcome(named(port))
            made.names.silent.add("upstream.test")

            found = [await made.outcome(named(port)) for _ in range(5)]

            assert all(isinstance(one, Connection) for one in found)
            assert len(made.names.asked) == 2, "one look-up at a time"
            made.names.free.set()

    play(scene())


def test_a_failing_resolver_is_left_alone_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "NAME_TTL", 0.0)
    monkeypatch.setattr(names, "NAME_REST", 3600.0)

    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            await made.outcome(named(port))
            made.names.answer = fails
            await made.outcome(named(port))
            await asked(made, 2)
            async with within():
                while made.dialer._names._asking:
                    await turn()

            found = [await made.outcome(named(port)) for _ in range(5)]

            assert all(isinstance(one, Connection) for one in found)
            assert len(made.names.asked) == 2

    play(scene())


def test_a_changed_answer_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "NAME_TTL", 0.0)

    async def scene() -> None:
        async with server() as (port, _), dials() as made:
            made.names.answer = lambda _: ["127.0.0.2"]
            assert await made.outcome(named(port)) == "connect_refused"
            made.names.answer = lambda _: ["127.0.0.1"]
            # The first of these learns of the change, and may still have used the old address.
            async with within():
                while not isinstance(await made.outcome(named(port)), Connection):
                    pass

    play(scene())


# --- IPv6 -----------------------------------------------------------------------------------------


def test_an_address_of_ipv6_is_dialled() -> None:
    async def scene() -> None:
        async with server(host="::1") as (port, _), dials() as made:
            found = await made.outcome(Target(port, host="::1"))

            assert isinstance(found, Connection)
            assert found.transport.get_extra_info("peername")[0] == "::1"

    play(scene())


@pytest.mark.parametrize(
    ("dead", "alive"), [("::1", "127.0.0.1"), ("127.0.0.1", "::1")], ids=["v6 dead", "v4 dead"]
)
@pytest.mark.parametrize("how", ["refuses", "is deaf"])
def test_of_two_families_the_one_that_lives_is_used(dead: str, alive: str, how: str) -> None:
    """Whichever the system prefers: a dead one costs the delay of happy eyeballs, not the whole of `connect`."""

    async def scene() -> None:
        async with server(host=alive) as (port, _), dials() as made:
            with deaf_port(dead, port) if how == "is deaf" else nullcontext():
                made.names.answer = lambda _: [dead, alive]
                loop = asyncio.get_running_loop()
                start = loop.time()

                found = await made.outcome(named(port))

                assert isinstance(found, Connection)
                assert found.transport.get_extra_info("peername")[0] == alive
                assert loop.time() - start < dial.HAPPY_EYEBALLS_DELAY + 1.0 * SCALE
                assert made.pool.open == {found}

    play(scene())
