"""What a call costs does not grow with what is configured: keys, endpoints. Bounds are wide, growth is not."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from random import Random
from time import process_time

import pytest

from relay.admission.gate import Gate, Need
from relay.admission.principals import Principals
from relay.config.keytable import FiledKey, KeyTable, Plan
from relay.upstream.balance import STRATEGIES
from relay.upstream.directory import Directory
from relay.upstream.pool import Member, Pool
from relay.upstream.verdicts import Verdict
from tests.quota_rig import NOW, WALL
from tests.rig import SCALE

pytestmark = pytest.mark.alone

CALLS = 2000
NEED = Need(10, 10, 0)


def cost(act: Callable[[int], object]) -> float:
    """Seconds of CPU for a call, of the quietest of some rounds."""
    rounds = []
    for _ in range(12):
        start = process_time()
        for number in range(CALLS):
            act(number)
        rounds.append(process_time() - start)
    return min(rounds) / CALLS


def admitted(count: int) -> Callable[[int], object]:
    """Authenticates and admits, one key of `count` after the other."""
    keys = KeyTable()
    for number in range(count):
        token = b"sk-%012d" % number
        keys.add(FiledKey(f"c-{number}", sha256(token).digest(), Plan()))
    principals = Principals.build([], {}, keys)
    gate = Gate(principals, {})
    used = [b"Bearer sk-%012d" % (number * 7919 % count) for number in range(CALLS)]

    def call(number: int) -> None:
        principal = principals.authenticate(used[number], "10.0.0.1", WALL)
        assert principal.allows("m")
        gate.reserve(principal, "m", NEED, NOW, WALL).settle(NOW, 5, 0)

    return call


def picked(count: int, strategy: str) -> Callable[[int], object]:
    known = Directory()
    pool = Pool(
        [
            Member(
                known.endpoint(upstream=f"u{n}", base_url=f"http://127.0.0.1:{9000 + n}/v1"), "m"
            )
            for n in range(count)
        ],
        strategy,
    )
    rng = Random(1)
    prompts = [b"prompt %d" % number for number in range(CALLS)]

    def call(number: int) -> None:
        member = pool.pick(NOW, (), prompts[number], rng)
        assert member is not None
        member.end(NOW, Verdict.OK, None, member.begin(NOW))

    return call


def test_a_call_costs_the_same_with_one_key_as_with_a_hundred_thousand() -> None:
    one, many = cost(admitted(1)), cost(admitted(100_000))

    assert many < 3 * SCALE * one


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_pick_costs_the_same_of_two_endpoints_as_of_two_hundred(strategy: str) -> None:
    two, many = cost(picked(2, strategy)), cost(picked(200, strategy))

    assert many < 3 * SCALE * two
