"""What we remember of an endpoint: load, speed, health, holds, pauses and parks."""

from __future__ import annotations

from math import inf
from random import Random

import pytest

from relay.errors import UpstreamFailed, UpstreamOverloaded
from relay.upstream.account import Account
from relay.upstream.address import parse
from relay.upstream.breaker import RAMP, Breaker
from relay.upstream.endpoint import Endpoint
from relay.upstream.failures import Effect, Failure, Retry, Verdict, connect_refused
from tests.endpoints import (
    KEY,
    NONE,
    OK,
    OVERLOADED,
    URL,
    Told,
    attempt,
    directory,
    endpoint,
    failing,
    trip,
)

# -- load and speed --


def test_load_is_held_from_the_beginning_to_the_end_of_an_attempt() -> None:
    at = endpoint()

    tickets = [at.begin(0.0), at.begin(0.0)]
    held = (at.inflight, at.account.inflight)
    for ticket, verdict in zip(tickets, (OK, NONE), strict=True):
        at.end(9.0, verdict, None, ticket)

    assert held == (2, 2)
    assert (at.inflight, at.account.inflight) == (0, 0)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_gives_the_load_back(verdict: Verdict) -> None:
    at = endpoint()

    at.end(1.0, verdict, None, at.begin(0.0))

    assert (at.inflight, at.account.inflight) == (0, 0)


def test_keys_of_one_account_share_its_load_and_count_their_own() -> None:
    known = directory()
    one = known.endpoint(upstream="u", base_url=URL, credential="a" * 20)
    two = known.endpoint(upstream="u", base_url=URL, credential="b" * 20)

    one.begin(0.0)
    two.begin(0.0)

    assert one.account is two.account
    assert (one.inflight, two.inflight, one.account.inflight) == (1, 1, 2)


def test_the_average_ttft_starts_with_the_first_and_follows_the_newest() -> None:
    at = endpoint()

    for seconds in (1.0, 2.0):
        at.spoke(seconds)

    assert at.ttft == pytest.approx(1.2)


def test_an_attempt_that_was_overtaken_was_at_least_as_slow_as_it_was_silent() -> None:
    at = endpoint()
    at.spoke(1.0)

    at.spoke(0.5, overtaken=True)
    assert at.ttft == 1.0
    at.spoke(2.0, overtaken=True)
    assert at.ttft == pytest.approx(1.2)


def test_an_end_without_a_ticket_counts_as_the_newest_attempt() -> None:
    at = endpoint()
    trip(at)

    at.begin(10.0)
    at.end(11.0, OK)

    assert at.state(11.0) == "closed"


# -- the breaker --


def test_a_run_of_failures_opens_and_a_probe_closes() -> None:
    told = Told()
    at = endpoint(told)

    trip(at, now=0.0)
    attempt(at, 10.0)

    assert [state for _, state in told.states] == ["open", "half_open", "closed"]
    assert told.reasons[0] == "5 failures in a row"


def test_a_probe_that_brought_content_closes_before_its_stream_ends() -> None:
    at = endpoint()
    trip(at)
    probe = at.begin(10.0)

    at.committed(11.0, probe)

    assert at.state(11.0) == "closed"
    at.end(600.0, OK, None, probe)
    assert at.state(600.0) == "closed"


def test_content_of_a_straggler_closes_nothing() -> None:
    at = endpoint()
    straggler = at.begin(0.0)
    trip(at)

    at.committed(1.0, straggler)

    assert at.state(1.0) == "open"


def test_a_throttled_probe_opens_again_for_longer() -> None:
    at = endpoint()
    trip(at)
    probe = at.begin(10.0)

    at.end(10.0, OVERLOADED, failing(Effect.PAUSE, 2.0), probe)

    assert at.breaker.until >= 15.0
    assert at.state(10.0) == "open"


def test_a_probe_whose_client_left_is_given_back() -> None:
    at = endpoint()
    trip(at)

    at.end(11.0, NONE, None, at.begin(10.0))

    assert at.well(11.0)


def test_while_it_is_not_closed_it_is_never_clear() -> None:
    at = endpoint()

    trip(at)
    opened = at.clear_from
    attempt(at, 10.0)

    assert opened == inf
    assert at.clear_from == 10.0 + RAMP


# -- holds, pauses, parks --


def test_a_503_that_asks_to_wait_is_a_strike_and_keeps_the_endpoint_out() -> None:
    told = Told()
    at = endpoint(told)
    failure = Failure("5xx", Retry.PAID, Effect.HOLD, UpstreamOverloaded(wait=30.0), 30.0)

    attempt(at, 0.0, failure)

    assert not at.well(29.9)
    assert at.well(30.0)
    assert at.state(10.0) == "open"
    for _ in range(4):
        attempt(at, 1.0, failure)
    assert at.breaker.state.value == "open"
    assert told.reasons == ["asks to be left alone for 30 s", "5 failures in a row"]


def test_a_rejected_credential_is_parked_alone_and_said_once() -> None:
    told = Told()
    known = directory(told)
    one = known.endpoint(upstream="u", base_url=URL, credential="a" * 20)
    two = known.endpoint(upstream="u", base_url=URL, credential="b" * 20)

    for _ in range(3):
        attempt(one, 0.0, failing(Effect.PARK_CREDENTIAL))

    assert not one.passes("m", 299.0)
    assert one.passes("m", 300.0)
    assert two.passes("m", 0.0)
    assert (one.state(0.0), two.state(0.0)) == ("parked", "closed")
    assert told.states == [("u", "parked")]


def test_an_account_without_money_parks_all_its_keys() -> None:
    known = directory()
    one = known.endpoint(upstream="u", base_url=URL, credential="a" * 20, account="acme")
    two = known.endpoint(upstream="v", base_url=URL, credential="b" * 20, account="acme")

    attempt(one, 0.0, failing(Effect.PARK_ACCOUNT))

    assert not one.passes("m", 299.0)
    assert not two.passes("m", 299.0)
    assert two.state(0.0) == "parked"
    assert two.account.clear_from == 300.0


def test_a_success_after_a_park_ends_it() -> None:
    told = Told()
    at = endpoint(told)
    attempt(at, 0.0, failing(Effect.PARK_CREDENTIAL))
    attempt(at, 0.0, failing(Effect.PARK_ACCOUNT))

    attempt(at, 301.0)

    assert (at.park.until, at.account.park.until) == (0.0, 0.0)
    assert told.reasons[-1] == "accepted again"


def test_a_stream_from_before_a_park_does_not_end_it() -> None:
    at = endpoint()
    old = at.begin(0.0)
    attempt(at, 1.0, failing(Effect.PARK_CREDENTIAL))

    at.end(60.0, OK, None, old)

    assert at.state(60.0) == "parked"


def test_the_third_403_in_a_row_parks_the_credential() -> None:
    told = Told()
    at = endpoint(told)

    states = []
    for _ in range(3):
        attempt(at, 0.0, failing(Effect.FORBIDDEN))
        states.append(at.state(0.0))

    assert states == ["closed", "closed", "parked"]
    assert told.reasons == ["label: 3 in a row"]


@pytest.mark.parametrize("effect", [None, Effect.NONE, Effect.PAUSE, Effect.MODEL_ABSENT])
def test_an_answer_that_accepted_the_key_breaks_the_row(effect: Effect | None) -> None:
    at = endpoint()

    for _ in range(4):
        attempt(at, 0.0, failing(Effect.FORBIDDEN))
        attempt(at, 0.0, failing(Effect.FORBIDDEN))
        attempt(at, 0.0, None if effect is None else failing(effect, 1.0))

    assert at.park.until == 0.0


def test_a_connection_that_fails_in_between_does_not_break_the_row() -> None:
    at = endpoint()

    for _ in range(3):
        attempt(at, 0.0, failing(Effect.FORBIDDEN))
        attempt(at, 0.0, connect_refused())

    assert at.park.until == 300.0


def test_a_pause_is_of_one_model_and_shows_in_the_state() -> None:
    told = Told()
    at = endpoint(told)

    at.pause("m", 0.0, 2.0)
    at.pause("m", 1.0, 2.0)

    assert (at.passes("m", 2.9), at.passes("n", 0.0), at.passes("m", 3.0)) == (False, True, True)
    assert (at.state(2.9), at.state(3.0)) == ("paused", "closed")
    assert told.states == [("deepseek", "paused")]


@pytest.mark.parametrize("effect", [Effect.NONE, Effect.FORBIDDEN, Effect.MODEL_ABSENT])
def test_what_one_client_can_cause_strikes_nobody(effect: Effect) -> None:
    at = endpoint()

    for _ in range(2):
        attempt(at, 0.0, failing(effect))
    for _ in range(4):
        attempt(at, 0.0, Failure("5xx", Retry.PAID, Effect.STRIKE, UpstreamFailed()))

    assert at.state(0.0) == "closed"


def test_when_it_may_be_used_again_is_known_but_for_parks() -> None:
    at = endpoint()
    free = at.free_at("m", 5.0)
    at.pause("m", 0.0, 20.0)
    paused = at.free_at("m", 5.0)
    trip(at, now=30.0)
    opened = at.free_at("m", 30.0)
    attempt(at, 30.0, failing(Effect.PARK_CREDENTIAL))

    assert (free, paused, opened) == (5.0, 20.0, at.breaker.until)
    assert at.free_at("m", 30.0) == inf


def test_nothing_it_says_of_itself_or_to_the_listener_holds_the_credential() -> None:
    told = Told()
    at = endpoint(told)

    trip(at)
    attempt(at, 20.0, failing(Effect.PARK_CREDENTIAL))

    assert KEY[8:16] not in repr(at) + repr(told.states) + repr(told.reasons)


def test_it_lives_without_a_listener() -> None:
    at = Endpoint("u", "u", Account("u"), parse(URL), None, Breaker(Random(1)), None)

    trip(at)

    assert at.state(0.0) == "open"
