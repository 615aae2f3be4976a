"""The same faults before nginx and HAProxy: each with the faulty upstream and a healthy one, as it is usually set up.

Both have what they need to be good at this: HTTP/1.1 and no buffering, two servers, retries as shipped. They keep
asking the faulty one first: nginx is told not to leave it out for ten seconds after its first failure (`max_fails=0`),
since nothing could be seen of the fault otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.judged import Verdict, verdict
from tests.faults.places import HOST, places
from tests.faults.stage import AT_ONCE, Case, Cast, cases
from tests.rig.deadlines import within
from tests.rig.ports import free_port
from tests.rig.raw_client import Address, RawClient, chat_body, request
from tests.rig.relay_process import Fields
from tests.rig.sdks import absent
from tests.rig.upstream import Upstream

HANG = 15.0
"""Seconds; their own patience with an upstream is one."""
UNFIT = frozenset({"unknown"})
"""Places that neither can be pointed at: an unknown name is a fault of their configuration."""

NGINX = """
daemon off;
master_process off;
pid {home}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    client_max_body_size 0;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_buffering off;
    proxy_connect_timeout 300ms;
    proxy_read_timeout 1s;
    proxy_ssl_verify on;
    proxy_ssl_name {host};
    proxy_ssl_server_name on;
    proxy_ssl_trusted_certificate {ca};
    {pools}
    server {{
        listen 127.0.0.1:{port};
        {locations}
    }}
}}
"""
HAPROXY = """
global
    nbthread 1
    maxconn 2000
defaults
    mode http
    timeout connect 300ms
    timeout client 5s
    timeout server 1s
    retries 3
    option redispatch 1
    option http-no-delay
frontend all
    bind 127.0.0.1:{port}
    {uses}
    default_backend scripted
{backends}
"""


@dataclass(frozen=True, slots=True)
class Pool:
    """A faulty server and who is asked beside it."""

    name: str
    port: int
    tls: bool
    trusted: bool


Render = Callable[[Path, int, Sequence[Case], Sequence[Pool], tuple[int, int], Path], list[str]]
"""Writes a configuration and returns the command: home, port, cases, pools, healthy ports (plain, TLS), authority."""


def program(name: str, package: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        absent(f"{name} is missing: `apt-get install {package}`")
    assert found is not None
    return found


def _pool_of(case: Case) -> str:
    return case.row.place.replace(" ", "_")


def nginx(
    home: Path,
    port: int,
    played: Sequence[Case],
    pools: Sequence[Pool],
    good: tuple[int, int],
    authority: Path,
) -> list[str]:
    made = "\n    ".join(
        f"upstream {pool.name} {{ server 127.0.0.1:{pool.port} max_fails=0; "
        f"server 127.0.0.1:{good[pool.tls]} backup; keepalive 16; }}"
        for pool in pools
    )
    scheme = {pool.name: "https" if pool.tls else "http" for pool in pools}
    locations = [
        f"location /{case.name}/ {{ proxy_pass {scheme[_pool_of(case)]}://{_pool_of(case)}; }}"
        for case in played
    ]
    text = NGINX.format(
        home=home,
        port=port,
        host=HOST,
        ca=authority,
        pools=made,
        locations="\n        ".join(locations),
    )
    file = home / "nginx.conf"
    file.write_text(text, "utf-8")
    return [program("nginx", "nginx-light"), "-p", str(home), "-c", str(file), "-e", "stderr"]


def haproxy(
    home: Path,
    port: int,
    played: Sequence[Case],
    pools: Sequence[Pool],
    good: tuple[int, int],
    authority: Path,
) -> list[str]:
    backends = []
    for pool in pools:
        secure = f" ssl verify required verifyhost {HOST} sni str({HOST}) ca-file {authority}"
        backends.append(
            f"backend {pool.name}\n    use-server bad if TRUE\n"
            f"    server bad 127.0.0.1:{pool.port}{secure if pool.tls else ''}\n"
            f"    server good 127.0.0.1:{good[0]}\n"
        )
    uses = [
        f"use_backend {_pool_of(case)} if {{ path_beg /{case.name}/ }}"
        for case in played
        if case.row.place != "scripted"
    ]
    file = home / "haproxy.cfg"
    text = HAPROXY.format(port=port, uses="\n    ".join(uses), backends="\n".join(backends))
    file.write_text(text, "utf-8")
    return [program("haproxy", "haproxy"), "-q", "-db", "-f", str(file)]


PEERS: dict[str, Render] = {"nginx": nginx, "HAProxy": haproxy}


def comparable() -> list[Case]:
    """With a second upstream, which is all that they can be saved by."""
    return [
        case
        for case in cases()
        if case.setting == "with second" and not case.row.both and case.row.place not in UNFIT
    ]


def _pools(cast: Cast, there: dict[str, Fields]) -> list[Pool]:
    pools = [
        Pool("scripted", cast.scripted.port, False, False),
        Pool("hasty", cast.hasty.port, False, False),
    ]
    for name, fields in there.items():
        if name not in UNFIT:
            scheme, _, address = str(fields["base_url"]).partition("://")
            port = int(address.split(":")[1].split("/")[0])
            pools.append(Pool(name.replace(" ", "_"), port, scheme == "https", "ca_file" in fields))
    return pools


@asynccontextmanager
async def _running(command: list[str], address: Address) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=dict(os.environ),
    )
    assert process.stderr is not None
    said = asyncio.get_running_loop().create_task(process.stderr.read())
    try:
        async with within():
            while True:
                assert process.returncode is None, (await said).decode()
                try:
                    _, writer = await asyncio.open_connection(*address)
                except OSError:
                    continue
                writer.close()
                break
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await said


async def _ask(address: Address, case: Case) -> Verdict:
    """The last of the row's calls, as a client sees it."""
    body = chat_body(stream=case.mode == "stream", **case.row.fields)
    whole = request("POST", f"/{case.name}/v1/chat/completions", body)
    found: Verdict = "closed"
    for _ in range(case.row.calls):
        answer, hung = None, False
        try:
            async with asyncio.timeout(HANG), await RawClient.connect(address) as client:
                client.trailers = True
                with contextlib.suppress(ConnectionError):
                    await client.send(whole)
                await client.head(timeout=HANG)
                answer = await client.rest(HANG)
        except TimeoutError:
            hung = True
        except (EOFError, OSError, ValueError, AssertionError):
            pass
        found = verdict(case.row, case.mode, answer, hung)
    return found


async def play(peer: str, home: Path, folder: Path) -> tuple[dict[str, Verdict], list[str]]:
    """One round: what became of each case, and the cases whose upstream was left at work."""
    played = comparable()
    cast = Cast(played)
    port = free_port()
    async with (
        cast.scripted,
        cast.hasty,
        Upstream() as good,
        places(folder) as there,
        Upstream(tls=there.authority.serving(f"DNS:{HOST}")) as secure,
    ):
        pools = _pools(cast, there.fields)
        ports = (good.port, secure.port)
        command = PEERS[peer](home, port, played, pools, ports, there.authority.file)
        address = ("127.0.0.1", port)
        async with _running(command, address):
            gate = asyncio.Semaphore(AT_ONCE)

            async def one(case: Case) -> Verdict:
                async with gate:
                    return await _ask(address, case)

            loop = asyncio.get_running_loop()
            tasks = [loop.create_task(one(case)) for case in played]
            found = {case.title: await task for case, task in zip(played, tasks, strict=True)}
            return found, await _left(cast, played)


async def _left(cast: Cast, played: Sequence[Case]) -> list[str]:
    """Cases whose upstream still works two seconds after the last client has gone."""
    names = {case.name: case.title for case in played}
    busy: dict[str, bool] = defaultdict(bool)
    deadline = asyncio.get_running_loop().time() + 2.0
    for name, exchanges in cast.heard().items():
        for exchange in exchanges:
            try:
                async with asyncio.timeout_at(deadline):
                    await exchange.played.wait()
            except TimeoutError:
                busy[name] = True
    return [names[name] for name in busy]


def version(peer: str) -> str:
    name, package = {"nginx": ("nginx", "nginx-light"), "HAProxy": ("haproxy", "haproxy")}[peer]
    said = subprocess.run(
        [program(name, package), "-v"], capture_output=True, text=True, check=True
    )
    found = re.search(r"(\d+\.\d+\.\d+)", said.stdout + said.stderr)
    return found[1] if found else "?"
