"""base_url is read strictly, and refused with a sentence that does not repeat it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.upstream.address import parse


@pytest.mark.parametrize(
    ("url", "tls", "host", "port", "authority", "path"),
    [
        ("https://api.example.com/v1", True, "api.example.com", 443, b"api.example.com", b"/v1"),
        ("https://api.example.com", True, "api.example.com", 443, b"api.example.com", b""),
        ("https://api.example.com/", True, "api.example.com", 443, b"api.example.com", b""),
        ("HTTP://VLLM:8000/v1/", False, "vllm", 8000, b"vllm:8000", b"/v1"),
        ("http://a.b:80/x", False, "a.b", 80, b"a.b", b"/x"),
        ("https://a.b:80", True, "a.b", 80, b"a.b:80", b""),
        ("https://a.b:443", True, "a.b", 443, b"a.b", b""),
        ("http://127.0.0.1:9", False, "127.0.0.1", 9, b"127.0.0.1:9", b""),
        ("http://[::1]:8000/v1", False, "::1", 8000, b"[::1]:8000", b"/v1"),
        ("http://[0:0::1]", False, "::1", 80, b"[::1]", b""),
        ("http://my_host/openai/d%20e/v1", False, "my_host", 80, b"my_host", b"/openai/d%20e/v1"),
        ("https://xn--bcher-kva.example", True, "xn--bcher-kva.example", 443, None, b""),
    ],
)
def test_a_base_url_is_taken_apart_as_the_wire_needs_it(
    url: str, tls: bool, host: str, port: int, authority: bytes | None, path: bytes
) -> None:
    address = parse(url)

    assert (address.tls, address.host, address.port, address.path) == (tls, host, port, path)
    assert address.authority == (host.encode() if authority is None else authority)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("", "absolute URL"),
        ("api.example.com/v1", "absolute URL"),
        ("//api.example.com", "absolute URL"),
        ("https:/api.example.com", "absolute URL"),
        ("ftp://a.b", "http"),
        ("unix:///run/x", "http"),
        ("https://user:hunter2@a.b", "user name or password"),
        ("https://user@a.b", "user name or password"),
        ("https://a.b/v1?key=hunter2", "query"),
        ("https://a.b/v1?", "query"),
        ("https://a.b/v1#", "fragment"),
        ("https://", "host"),
        ("https:///v1", "host"),
        ("https://:8080", "host"),
        ("https://a b", "blanks"),
        ("https://a.b/\n", "blanks"),
        ("https://a.b\\v1", "blanks"),
        ("https://bücher.example", "xn--"),
        ("https://a..b", "host name"),
        ("https://-a.b", "host name"),
        ("https://a.b.", "host name"),
        ("https://a%41", "host name"),
        ("https://1.2.3", "IPv4"),
        ("https://1.2.3.256", "IPv4"),
        ("https://01.2.3.4", "IPv4"),
        ("https://127.1", "IPv4"),
        ("https://[::g]", "IPv6"),
        ("https://[fe80::1%eth0]", "IPv6"),
        ("https://::1", "IPv6"),
        ("https://[::1", "IPv6"),
        ("https://a.b:", "port"),
        ("https://a.b:0", "port"),
        ("https://a.b:65536", "port"),
        ("https://a.b:8_0", "port"),
        ("https://a.b:+80", "port"),
        ("https://a.b:x", "port"),
        ("https://a.b/v1//x", "segments"),
        ("https://a.b/../v1", "segments"),
        ("https://a.b/./v1", "segments"),
        ("https://a.b/%zz", "path"),
        ("https://a.b/<v1>", "path"),
    ],
)
def test_what_is_not_a_base_is_refused_with_the_reason(url: str, word: str) -> None:
    with pytest.raises(ValueError, match="base_url") as caught:
        parse(url)

    assert word in str(caught.value)
    assert "hunter2" not in str(caught.value)


@given(url=st.text(max_size=30) | st.text(max_size=20).map("https://{}".format))
def test_no_text_raises_anything_but_value_error(url: str) -> None:
    try:
        address = parse(url)
    except ValueError:
        return

    assert 1 <= address.port <= 65535
    assert address.host
    for part in (address.authority, address.path):
        assert b"\r" not in part
        assert b"\n" not in part
        assert b" " not in part
