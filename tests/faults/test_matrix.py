"""Every row of the fault matrix, streamed and plain, with a healthy second member and alone, against one relay."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.faults.row import Break, Failure, Whole
from tests.faults.stage import Case, Outcome, Round, cases, play
from tests.faults.verdicts import complaints, sums
from tests.rig import scripts as say

CASES = cases()


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Round:
    directory = tmp_path_factory.mktemp("matrix")
    return asyncio.run(play(CASES, directory, directory / "authority"))


@pytest.fixture(scope="module")
def outcomes(played: Round) -> dict[int, Outcome]:
    return {outcome.case.number: outcome for outcome in played.outcomes}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_a_fault_has_the_outcome_of_its_row(
    played: Round, outcomes: dict[int, Outcome], case: Case
) -> None:
    assert case.name not in played.errors, played.errors[case.name]

    assert complaints(outcomes[case.number], played) == []


def test_all_cases_together_add_up_and_leave_nothing_in_flight(played: Round) -> None:
    assert sums(played) == []
    assert played.running == []
    assert "Traceback" not in played.stderr


def test_no_row_is_played_twice_and_the_matrix_is_large() -> None:
    titles = [case.title for case in CASES]

    assert len(titles) == len(set(titles))
    assert len({case.row.name for case in CASES}) >= 200


def test_a_row_that_says_something_else_is_complained_about(
    played: Round, outcomes: dict[int, Outcome]
) -> None:
    """The judge is no rubber stamp: every outcome, held against a row of another kind, is found wrong."""
    others = (
        Failure(503, "upstream_overloaded", "no_such_result"),
        Break("some_code", "bad_framing", seen=(say.DONE,)),
        Whole(stream=b"data: 1\n\n", plain=b"{}"),
    )
    for outcome in outcomes.values():
        for other in others:
            row = replace(outcome.case.row, must=other, left_out=False)
            wrong = replace(outcome, case=replace(outcome.case, row=row))

            assert complaints(wrong, played), outcome.case.title
