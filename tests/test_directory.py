"""Which endpoint a directory makes of settings, and how a reload finds it again with its memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.upstream.directory import Directory
from relay.upstream.failures import Effect
from tests.endpoints import KEY, OK, URL, attempt, directory, failing, trip


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
