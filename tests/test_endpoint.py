"""What we remember of an endpoint: load, health, parks; and how a reload finds it again."""

from __future__ import annotations

from math import inf
from pathlib import Path
from random import Random

import pytest

from relay.errors import NoUpstream, UpstreamFailed, UpstreamOverloaded
from relay.upstream.account import Account
from relay.upstream.address import parse
from relay.upstream.breaker import RAMP, Breaker
from relay.upstream.directory import Directory
from relay.upstream.endpoint import Endpoint
from relay.upstream.failures import Effect, Failure, Retry, Verdict, connect_refused

URL = "http://127.0.0.1:8000/v1"
KEY = "sk-live-Zq8Kw2Lm5Xr7Tb9Np3Vc6Yd1"

OK, FAILED, OVERLOADED, NONE = Verdict.OK, Verdict.FAILED, Verdict.OVERLOADED, Verdict.NONE


class Told:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.states: list[tuple[str, str]] = []
        self.reasons: list[str] = []

    def __call__(self, endpoint: Endpoint, state: str, reason: str) -> None:
        self.states.append((endpoint.label, state))
        self.reasons.append(reason)


def directory(told: Told | None = None) -> Directory:
    return Directory(told, Random(1))


def endpoint(told: Told | None = None) -> Endpoint:
    return directory(told).endpoint(upstream="deepseek", base_url=URL, credential=KEY)


def failing(effect: Effect, wait: float | None = None) -> Failure:
    return Failure("label", Retry.FREE, effect, NoUpstream(), wait)


def attempt(at: Endpoint, now: float, failure: Failure | None = None) -> None:
    ticket = at.begin(now)
    at.end(now, OK if failure is None else failure.verdict, failure, ticket)


def trip(at: Endpoint, now: float = 0.0) -> None:
    for _ in range(5):
        attempt(at, now, connect_refused())


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


# -- the directory --


def test_an_endpoint_carries_what_the_wire_needs() -> None:
    at = directory().endpoint(
        upstream="u", base_url="https://api.example.com:8443/v1/", credential=KEY, connect=1.5
    )

    assert (at.tls, at.host, at.port) == (True, "api.example.com", 8443)
    assert (at.authority, at.base_path) == (b"api.example.com:8443", b"/v1")
    assert (at.credential, at.connections, at.request_head) == (KEY, None, b"")
    assert (at.connect, at.first_token, at.idle, at.answer, at.total) == (1.5, 30, 60, 600, 1800)
    assert (at.max_concurrent, at.name, at.demo) == (None, "u", False)


@pytest.mark.parametrize("url", [None, "", "ftp://a.b", "https://user:pw@a.b"])
def test_a_bad_base_url_is_refused(url: str | None) -> None:
    with pytest.raises(ValueError, match="base_url"):
        directory().endpoint(upstream="u", base_url=url)


def test_the_demo_needs_no_base_url() -> None:
    at = directory().endpoint(upstream="demo", base_url=None, demo=True)

    assert at.demo
    assert at.host == ""


def test_a_reload_finds_the_endpoint_with_its_memory_and_gives_it_new_settings() -> None:
    known = directory()
    at = known.endpoint(upstream="u", base_url=URL, credential=KEY, max_concurrent=5)
    at.begin(0.0)
    at.end(0.0, OK, None, at.begin(0.0))
    at.spoke(0.7)
    trip(at)
    at.pause("m", 0.0, 9.0)
    at.connections = connections = object()

    again = known.endpoint(
        upstream="u", base_url=URL + "/", credential=KEY, max_concurrent=9, idle=7.0
    )

    assert again is at
    assert (at.max_concurrent, at.ceiling, at.idle) == (9, 9, 7.0)
    assert (at.inflight, at.ttft, at.state(0.0)) == (1, 0.7, "open")
    assert not at.passes("m", 8.0)
    assert at.connections is connections


def test_a_reload_frees_parks() -> None:
    known = directory()
    at = known.endpoint(upstream="u", base_url=URL, credential=KEY)
    attempt(at, 0.0, failing(Effect.PARK_CREDENTIAL))
    attempt(at, 0.0, failing(Effect.PARK_ACCOUNT))

    known.endpoint(upstream="u", base_url=URL, credential=KEY)

    assert at.passes("m", 1.0)
    assert at.state(1.0) == "closed"
    assert (at.clear_from, at.account.clear_from) == (0.0, 0.0)


@pytest.mark.parametrize(
    "other",
    [
        {"upstream": "v"},
        {"base_url": "http://127.0.0.1:8001/v1"},
        {"credential": "another-key-of-it"},
        {"account": "acme"},
        {"ca_file": Path("other.pem")},
    ],
)
def test_what_makes_another_place_or_another_payer_is_another_endpoint(
    other: dict[str, str | Path],
) -> None:
    known = directory()
    at = known.endpoint(upstream="u", base_url=URL, credential=KEY)

    changed = known.endpoint(
        upstream=str(other.get("upstream", "u")),
        base_url=str(other.get("base_url", URL)),
        credential=str(other.get("credential", KEY)),
        account=str(other["account"]) if "account" in other else None,
        ca_file=Path(other["ca_file"]) if "ca_file" in other else None,
    )

    assert changed is not at
    assert changed.label != at.label


def test_labels_are_unique_and_made_of_the_upstreams_name_alone() -> None:
    known = directory()

    labels = [
        known.endpoint(upstream="u", base_url=URL, credential=f"credential-{n}").label
        for n in range(3)
    ]

    assert labels == ["u", "u#2", "u#3"]


def test_what_is_not_kept_is_forgotten_and_handed_back() -> None:
    known = directory()
    one = known.endpoint(upstream="u", base_url=URL, credential="a" * 20)
    two = known.endpoint(upstream="v", base_url=URL, credential="b" * 20)
    trip(two)

    gone = known.keep([one])

    assert gone == [two]
    assert known.endpoint(upstream="u", base_url=URL, credential="a" * 20) is one
    anew = known.endpoint(upstream="v", base_url=URL, credential="b" * 20)
    assert anew is not two
    assert anew.account is not two.account
    assert anew.state(0.0) == "closed"


def test_an_attempt_of_a_forgotten_endpoint_still_ends_where_it_began() -> None:
    known = directory()
    at = known.endpoint(upstream="u", base_url=URL)
    ticket = at.begin(0.0)
    known.keep([])
    anew = known.endpoint(upstream="u", base_url=URL)

    at.end(1.0, OK, None, ticket)

    assert (at.inflight, anew.inflight, anew.account.inflight) == (0, 0, 0)


def test_the_seed_of_an_endpoint_is_its_own_and_the_same_everywhere() -> None:
    seeds = [
        directory().endpoint(upstream="u", base_url=URL, credential=key).seed
        for key in ("a" * 20, "a" * 20, "b" * 20)
    ]

    assert seeds[0] == seeds[1] != seeds[2]


def test_a_directory_of_its_own_draws_its_own_jitter() -> None:
    at = Directory().endpoint(upstream="u", base_url=URL)

    trip(at, now=0.0)

    assert 2.5 <= at.breaker.until <= 5.0
