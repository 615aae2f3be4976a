"""No piece of a secret survives the scrubber, however it is written; sentences do."""

from __future__ import annotations

import string
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.upstream.scrub import LONGEST, PIECE, REMOVED, Scrubber

SECRET = "sk-live-Zq8Kw2Lm5Xr7Tb9Np3Vc6Yd1"
HOSTS = ("api.deepseek.com", "llm.example.co.uk", "10.1.2.3", "vllm")

secrets = st.text(string.ascii_letters + string.digits + "-_", min_size=16, max_size=64)
texts = st.text(max_size=60)


def pieces(secret: str) -> set[str]:
    low = secret.lower()
    return {low[i : i + PIECE] for i in range(len(low) - PIECE + 1)}


def leaks(secret: str, told: str) -> bool:
    views = {told.lower(), unquote(told).lower(), unquote(unquote(told)).lower()}
    return any(piece in view for view in views for piece in pieces(secret))


def percent(text: str) -> str:
    return "".join(f"%{ord(letter):02x}" for letter in text)


ENCODINGS = {
    "as it is": str,
    "upper case": str.upper,
    "lower case": str.lower,
    "percent": percent,
    "percent of percent": lambda text: percent(text).replace("%", "%25"),
    "percent of percent of percent": lambda text: percent(text).replace("%", "%2525"),
    "some percent": lambda text: "".join(
        letter if i % 3 else percent(letter) for i, letter in enumerate(text)
    ),
    "json": lambda text: "".join(f"\\u{ord(letter):04X}" for letter in text),
    "html": lambda text: "".join(f"&#{ord(letter)};" for letter in text),
    "html hex": lambda text: "".join(f"&#x{ord(letter):x};" for letter in text),
}


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
@given(secret=secrets, before=texts, after=texts, data=st.data())
def test_no_piece_of_a_secret_survives_in_any_encoding(
    encode: type[str], secret: str, before: str, after: str, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(secret) - PIECE))
    end = data.draw(st.integers(start + PIECE, len(secret)))
    shown = encode(secret[start:end])

    told = Scrubber([secret])(f"{before} key={shown} {after}")

    assert not leaks(secret, told)
    assert shown not in told


@given(secret=secrets, before=texts, after=texts)
def test_a_secret_glued_to_other_text_does_not_survive(
    secret: str, before: str, after: str
) -> None:
    told = Scrubber([secret])(before + secret + after)

    assert not leaks(secret, told)


@given(secret=secrets, cut=st.integers(0, 70))
def test_a_secret_at_the_place_where_long_texts_are_cut_does_not_survive(
    secret: str, cut: int
) -> None:
    for length in (LONGEST, 3 * LONGEST):
        told = Scrubber([secret])("word " * (length // 5) + "." * 5 + secret)[cut:]

        assert not leaks(secret, told)


@pytest.mark.parametrize(
    "mask", ["***", "********", "...", "\u2026", "\u2022" * 6, "xxxx", "...****", "##", "____"]
)
@given(head=st.integers(3, 12), tail=st.integers(0, 8))
def test_the_ends_that_a_mask_leaves_do_not_survive(mask: str, head: int, tail: int) -> None:
    shown = SECRET[:head] + mask + SECRET[len(SECRET) - tail :]

    told = Scrubber([SECRET])(f"Incorrect API key provided: '{shown}'. Sorry.")

    assert SECRET[:head] not in told
    assert tail < 3 or SECRET[-tail:] not in told
    assert told.endswith("'. Sorry.")


def test_deepseeks_masked_key_is_removed_even_if_it_is_not_ours() -> None:
    told = Scrubber([SECRET])("Authentication Fails, Your api key: ****fcc2 is invalid")

    assert told == f"Authentication Fails, Your api key: {REMOVED} is invalid"


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("Incorrect API key provided: sk-abcdefgh12345678", "sk-abcdefgh12345678"),
        ("header Authorization: Bearer abc.def.ghi was bad", "abc.def.ghi"),
        ("token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.c2ln", "c2ln"),
        ("key AIzaSyD-1234567890abcdefghijklmnop", "AIza"),
        ("limit in organization org-Ab12Cd34Ef56 on tokens", "Ab12Cd34Ef56"),
        ("Project `proj_Ab12Cd34` does not have access", "Ab12Cd34"),
        ("account 8f3e2b1a-77aa-4c1e-9d2f-0123456789ab is in debt", "8f3e2b1a"),
        ("account id: ops@example.com is closed", "ops@example.com"),
        ("dial tcp 192.168.7.9:8443: connection refused", "192.168.7.9"),
        ("see https://platform.deepseek.com/api_keys?x=1 for more", "deepseek"),
        ("API.DeepSeek.com said no", "DeepSeek"),
        ("https%3A%2F%2Fapi.deepseek.com%2Fv1 said no", "deepseek"),
        ("http://docs.example.co.uk/a", "example.co.uk"),
        ("HTTPConnectionPool(host='vllm', port=8000): Max retries", "vllm"),
        ("cannot reach http://vllm/v1", "vllm"),
        ("cannot reach vllm:8000", "vllm"),
        ("via 10.1.2.3", "10.1.2.3"),
    ],
)
def test_what_looks_like_a_credential_an_account_or_our_upstreams_host_is_removed(
    text: str, gone: str
) -> None:
    told = Scrubber([SECRET], HOSTS)(text)

    assert gone.lower() not in told.lower()
    assert REMOVED in told


@pytest.mark.parametrize(
    "text",
    [
        "This model's maximum context length is 131072 tokens. However, you requested 140000 tokens.",
        "Invalid value for 'messages[0].content': expected a string, but got an object instead.",
        "The message is too long... please shorten it … now",
        "This is **important**: the user_message of team-members is a co.uk thing",
        "Could not fetch https://shop.example.org/picture.png",
        "tool_call_id call_Ab12Cd34Ef56 has no answer",
        "vllm does not know this parameter",
        "100% of %s and \\n stay",
        "系统繁忙，请稍后再试",
        "İstanbul is a city",
        "",
    ],
)
def test_an_ordinary_sentence_is_left_alone(text: str) -> None:
    assert Scrubber([SECRET], HOSTS)(text) == text


def test_a_short_secret_goes_only_where_it_stands_alone() -> None:
    scrub = Scrubber(["none", "x"])

    assert scrub("key none is bad, nonetheless x stays") == (
        f"key {REMOVED} is bad, nonetheless x stays"
    )


def test_without_secrets_and_hosts_text_passes() -> None:
    assert Scrubber([], [""])("a plain sentence") == "a plain sentence"


@given(text=st.text(max_size=9000), limit=st.integers(0, LONGEST))
def test_never_more_than_the_limit_is_told(text: str, limit: int) -> None:
    assert len(Scrubber([SECRET], HOSTS)(text, limit)) <= limit


@given(secret=st.text(max_size=40), text=st.text(max_size=100))
def test_no_secret_and_no_text_make_it_raise(secret: str, text: str) -> None:
    told = Scrubber([secret], [secret])(text + secret)

    assert len(told) <= LONGEST
