"""The ledger's tables: a row for each call, and sums by day that lose nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.records import AttemptRecord, CallRecord
from relay.state import calls
from relay.state.calls import DAY_MS, MANY
from relay.state.report import Dimension, Question, ask
from relay.usage import Usage
from tests.recorded import DAY, FIRST, PROPERTY, call, memory, recorded, summed

EVERY: tuple[Dimension, ...] = ("day", "key", "group", "model", "upstream")
FIRST_DAY = int(FIRST * 1000) // DAY_MS


def test_a_row_holds_what_is_known_of_a_call() -> None:
    record = call(
        7,
        received=FIRST + 1.2345,
        group="team",
        model="m",
        served_model="other",
        outcome="stream_truncated",
        stream=True,
        attempts=(AttemptRecord("a", "5xx", 1.0), AttemptRecord("up", "ok", 2.0)),
        usage=Usage(10, 20, 3, 4, 5, "continuous"),
        cost=123,
        ttft=0.3456,
        duration=4.0,
    )
    with memory([record]) as connection:
        row = connection.execute(
            "SELECT at, calls.id, k.name, g.name, m.name, a.name, u.name, o.name, code, stream, attempts, input,"
            " cached, output, reasoning, audio, s.name, cost, ttft_ms, duration_ms FROM calls"
            " JOIN names k ON k.id = key JOIN names g ON g.id = grp JOIN names m ON m.id = model"
            " JOIN names a ON a.id = asked JOIN names u ON u.id = upstream"
            " JOIN names o ON o.id = outcome JOIN names s ON s.id = source"
        ).fetchall()

        assert row == [
            (
                *(int(FIRST * 1000) + 1234, record.request_id),
                *("shop", "team", "other", "m", "up", "stream_truncated", 200, 1, 2),
                *(10, 3, 20, 4, 5, "continuous", 123, 346, 4000),
            )
        ]


def test_the_model_that_was_asked_is_kept_only_where_another_one_answered() -> None:
    with memory([call(1, model="m", served_model="m")]) as connection:
        assert connection.execute("SELECT asked FROM calls").fetchall() == [(0,)]


@pytest.mark.parametrize("count", [1, MANY - 1, MANY, MANY + 1, 3 * MANY])
def test_calls_that_are_written_twice_are_there_once(count: int) -> None:
    records = [call(number, cost=number) for number in range(count)]
    with memory(records) as connection:
        calls.write(connection, records[::-1])

        stored = connection.execute("SELECT COUNT(*), SUM(cost) FROM calls").fetchone()
        assert stored == (count, sum(range(count)))


def test_neither_prompts_nor_addresses_nor_names_of_the_clients_own_get_in() -> None:
    record = call(1, client="203.0.113.7", client_request_id="mine", trace_id="trace")
    with memory([record]) as connection:
        everything = json.dumps([*connection.execute("SELECT * FROM calls, names")])

        assert not [text for text in ("203.0.113.7", "mine", "trace") if text in everything]


@PROPERTY
@given(recorded(), st.permutations(EVERY), st.integers(1, 5))
def test_sums_by_any_dimensions_are_those_of_the_calls(
    records: list[CallRecord], order: Sequence[Dimension], many: int
) -> None:
    by = tuple(order[:many])
    with memory(records) as connection:
        assert ask(connection, Question(by)).lines == summed(records, *by)


@PROPERTY
@given(recorded(), st.integers(0, 5), st.integers(1, 9))
def test_what_becomes_of_old_calls_changes_no_sum(
    records: list[CallRecord], days: int, step: int
) -> None:
    with memory(records) as connection:
        before = ask(connection, Question(EVERY)).lines
        rounds = 1
        while calls.fold(connection, FIRST_DAY + days, step):
            rounds += 1

        after = ask(connection, Question(EVERY)).lines
        for totals in (*before.values(), *after.values()):
            # A sum of a day does not tell how many of its calls were free.
            totals.free = 0
        assert after == before
        old = sum(record.received < FIRST + days * DAY for record in records)
        left = connection.execute("SELECT COUNT(*) FROM calls").fetchone()[0]
        assert left == len(records) - old
        assert rounds <= old // step + 1


def test_a_call_that_ends_after_its_day_was_summed_up_is_added() -> None:
    records = [call(1, cost=5), call(2, cost=7, received=FIRST + 60.0)]
    with memory(records[:1]) as connection:
        calls.fold(connection, FIRST_DAY + 1, 100)
        calls.write(connection, records[1:])
        calls.fold(connection, FIRST_DAY + 1, 100)

        assert connection.execute("SELECT day, calls, cost FROM days").fetchall() == [
            (FIRST_DAY, 2, 12)
        ]


def test_calls_whose_time_is_not_over_stay() -> None:
    with memory([call(1, received=FIRST + DAY)]) as connection:
        assert not calls.fold(connection, FIRST_DAY + 1, 100)

        assert connection.execute("SELECT COUNT(*) FROM calls").fetchone() == (1,)
