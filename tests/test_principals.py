"""The table of keys: what gets in, what does not, and that nothing else ever happens."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.admission.configured import (
    NO_LIMITS,
    AbortBilling,
    FormerLike,
    GroupLike,
    LimitsLike,
    Network,
    OnRevoke,
)
from relay.admission.principals import (
    Principal,
    Principals,
    key_digest,
    nano_dollars,
)
from relay.config.keymodel import demo_id
from relay.config.keytable import FiledKey, FormerHash, KeyTable, Plan
from relay.errors import AddressNotAllowed, InvalidKey, NoKey
from tests.quota_rig import Group, Limits
from tests.rig.relay_process import ROOT

KEY = "sk-relay-0123456789"
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC).timestamp()


@dataclass(frozen=True)
class Secret:
    text: str

    def get_secret_value(self) -> str:
        return self.text


@dataclass(frozen=True)
class Key:
    id: str = "shop"
    key: Secret | None = Secret(KEY)
    hash: bytes | None = None
    models: tuple[str, ...] = ("*",)
    limits: LimitsLike = NO_LIMITS
    expires: datetime | None = None
    allow_ips: tuple[Network, ...] = field(default=())
    abort_billing: AbortBilling = "delivered"
    group: str | None = None
    weight: float = 1
    on_revoke: OnRevoke = "finish"
    previous: tuple[FormerLike, ...] = ()


GROUPS: dict[str, GroupLike] = {"team": Group(Limits())}


def table(*keys: Key) -> Principals:
    return Principals.build(keys, GROUPS)


def bearer(key: str) -> bytes:
    return b"Bearer " + key.encode()


def test_a_configured_key_is_let_in_with_its_rights() -> None:
    key = Key(models=("deepseek-*",), group="team", abort_billing="drain", weight=3)

    principal = table(key).authenticate(bearer(KEY), "192.0.2.1", NOON)

    assert principal.id == "shop"
    assert principal.group == "team"
    assert principal.abort_billing == "drain"
    assert principal.weight == 3
    assert not principal.demo


def test_a_key_may_be_configured_by_its_hash_alone() -> None:
    keys = table(Key(key=None, hash=sha256(KEY.encode()).digest()))

    assert keys.authenticate(bearer(KEY), None, NOON).id == "shop"


def test_an_entry_without_key_and_hash_lets_nobody_in() -> None:
    keys = table(Key(key=None), Key(id="empty", key=Secret("")))

    assert len(keys) == 0


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER", b"bEaReR"])
def test_the_case_of_the_scheme_does_not_count(scheme: bytes) -> None:
    keys = table(Key())

    assert keys.authenticate(scheme + b" " + KEY.encode(), None, NOON).id == "shop"


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer    ",
        b"Bearer \t",
        b"Bearer\t" + KEY.encode(),
        b"Basic " + KEY.encode(),
        KEY.encode(),
        b" " + bearer(KEY),
    ],
)
def test_a_header_without_a_bearer_key_is_no_key(header: bytes | None) -> None:
    with pytest.raises(NoKey):
        table(Key()).authenticate(header, None, NOON)


@pytest.mark.parametrize(
    "token",
    [
        b"\xff",
        "ключ".encode(),
        b"sk-" + b"x" * 8192,
        KEY.encode() + b" ",
        b" " + KEY.encode(),
        KEY.encode() + b"\t",
        KEY.encode() + b", Bearer " + KEY.encode(),
        KEY.encode() + b" " + KEY.encode(),
        KEY.upper().encode(),
        KEY.encode()[:-1],
        b"' OR 1=1 --",
        b"*3\r\n$3\r\nSET",
        b"%s%n{0}",
    ],
)
def test_anything_but_the_exact_key_is_an_invalid_key(token: bytes) -> None:
    with pytest.raises(InvalidKey) as caught:
        table(Key()).authenticate(b"Bearer " + token, "192.0.2.1", NOON)

    assert caught.value.code == "invalid_api_key"
    assert token.strip().decode("latin-1") not in caught.value.message


@given(st.one_of(st.none(), st.binary(max_size=80), st.binary().map(lambda b: b"Bearer " + b)))
def test_no_bytes_ever_raise_anything_else(header: bytes | None) -> None:
    keys = table(Key())

    with pytest.raises((NoKey, InvalidKey)):
        keys.authenticate(header, "192.0.2.1", NOON)


def test_an_expired_key_is_told_so_and_a_date_means_its_start() -> None:
    keys = table(Key(expires=datetime(2030, 1, 1)))
    start = datetime(2030, 1, 1, tzinfo=UTC).timestamp()

    before = keys.authenticate(bearer(KEY), None, start - 0.001)
    with pytest.raises(InvalidKey, match="expired"):
        keys.authenticate(bearer(KEY), None, start)

    assert before.id == "shop"


NETWORKS = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::/32"))


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


@pytest.mark.parametrize("address", ["10.1.2.3", "2001:db8::1", "::ffff:10.1.2.3"])
def test_an_allowed_address_gets_in(address: str) -> None:
    keys = table(Key(allow_ips=NETWORKS))

    assert keys.authenticate(bearer(KEY), address, NOON).id == "shop"


@pytest.mark.parametrize(
    "address", [None, "", "11.0.0.1", "2001:db9::1", "::ffff:11.0.0.1", "10.1.2", "junk\xff"]
)
def test_any_other_address_is_refused(address: str | None) -> None:
    with pytest.raises(AddressNotAllowed):
        table(Key(allow_ips=NETWORKS)).authenticate(bearer(KEY), address, NOON)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_the_demo_key_works_from_loopback(address: str) -> None:
    keys = table()
    keys.add_demo("sk-demo", ["deepseek-chat"])

    principal = keys.authenticate(bearer("sk-demo"), address, NOON)

    assert principal.demo
    assert principal.allows("deepseek-chat")
    assert not principal.allows("gpt-4o")


def test_the_demo_key_makes_way_for_a_configured_key_of_its_name() -> None:
    keys = table(Key(id="demo"))

    demo = keys.add_demo("sk-demo", ["*"], demo_id(keys.__contains__))

    assert demo.id == "demo-key"
    assert keys.authenticate(bearer(KEY), None, NOON).id == "demo"


@pytest.mark.parametrize("address", [None, "", "192.0.2.1", "0.0.0.0", "10.0.0.1", "fe80::1"])
def test_the_demo_key_works_from_nowhere_else(address: str | None) -> None:
    keys = table()
    keys.add_demo("sk-demo", ["deepseek-chat"])

    with pytest.raises(AddressNotAllowed):
        keys.authenticate(bearer("sk-demo"), address, NOON)


@pytest.mark.parametrize(
    ("globs", "model", "allowed"),
    [
        (("*",), "anything/at:all", True),
        (("deepseek-*",), "deepseek-chat", True),
        (("deepseek-*",), "DeepSeek-chat", False),
        (("gpt-4o",), " gpt-4o", False),
        (("gpt-4o",), "gpt-4o\n", False),
        (("gpt-4o",), "gpt-4o-mini", False),
        (("gpt-4o",), "openai/gpt-4o", False),
        (("gpt-?o",), "gpt-4o", True),
        (("a", "b*"), "bcd", True),
        (("a.c",), "abc", False),
        ((), "anything", False),
    ],
)
def test_globs_match_the_whole_name(globs: tuple[str, ...], model: str, allowed: bool) -> None:
    principal = Principal("shop", key_digest(KEY), models=globs)

    first, remembered = principal.allows(model), principal.allows(model)

    assert first is allowed
    assert remembered is allowed


def test_verdicts_on_endless_model_names_take_bounded_memory() -> None:
    principal = Principal("shop", key_digest(KEY), models=("deepseek-*",))

    for number in range(10_000):
        principal.allows(f"nonsense-{number}")

    assert principal._allowed is not None
    assert len(principal._allowed) <= 256


def test_two_principals_share_neither_an_id_nor_a_key() -> None:
    with pytest.raises(ValueError, match="id shop"):
        table(Key(), Key(key=Secret("sk-other")))
    with pytest.raises(ValueError, match="same key") as caught:
        table(Key(), Key(id="twin"))

    assert KEY not in str(caught.value)


def test_a_key_of_an_unknown_group_is_no_key_without_group_limits() -> None:
    with pytest.raises(ValueError, match="no group ghosts"):
        table(Key(group="ghosts"))


def test_nothing_that_is_printed_holds_the_key() -> None:
    keys = table(Key())
    principal = keys.authenticate(bearer(KEY), None, NOON)

    assert repr(principal) == "<Principal shop>"
    assert KEY not in repr(keys)
    assert KEY.encode() not in principal.digest


def test_key_text_is_never_compared() -> None:
    source = (ROOT / "relay/admission/principals.py").read_text(encoding="utf-8")

    compared = re.findall(r"(?:token|authorization|key|digest)\S*\s*[!=]=", source)

    assert compared == ["authorization[:7].lower() !="], "the scheme, and only the scheme"


@pytest.mark.parametrize(
    ("dollars", "nano"),
    [
        (None, None),
        (0, 0),
        (50, 50_000_000_000),
        (0.1, 100_000_000),
        (19.99, 19_990_000_000),
        (Decimal("0.000000003"), 3),
    ],
)
def test_dollars_become_the_nano_dollars_the_admin_wrote(
    dollars: Decimal | float | None, nano: int | None
) -> None:
    assert nano_dollars(dollars) == nano


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


def test_whoever_was_let_go_is_not_found_again() -> None:
    rests: list[int] = []
    found = table(*(Key(f"k{number}", Secret(f"sk-{number:020d}")) for number in range(600)))

    found.retire(lambda: rests.append(len(found.by_digest)))

    assert rests == [344, 88, 0]
    assert found.get("k1") is None
