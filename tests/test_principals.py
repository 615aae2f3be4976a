"""The table of keys: what gets in, what does not, and that nothing else ever happens."""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.admission.principals import Principal, key_digest, nano_dollars
from relay.errors import AddressNotAllowed, InvalidKey, NoKey
from tests.keytables import KEY, NOON, Key, Secret, bearer, table
from tests.rig.relay_process import ROOT


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
