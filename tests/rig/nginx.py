"""Debian's nginx as a process of the test's own, with deploy/nginx/relay.conf as its only site."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.rig.deadlines import within
from tests.rig.foreign import free_port
from tests.rig.raw_client import Address
from tests.rig.relay_process import ROOT
from tests.rig.sdks import absent

SITE = ROOT / "deploy" / "nginx" / "relay.conf"
MAIN = """
daemon off;
master_process off;
pid {home}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    include {home}/site.conf;
}}
"""


def binary() -> str:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        absent("nginx is missing: `apt-get install nginx-light`")
    assert found is not None
    return found


def rendered(relay: Address, port: int) -> str:
    """The site as shipped, but for the two addresses."""
    text = SITE.read_text("utf-8")
    for shipped, here in (
        ("server 127.0.0.1:8080;", f"server 127.0.0.1:{relay[1]};"),
        ("listen 80;", f"listen 127.0.0.1:{port};"),
    ):
        assert text.count(shipped) == 1, shipped
        text = text.replace(shipped, here)
    return text


class Nginx:
    """nginx in front of a relay. `stop()` of the relay leaves it running."""

    def __init__(self, relay: Address, home: Path) -> None:
        self.address: Address = ("127.0.0.1", free_port())
        self._relay = relay
        self._home = home
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        program = binary()
        self._home.mkdir()
        (self._home / "site.conf").write_text(rendered(self._relay, self.address[1]), "utf-8")
        main = self._home / "nginx.conf"
        main.write_text(MAIN.format(home=self._home), "utf-8")
        command = (program, "-p", str(self._home), "-c", str(main), "-e", "stderr")
        check = await asyncio.create_subprocess_exec(
            *command, "-t", stderr=asyncio.subprocess.PIPE, env=dict(os.environ)
        )
        _, said = await check.communicate()
        assert check.returncode == 0, said.decode()
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        await self._listening()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        async with within():
            await self._process.communicate()

    async def _listening(self) -> None:
        """nginx says nothing when it listens: the first connection that is taken tells."""
        async with within():
            while True:
                try:
                    _, writer = await asyncio.open_connection(*self.address)
                except OSError:
                    assert self._process is not None
                    assert self._process.returncode is None, "nginx ended"
                    continue
                writer.close()
                await writer.wait_closed()
                return
