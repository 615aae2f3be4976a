"""Debian's nginx as a process of the test's own, with deploy/nginx/relay.conf as its only site.

The rest of its configuration is the test's, or that of deploy/compose.yaml.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.rig.deadlines import within
from tests.rig.ports import free_port
from tests.rig.raw_client import Address
from tests.rig.relay_process import ROOT
from tests.rig.sdks import absent

FILES = ROOT / "deploy" / "nginx"
ALONE = "daemon off; master_process off;"
MAIN = """
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
    include {home}/relay/*.conf;
}}
"""


def binary() -> str:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        absent("nginx is missing: `apt-get install nginx-light`")
    assert found is not None
    return found


def _with(name: str, changes: Mapping[str, str]) -> str:
    """A file as shipped, but for what belongs to the place where it runs."""
    text = (FILES / name).read_text("utf-8")
    for shipped, here in changes.items():
        assert text.count(shipped) == 1, shipped
        text = text.replace(shipped, here)
    return text


def _site(port: int, tls: tuple[int, Path] | None) -> str:
    site = _with("relay.conf", {"listen 80;": f"listen 127.0.0.1:{port};"})
    if tls is None:
        return site
    site, marks = re.subn(r"(?m)^( *)# (.*;) +# TLS$", r"\1\2", site)
    assert marks == 3
    site = site.replace("listen 443 ssl;", f"listen 127.0.0.1:{tls[0]} ssl;")
    return site.replace("/etc/nginx/tls/", f"{tls[1]}/")


def _lay_out(
    relays: tuple[Address, ...],
    port: int,
    home: Path,
    *,
    compose: bool,
    tls: tuple[int, Path] | None,
) -> Path:
    """Writes the configuration. Returns its main file."""
    sites, main = home / "relay", home / "nginx.conf"
    sites.mkdir(parents=True)
    there = " ".join(f"server 127.0.0.1:{relay[1]};" for relay in relays)
    if compose:
        upstream = _with("compose-upstream.conf", {"server 172.30.64.3:8080;": there})
        text = (FILES / "nginx.conf").read_text("utf-8").replace(" /tmp/", f" {home}/")
        main.write_text(text.replace("/etc/nginx/relay/", f"{sites}/"), "utf-8")
    else:
        upstream = _with("relay-upstream.conf", {"server 127.0.0.1:8080;": there})
        main.write_text(MAIN.format(home=home), "utf-8")
    (sites / "upstream.conf").write_text(upstream, "utf-8")
    (sites / "site.conf").write_text(_site(port, tls), "utf-8")
    return main


class Nginx:
    """nginx in front of a relay. `stop()` of the relay leaves it running."""

    def __init__(
        self,
        relay: Address,
        home: Path,
        *more: Address,
        compose: bool = False,
        tls: Path | None = None,
    ) -> None:
        """`more`: further relays beside the first. `compose`: with the files that compose.yaml mounts. `tls`: a folder
        with what the lines marked TLS name."""
        self.address: Address = ("127.0.0.1", free_port())
        self.tls_port = free_port()
        self.said = ""
        """Its access log, once it has ended."""
        self._relays = (relay, *more)
        self._home = home
        self._compose = compose
        self._tls = None if tls is None else (self.tls_port, tls)
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        program = binary()
        main = _lay_out(
            *(self._relays, self.address[1], self._home), compose=self._compose, tls=self._tls
        )
        where = ("-p", str(self._home), "-c", str(main), "-e", "stderr")
        command = (program, *where, "-g", ALONE)
        check = await asyncio.create_subprocess_exec(
            *command, "-t", stderr=asyncio.subprocess.PIPE, env=dict(os.environ)
        )
        _, said = await check.communicate()
        assert check.returncode == 0, said.decode()
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            await self._listening()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
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
            said, _ = await self._process.communicate()
        self.said = said.decode()

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
