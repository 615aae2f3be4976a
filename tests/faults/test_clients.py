"""What clients do wrong: each gets its answer, nobody is billed, and the next call is served."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.faults import clients, leaving
from tests.faults.clients import ClientRow, Seen
from tests.faults.leaving import LEAVES, PHASES, PROMPT, Leave
from tests.faults.stage import DAY
from tests.rig import SCALE, scenario

ROWS = clients.rows()
TIMES = 3
"""Clients that leave in each phase in each way; `make faults` has more of them."""


@dataclass
class Played:
    seen: dict[str, Seen]
    page: dict[str, float]
    failed: dict[str, str]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    async def play() -> Played:
        found, failed = {}, {}
        async with clients.serving(tmp_path_factory.mktemp("clients")) as (relay, upstream):
            for row in ROWS:
                try:
                    found[row.name] = await clients.ask(relay, upstream, row)
                except (AssertionError, EOFError, OSError, TimeoutError) as error:
                    failed[row.name] = repr(error)[:500]
            assert all(each.played.is_set() for each in upstream.exchanges)
            return Played(found, await relay.metrics(), failed)

    return asyncio.run(play())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.group}, {row.name}")
def test_what_a_client_does_wrong_has_the_outcome_of_its_row(
    played: Played, row: ClientRow
) -> None:
    assert row.name not in played.failed, played.failed[row.name]

    assert clients.complaints(played.seen[row.name]) == []


def test_only_what_was_served_is_billed_and_nothing_stays_in_flight(played: Played) -> None:
    page = played.page
    tokens = clients.billed(list(played.seen.values()))

    assert round(page['relay_key_limit_ratio{key="tester",limit="tokens_per_day"}'] * DAY) == tokens
    assert page.get('relay_key_limit_ratio{key="poor",limit="tokens_per_day"}') == 0
    assert page['relay_upstream_inflight{upstream="a"}'] == 0


def test_a_row_that_says_something_else_is_complained_about(played: Played) -> None:
    for name, seen in played.seen.items():
        other = ((418, "teapot"),) * len(seen.row.answers)
        wrong = replace(seen, row=replace(seen.row, answers=other, calls=7))

        assert clients.complaints(wrong), name


@pytest.mark.parametrize("leave", LEAVES)
@scenario
async def test_a_client_that_leaves_frees_the_upstream_at_once(
    tmp_path: Path, leave: Leave
) -> None:
    async with leaving.bench(tmp_path) as bench:
        for phase in PHASES:
            for _ in range(TIMES):
                seconds, line = await bench.leave(phase, leave)

                assert seconds < PROMPT * SCALE, phase
                assert leaving.complaints(phase, line) == [], phase

        page = await bench.relay.metrics()
        assert not [
            (series, value)
            for series, value in page.items()
            if "inflight" in series and "bucket" not in series and value
        ]
