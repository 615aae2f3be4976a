"""Parks double while nothing succeeds; pauses rest one model of an account."""

from __future__ import annotations

from relay.upstream.account import Account, Park


def test_parks_double_from_five_minutes_to_an_hour() -> None:
    park = Park()

    lengths = []
    now = 0.0
    for _ in range(6):
        park.begin(now, latest=0)
        lengths.append(park.until - now)
        now = park.until

    assert lengths == [300.0, 600.0, 1200.0, 2400.0, 3600.0, 3600.0]


def test_attempts_under_way_that_see_the_same_fault_park_once() -> None:
    park = Park()

    told = [park.begin(now, latest=3) for now in (10.0, 10.1, 300.0)]

    assert told == [True, False, False]
    assert park.until == 310.0


def test_a_success_of_a_later_attempt_ends_the_park_and_its_escalation() -> None:
    park = Park()
    park.begin(0.0, latest=7)
    park.begin(300.0, latest=8)

    assert park.proved(ticket=9)

    assert park.until == 0.0
    park.begin(1000.0, latest=9)
    assert park.until == 1300.0


def test_a_stream_that_began_before_the_park_does_not_end_it() -> None:
    park = Park()
    park.begin(0.0, latest=7)

    assert not park.proved(ticket=7)

    assert park.until == 300.0


def test_a_pause_rests_one_model_and_no_other() -> None:
    account = Account("a")

    account.pause("m", 10.0, 5.0)

    assert not account.passes("m", 14.9)
    assert account.passes("m", 15.0)
    assert account.passes("n", 10.0)
    assert account.clear_from == 15.0


def test_a_longer_pause_wins_over_a_later_shorter_one() -> None:
    account = Account("a")

    news = [account.pause("m", 0.0, 100.0), account.pause("m", 1.0, 2.0)]

    assert news == [True, False]
    assert not account.passes("m", 99.0)


def test_pauses_that_are_over_are_not_kept() -> None:
    account = Account("a")
    for number in range(100):
        account.pause(f"m{number}", float(number), 1.0)

    assert set(account.paused) == {"m99"}


def test_a_park_rests_every_model() -> None:
    account = Account("a")

    account.park.begin(0.0, latest=0)
    account.survey()

    assert not account.passes("m", 299.0)
    assert account.passes("m", 300.0)
    assert account.clear_from == 300.0
