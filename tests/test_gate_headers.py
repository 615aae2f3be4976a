"""What the gate tells clients of their rates."""

from __future__ import annotations

import pytest

from relay.admission.refusals import go_duration
from tests.quota_rig import (
    NOW,
    Limits,
    admitted,
    ask,
    grouped,
    single,
)


def test_headers_tell_both_rates_as_openai_does() -> None:
    gate, shop = single(rpm=1000, tpm=200_000, concurrent=3)
    admitted(ask(gate, shop, tokens=4000))

    lines = gate.headers(shop, NOW)

    assert lines == (
        b"x-ratelimit-limit-requests: 1000\r\n"
        b"x-ratelimit-remaining-requests: 999\r\n"
        b"x-ratelimit-reset-requests: 60ms\r\n"
        b"x-ratelimit-limit-tokens: 200000\r\n"
        b"x-ratelimit-remaining-tokens: 196000\r\n"
        b"x-ratelimit-reset-tokens: 1.2s\r\n"
    )


def test_a_rate_the_key_does_not_have_leaves_its_lines_out() -> None:
    requests, first = single(rpm=5)
    tokens, second = single(tpm=5)

    assert b"tokens" not in requests.headers(first, NOW)
    assert b"requests" not in tokens.headers(second, NOW)


def test_headers_tell_the_tighter_of_key_and_group() -> None:
    gate, shop = grouped(Limits(rpm=100, tpm=50), Limits(rpm=10, tpm=5000))

    lines = gate.headers(shop, NOW)

    assert b"limit-requests: 10\r\n" in lines
    assert b"limit-tokens: 50\r\n" in lines


def test_a_debt_is_shown_as_nothing_left() -> None:
    gate, shop = single(tpm=60)
    admitted(ask(gate, shop, tokens=10)).settle(NOW, 90, 0)

    lines = gate.headers(shop, NOW)

    assert b"remaining-tokens: 0\r\n" in lines
    assert b"reset-tokens: 1m30s\r\n" in lines


def test_asking_for_headers_changes_nothing() -> None:
    gate, shop = single(rpm=10, tpm=100)
    admitted(ask(gate, shop, tokens=50))

    first = gate.headers(shop, NOW + 3)
    gate.headers(shop, NOW + 30)

    assert gate.headers(shop, NOW + 3) == first


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, b"0s"),
        (20, b"20ms"),
        (999, b"999ms"),
        (1000, b"1s"),
        (1200, b"1.2s"),
        (1001, b"1.001s"),
        (10_050, b"10.05s"),
        (60_000, b"1m0s"),
        (360_000, b"6m0s"),
        (61_500, b"1m1.5s"),
        (3_600_000, b"1h0m0s"),
        (3_723_004, b"1h2m3.004s"),
    ],
)
def test_durations_are_written_as_go_writes_them(ms: int, text: bytes) -> None:
    assert go_duration(ms) == text
