"""When ejected endpoints are asked, which is told as to all machines, and what an answer makes of them."""

from __future__ import annotations

import asyncio

import pytest

from relay.errors import NoUpstream
from relay.upstream.breaker import State
from relay.upstream.failures import Effect, Failure, Retry, Verdict
from relay.upstream.probes import AT_ONCE
from tests.endpoints import KEY
from tests.probing import GOOD, INTERVAL, eject, scene, state
from tests.rig import Gate, Stall, Upstream, scenario
from tests.rig import scripts as say

# --- what an answer makes of it -------------------------------------------------------------------


@scenario
async def test_a_good_answer_takes_an_ejected_endpoint_back_without_any_call() -> None:
    async with Upstream(GOOD) as upstream, scene() as here:
        endpoint = here.ejected(upstream)
        here.watch(endpoint)
        due = endpoint.breaker.until

        here.look(due)
        await here.says("closed")

        assert state(endpoint) is State.CLOSED
        (asked,) = upstream.exchanges
        assert asked.request.head.startswith(b"GET /v1/models HTTP/1.1\r\n")
        assert asked.request.headers["authorization"] == f"Bearer {KEY}"
        assert asked.request.headers["host"] == f"127.0.0.1:{upstream.port}"
        assert here.told[-2:] == [
            ("u", "half_open", "is asked for /v1/models"),
            ("u", "closed", "the probe succeeded"),
        ]
        # The share of who comes back grows, however it came back.
        assert endpoint.ramp_from == endpoint.breaker.closed_at >= here.loop.time() - 5


@pytest.mark.parametrize("status", [500, 503, 529, 429, 408])
@scenario
async def test_a_bad_answer_ejects_for_longer_and_the_next_probe_comes_within_the_interval(
    status: int,
) -> None:
    async with Upstream(say.error(status)) as upstream, scene() as here:
        endpoint = here.ejected(upstream)
        here.watch(endpoint)

        here.look(endpoint.breaker.until)
        reason = await here.says("open", 1)
        upstream.script = GOOD
        asked = here.loop.time()
        here.look(asked + INTERVAL / 2 - 0.5)
        early = state(endpoint)
        here.look(asked + INTERVAL)
        await here.says("closed")

        assert reason == f"the probe failed: {status}"
        assert early is State.OPEN
        assert len(upstream.exchanges) == 2


@pytest.mark.parametrize("status", [401, 403, 404, 405])
@scenario
async def test_an_answer_that_says_nothing_of_calls_leaves_the_probe_to_the_next_call(
    status: int,
) -> None:
    async with Upstream(say.error(status)) as upstream, scene() as here:
        endpoint = here.ejected(upstream)
        here.watch(endpoint)

        here.look(endpoint.breaker.until)
        reason = await here.says("open", 1)
        now = here.loop.time()
        admitted = endpoint.well(now)
        here.look(now + 100)
        endpoint.end(now, Verdict.OK, None, endpoint.begin(now))

        assert reason == f"a probe says nothing: {status}"
        assert admitted
        assert state(endpoint) is State.CLOSED
        assert len(upstream.exchanges) == 1
        eject(endpoint, now + 1)
        here.look(endpoint.breaker.until)
        assert state(endpoint) is State.HALF_OPEN, "ejected anew, it is asked anew"


# --- when it is asked -----------------------------------------------------------------------------


@scenario
async def test_it_is_asked_when_the_ejection_is_over_and_not_while_it_serves() -> None:
    async with Upstream(GOOD) as upstream, scene() as here:
        serving, out = here.endpoint(upstream, "serving"), here.ejected(upstream, "out")
        here.watch(serving, out)

        here.look(out.breaker.until - 0.01)
        before = state(out)
        here.look(out.breaker.until)

        assert (before, state(out), state(serving)) == (
            State.OPEN,
            State.HALF_OPEN,
            State.CLOSED,
        )
        await here.says("closed")
        here.look(here.loop.time() + 1000)
        assert {who for who, _, _ in here.told} == {"out"}
        assert len(upstream.exchanges) == 1


@scenario
async def test_no_call_is_the_probe_of_an_endpoint_that_is_asked() -> None:
    async with Upstream([Stall()]) as upstream, scene() as here:
        endpoint = here.ejected(upstream)
        here.watch(endpoint)
        due = endpoint.breaker.until

        before = endpoint.well(due)
        here.look(due)
        during = endpoint.well(due)
        here.watch()

        assert (before, during) == (False, False)
        assert endpoint.well(here.loop.time()), "nobody asks any more"


@scenario
async def test_a_call_of_the_last_member_that_succeeds_is_quicker_than_the_probe() -> None:
    async with Upstream([Gate("answer"), *say.error(503)]) as upstream, scene() as here:
        endpoint = here.ejected(upstream)
        here.watch(endpoint)
        here.look(endpoint.breaker.until)
        asked = await upstream.exchange()
        now = here.loop.time()

        endpoint.end(now, Verdict.OK, None, endpoint.begin(now))
        asked.open("answer")
        await asked.left()

        assert state(endpoint) is State.CLOSED
        assert [said for _, said, _ in here.told] == ["open", "half_open", "closed"]


@scenario
async def test_a_parked_key_is_not_asked_with() -> None:
    async with Upstream(GOOD) as upstream, scene() as here:
        endpoint = here.ejected(upstream)
        here.watch(endpoint)
        now = here.loop.time()
        rejected = Failure("auth_failed", Retry.FREE, Effect.PARK_CREDENTIAL, NoUpstream())
        endpoint.end(now, Verdict.NONE, rejected, endpoint.begin(now))

        here.look(now + 100)
        parked = state(endpoint)
        here.look(now + 301)

        assert (parked, state(endpoint)) == (State.OPEN, State.HALF_OPEN)
        await here.says("closed")


@scenario
async def test_only_so_many_are_under_way_at_once() -> None:
    async with Upstream([Gate("answer"), *GOOD]) as upstream, scene() as here:
        endpoints = [here.ejected(upstream, f"u{n}") for n in range(AT_ONCE + 3)]
        here.watch(*endpoints)
        now = here.loop.time() + 60

        here.look(now)
        await upstream.exchange(AT_ONCE - 1)
        here.look(now)
        asked = sum(state(endpoint) is State.HALF_OPEN for endpoint in endpoints)
        for exchange in upstream.exchanges:
            exchange.open("answer")
        await here.says("closed", AT_ONCE - 1)
        await asyncio.sleep(0)
        here.look(now)

        assert asked == AT_ONCE
        assert sum(state(endpoint) is State.HALF_OPEN for endpoint in endpoints) == 3


@pytest.mark.parametrize("under_way", [True, False])
@scenario
async def test_a_reload_without_the_option_gives_the_probe_back(under_way: bool) -> None:
    async with Upstream([Stall()]) as upstream, scene() as here:
        endpoint = here.ejected(upstream)
        here.watch(endpoint)
        here.look(endpoint.breaker.until)
        if under_way:
            await upstream.exchange()

        here.watch()

        assert state(endpoint) is State.OPEN
        assert endpoint.well(here.loop.time())
        if under_way:
            await upstream.exchanges[0].left()


@scenario
async def test_a_reload_with_it_goes_on_asking() -> None:
    async with Upstream([Gate("answer"), *GOOD]) as upstream, scene() as here:
        endpoint = here.ejected(upstream)
        here.watch(endpoint)
        here.look(endpoint.breaker.until)
        asked = await upstream.exchange()

        here.watch(endpoint, path="/health")
        asked.open("answer")
        await here.says("closed")

        assert len(upstream.exchanges) == 1
