"""A Prometheus and an Alertmanager with the shipped files, as processes of a test, and somebody who is told."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.observe import shipped
from tests.observe.asked import Asked
from tests.rig.deadlines import SCALE, within
from tests.rig.ports import free_port
from tests.rig.raw_client import Address, get
from tests.rig.sdks import absent

T = TypeVar("T")

PATIENCE = 45.0 * SCALE
"""Seconds: a scrape, a window, a `for` and a slow machine."""

PAUSE = 0.2
"""Seconds between two questions: neither program says when it has scraped, evaluated or become ready."""


async def until(ask: Callable[[], Awaitable[T]], timeout: float = PATIENCE) -> T:
    """Asks until the answer is true, and returns it. The last answer is in the AssertionError."""
    answer: T | None = None
    try:
        async with asyncio.timeout(timeout):
            while not (answer := await ask()):  # noqa: ASYNC110  they are other programs
                await asyncio.sleep(PAUSE)
            return answer
    except TimeoutError:
        raise AssertionError(f"still {answer!r} after {timeout} s") from None


def program(*names: str, package: str) -> str:
    for name in names:
        found = shutil.which(name)
        if found is not None:
            return found
    absent(f"{names[0]} is missing: `apt-get install {package}`")
    raise AssertionError


class _Process:
    """A program that listens on a port of its own and says `/-/ready`. Leaving the `async with` ends it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.address: Address = ("127.0.0.1", free_port())
        self._process: asyncio.subprocess.Process | None = None

    @property
    def listen(self) -> str:
        return "{}:{}".format(*self.address)

    def command(self) -> list[str]:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        command = self.command()
        log = (self.home / "log").open("wb")
        with log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                cwd=self.home,
                env={"PATH": os.environ["PATH"]},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            await until(self._is_ready)
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
            self._process.terminate()
        try:
            async with within():
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, (self.home / "log").read_text("utf-8")
        try:
            answer = await get(self.address, "/-/ready", key=None)
        except (OSError, EOFError):
            return False
        return answer.status == 200


class Prometheus(_Process):
    """With the shipped rules, every time in them divided by `factor`; it scrapes and evaluates every second."""

    def __init__(
        self,
        home: Path,
        targets: dict[str, list[str]],
        factor: float,
        alertmanager: str | None = None,
    ) -> None:
        """`targets` by job."""
        super().__init__(home)
        self._targets = targets
        self._factor = factor
        self._alertmanager = alertmanager
        self.asked = Asked(self.address)

    def command(self) -> list[str]:
        (self.home / "rules").mkdir(exist_ok=True)
        for path in shipped.RULES:
            text = shipped.shorter_rules(path, self._factor)
            (self.home / "rules" / path.name).write_text(text, "utf-8")
        config = self.home / "prometheus.yaml"
        config.write_text(
            shipped.prometheus_config(self._targets, self._alertmanager, "1s"), "utf-8"
        )
        return [
            program("prometheus", package="prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={self.home / 'data'}",
            f"--web.listen-address={self.listen}",
            "--enable-feature=exemplar-storage",
            "--log.level=warn",
        ]


class Alertmanager(_Process):
    """With the shipped routes, times divided by `factor`; both receivers are the webhook."""

    def __init__(self, home: Path, webhook: str, factor: float) -> None:
        super().__init__(home)
        self._webhook = webhook
        self._factor = factor

    def command(self) -> list[str]:
        config = self.home / "alertmanager.yaml"
        config.write_text(shipped.alertmanager_config(self._webhook, self._factor), "utf-8")
        return [
            program("prometheus-alertmanager", "alertmanager", package="prometheus-alertmanager"),
            f"--config.file={config}",
            f"--storage.path={self.home / 'data'}",
            f"--web.listen-address={self.listen}",
            "--cluster.listen-address=",
            "--log.level=warn",
        ]

    async def held_back(self, alert: str) -> bool:
        """Whether it has an alert of this name that another one inhibits."""
        found = (await get(self.address, "/api/v2/alerts?inhibited=true", key=None)).json()
        return any(
            each["labels"]["alertname"] == alert and each["status"]["inhibitedBy"] for each in found
        )


class Webhook:
    """Is told by an Alertmanager, and remembers."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        """Notifications as they came, with `receiver` from the path."""
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def alert(self, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first alert that fits, past or to come, with the `receiver` it went to."""

        def found() -> dict[str, Any] | None:
            every = (
                alert | {"receiver": each["receiver"]}
                for each in self.told
                for alert in each["alerts"]
            )
            return next((alert for alert in every if fits(alert)), None)

        try:
            async with within(PATIENCE), self._changed:
                await self._changed.wait_for(lambda: found() is not None)
        except TimeoutError:
            raise AssertionError(f"not among {self.told}") from None
        alert = found()
        assert alert is not None
        return alert

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One notification a connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = next(
                int(line.partition(":")[2])
                for line in head.splitlines()
                if line.lower().startswith("content-length:")
            )
            body = json.loads(await reader.readexactly(length))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            async with self._changed:
                self.told.append(body)
                self._changed.notify_all()
        finally:
            writer.close()
