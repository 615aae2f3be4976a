"""The address of a quota store: what is understood, and that no message shows what it holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.config.storeaddress import StoreAddress, read_address

BASE = Path("/etc/relay")


def read(text: str) -> StoreAddress:
    address = read_address(text, BASE)
    assert address is not None
    return address


def test_the_parts_of_an_address() -> None:
    plain = read("redis://host.example")
    whole = read("rediss://user:p%40ss@[::1]:7000/3?ca_file=ca.pem&prefix=blue")
    socket = read("unix:///run/redis/redis.sock?db=2")

    assert (plain.host, plain.port, plain.database, plain.tls) == ("host.example", 6379, 0, False)
    assert (plain.user, plain.password, plain.prefix) == (None, None, "")
    assert (whole.host, whole.port, whole.database, whole.tls) == ("::1", 7000, 3, True)
    assert (whole.user, whole.password) == ("user", "p@ss")
    assert (whole.ca_file, whole.prefix) == ("/etc/relay/ca.pem", "blue")
    assert (socket.socket, socket.database) == ("/run/redis/redis.sock", 2)
    assert read_address("embedded", BASE) is None


def test_an_address_does_not_show_itself() -> None:
    assert "secret" not in repr(read("redis://:secret@host"))


@pytest.mark.parametrize(
    "text",
    [
        "redis",
        "redis://",
        "postgres://host/0",
        "redis://host:port/0",
        "redis://canary@host/zero",
        "redis://:canary@host/99999",
        "redis://:canary@host/0?tls=yes",
        "redis://:canary@host/0?ca_file=x",
        "redis://:canary@host/0?prefix=a{b}",
        "redis://:canary@host/0#1",
        "redis://:canary @host/0",
        "unix://",
        "redis://:canary@host/0?prefix",
    ],
)
def test_what_is_no_address_is_said_without_showing_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as error:
        read(text)

    assert "canary" not in str(error.value)


def test_without_the_library_the_fault_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("relay.config.storeaddress.find_spec", lambda _: None)

    with pytest.raises(ValueError, match=r"relay\[redis\]"):
        read("redis://host")
    assert read_address("embedded", BASE) is None
