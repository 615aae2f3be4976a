"""Who counts as revoked after a reload, and who does not."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from relay.admission.principals import Principal, Principals, key_digest
from relay.config.file import loads
from relay.config.keytable import FiledKey, FormerHash, KeyTable, Plan
from relay.keys.entries import hash_of
from relay.revoking import told_to_cut, was_revoked

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC).timestamp()
OLD, NEW, OTHER = (key_digest(text) for text in ("old", "new", "other"))


def table(*principals: Principal) -> Principals:
    return Principals(principals)


@pytest.mark.parametrize(
    ("before", "after", "revoked"),
    [
        ([Principal("a", OLD)], [], True),
        ([Principal("a", OLD)], [Principal("b", OLD)], True),
        ([Principal("a", OLD)], [Principal("a", OLD, expires=NOON - 1)], False),
        ([Principal("a", OLD)], [Principal("a", OLD, models=["x"])], False),
        ([Principal("a", OLD)], [Principal("a", NEW)], True),
        ([Principal("a", OLD)], [Principal("a", NEW, former={OLD: NOON + 9})], False),
        ([Principal("a", OLD)], [Principal("a", NEW, former={OLD: NOON - 9})], False),
        ([Principal("a", NEW, former={OLD: NOON - 9})], [Principal("a", OTHER)], False),
        ([Principal("a", NEW, former={OLD: NOON + 9})], [Principal("a", OTHER)], True),
    ],
    ids=[
        *("gone", "another id", "expired", "other rights", "replaced", "rotated"),
        *("its grace is over", "its grace was over before it went", "its grace was cut short"),
    ],
)
def test_a_call_of_the_old_key_is_revoked_when_the_key_was_taken_away(
    before: list[Principal], after: list[Principal], revoked: bool
) -> None:
    caller = Principal("a", OLD)

    assert was_revoked(caller, table(*before), table(*after), NOON) is revoked


def test_the_demo_key_is_never_revoked() -> None:
    assert not was_revoked(Principal("demo", OLD, demo=True), table(), table(), NOON)


def test_keys_of_files_are_looked_at_likewise() -> None:
    held = KeyTable()
    former = FormerHash(OLD, datetime(2030, 1, 2, tzinfo=UTC))
    held.add(FiledKey("a", NEW, Plan(), previous=(former,)))
    filed = Principals.build((), {}, held)

    assert not was_revoked(Principal("a", OLD), filed, filed, NOON)
    assert was_revoked(Principal("a", OTHER), filed, filed, NOON)
    assert was_revoked(Principal("b", OLD), filed, filed, NOON)


def test_an_entry_without_a_key_may_ask_for_the_end_of_what_runs() -> None:
    config = loads(
        f"keys: [{{id: a, on_revoke: cut}}, {{id: b}}, {{id: c, hash: '{hash_of('c')}', on_revoke: cut}}]".encode(),
        {},
    )

    assert told_to_cut(config) == {"a"}
