"""What a table of keys is made of: the configuration, texts before a rotation, the demo key, key files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from relay.admission.principals import Principals, key_digest
from relay.config.keymodel import demo_id
from relay.config.keytable import FiledKey, FormerHash, KeyTable, Plan
from relay.errors import AddressNotAllowed, InvalidKey
from tests.keytables import GROUPS, KEY, NOON, Key, Secret, bearer, table

# -- keys of the configuration --


def test_two_principals_share_neither_an_id_nor_a_key() -> None:
    with pytest.raises(ValueError, match="id shop"):
        table(Key(), Key(key=Secret("sk-other")))
    with pytest.raises(ValueError, match="same key") as caught:
        table(Key(), Key(id="twin"))

    assert KEY not in str(caught.value)


def test_a_key_of_an_unknown_group_is_no_key_without_group_limits() -> None:
    with pytest.raises(ValueError, match="no group ghosts"):
        table(Key(group="ghosts"))


def test_whoever_was_let_go_is_not_found_again() -> None:
    rests: list[int] = []
    found = table(*(Key(f"k{number}", Secret(f"sk-{number:020d}")) for number in range(600)))

    found.retire(lambda: rests.append(len(found.by_digest)))

    assert rests == [344, 88, 0]
    assert found.get("k1") is None


# -- texts before a rotation --


@dataclass(frozen=True)
class Former:
    hash: bytes
    until: datetime


OLD = "sk-relay-before-0123456789"
ROTATED = Key(previous=(Former(key_digest(OLD), datetime(2030, 1, 2, tzinfo=UTC)),))


def test_a_rotated_key_is_one_principal_by_both_its_texts() -> None:
    keys = table(ROTATED)

    new = keys.authenticate(bearer(KEY), None, NOON)
    old = keys.authenticate(bearer(OLD), None, NOON)

    assert new is old
    assert len(keys) == 1


def test_the_text_before_a_rotation_is_refused_from_its_end_on_with_a_hint() -> None:
    keys = table(ROTATED)

    with pytest.raises(InvalidKey, match="replaced: use the new one") as refused:
        keys.authenticate(bearer(OLD), None, NOON + 12 * 3600)

    assert refused.value.key == "shop"
    assert keys.authenticate(bearer(KEY), None, NOON + 12 * 3600).id == "shop"


def test_a_key_of_a_file_is_one_principal_too_whichever_text_comes_first() -> None:
    held = KeyTable()
    former = FormerHash(key_digest(OLD), datetime(2030, 1, 2, tzinfo=UTC))
    held.add(FiledKey("filed", key_digest(KEY), Plan(), previous=(former,)))
    keys = Principals.build((), {}, held)

    old = keys.authenticate(bearer(OLD), None, NOON)
    new = keys.authenticate(bearer(KEY), None, NOON)

    assert new is old
    assert old.digest == key_digest(KEY)
    assert keys.knows(key_digest(OLD))


def test_the_text_before_a_rotation_is_nobody_elses_key() -> None:
    with pytest.raises(ValueError, match="same key"):
        table(ROTATED, Key(id="other", key=Secret(OLD)))


# -- the demo key --


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_the_demo_key_works_from_loopback(address: str) -> None:
    keys = table()
    keys.add_demo("sk-demo", ["deepseek-chat"])

    principal = keys.authenticate(bearer("sk-demo"), address, NOON)

    assert principal.demo
    assert principal.allows("deepseek-chat")
    assert not principal.allows("gpt-4o")


@pytest.mark.parametrize("address", [None, "", "192.0.2.1", "0.0.0.0", "10.0.0.1", "fe80::1"])
def test_the_demo_key_works_from_nowhere_else(address: str | None) -> None:
    keys = table()
    keys.add_demo("sk-demo", ["deepseek-chat"])

    with pytest.raises(AddressNotAllowed):
        keys.authenticate(bearer("sk-demo"), address, NOON)


def test_the_demo_key_makes_way_for_a_configured_key_of_its_name() -> None:
    keys = table(Key(id="demo"))

    demo = keys.add_demo("sk-demo", ["*"], demo_id(keys.__contains__))

    assert demo.id == "demo-key"
    assert keys.authenticate(bearer(KEY), None, NOON).id == "demo"


# -- keys of files --


class Filed:
    """What a key file held, as the loader hands it over."""

    def __init__(self, *keys: Key) -> None:
        self.keys = {key_digest(key.id): key for key in keys}
        self.expiring = [key for key in keys if key.expires is not None]

    def __len__(self) -> int:
        return len(self.keys)

    def of_id(self, id: str) -> Key | None:
        return self.keys.get(key_digest(id))

    def of_digest(self, digest: bytes) -> Key | None:
        return self.keys.get(digest)


def test_a_key_of_a_file_is_compiled_when_it_calls_and_only_once() -> None:
    found = Principals.build([], GROUPS, Filed(Key("filed", group="team", models=("a-*",))))
    before = len(found.by_digest)

    first = found.authenticate(b"Bearer filed", None, NOON)
    again = found.authenticate(b"Bearer filed", None, NOON)

    assert before == 0
    assert first is again
    assert (first.id, first.group, first.allows("a-1"), first.allows("b")) == (
        *("filed", "team"),
        *(True, False),
    )
    with pytest.raises(InvalidKey):
        found.authenticate(b"Bearer file", None, NOON)


def test_keys_of_files_count_and_are_found_by_id_before_they_call() -> None:
    soon = datetime(2030, 1, 1, tzinfo=UTC)
    found = Principals.build(
        [Key("yaml", Secret(KEY), expires=soon)],
        GROUPS,
        Filed(Key("filed", expires=soon), Key("x")),
    )

    assert len(found) == 3
    assert "yaml" in found
    assert "filed" in found
    assert "gone" not in found
    assert [found.get(id) is None for id in ("yaml", "filed", "gone")] == [False, False, True]
    assert list(found.expiries()) == [("yaml", soon.timestamp()), ("filed", soon.timestamp())]


def test_the_demo_key_makes_way_for_a_key_of_a_file() -> None:
    found = Principals((), Filed(Key("demo")))

    demo = found.add_demo("sk-demo", ["m"], demo_id(found.__contains__))

    assert demo.id == "demo-key"
