"""What the relay tells systemd, over a real datagram socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relay import notify
from tests.rig import RelayProcess, Upstream, config, scenario, within
from tests.rig.raw_client import get


@contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    """The end that systemd holds."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(address)
        ear.setblocking(False)
        yield ear


async def heard(ear: socket.socket) -> bytes:
    async with within():
        return await asyncio.get_running_loop().sock_recv(ear, 4096)


@pytest.mark.parametrize("workers", [1, 2])
@scenario
async def test_the_manager_is_told_when_the_relay_serves_and_when_it_stops(
    tmp_path: Path, workers: int
) -> None:
    path = str(tmp_path / "notify")
    with manager(path) as ear:
        async with (
            Upstream() as upstream,
            RelayProcess(
                config({"a": upstream}, server={"workers": workers}),
                tmp_path,
                {"NOTIFY_SOCKET": path},
            ) as relay,
        ):
            first = await heard(ear)
            answer = await get(relay.address, "/readyz", key=None)
            await relay.stop()
            last = await heard(ear)

    assert first == b"READY=1"
    assert answer.status == 200
    assert last == b"STOPPING=1"


@scenario
async def test_an_address_that_is_no_file_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"relay-test-{tmp_path}"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    with manager(f"\0{name}") as ear:
        notify.tell(notify.READY)

        assert await heard(ear) == b"READY=1"


@pytest.mark.parametrize("name", ["", "vsock:2:1234", "/nowhere/notify", "@nobody listens here"])
def test_a_manager_that_is_not_there_does_not_matter(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name)

    notify.tell(notify.READY)
