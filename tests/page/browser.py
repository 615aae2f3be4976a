"""Debian's Chromium, driven by its own ChromeDriver over the WebDriver protocol: plain HTTP, no library.

The packages `chromium` and `chromium-driver` come from the same build, so that they fit each other. Everything the page
asked for, and everything it wrote on its console, can be read afterwards.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from tests.rig.deadlines import WAIT, within
from tests.rig.sdks import absent

ARGUMENTS = (
    *("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-extensions", "--force-device-scale-factor=1"),
)
_STARTED = re.compile(rb"started successfully on port (\d+)")

_WAIT = """
const done = arguments[arguments.length - 1];
const holds = () => (%s);
let observer, timer;
const look = () => {
  let found;
  try { found = holds(); } catch (error) { found = false; }
  if (found) { observer.disconnect(); clearInterval(timer); done(found); }
};
observer = new MutationObserver(look);
observer.observe(document, {subtree: true, childList: true, characterData: true, attributes: true});
timer = setInterval(look, 100);
look();
"""
"""A condition is looked at when the page changes; the timer is for what is no change of the page (a style, a size)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of the page: `sent` is all of it as text, headers and body included."""

    url: str
    method: str
    sent: str


class Browser:
    """One window. Lives as long as its `async with`."""

    def __init__(
        self, directory: Path, language: str = "en-US", size: tuple[int, int] = (1280, 900)
    ) -> None:
        self._directory = directory
        self._language = language
        self._size = size
        self._process: asyncio.subprocess.Process | None = None
        self._http = aiohttp.ClientSession()
        self._driver = ""
        self._session = ""
        self._asked: list[Asked] = []
        self.console: list[str] = []
        """What stood there with a level of warning or worse."""

    async def __aenter__(self) -> Self:
        chromium, driver = programs()
        self._process = await asyncio.create_subprocess_exec(
            *(driver, "--port=0"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            # Chromium and its helpers end with the driver's group.
            start_new_session=True,
            env={"PATH": os.environ["PATH"], "HOME": str(self._directory)},
        )
        assert self._process.stdout is not None
        try:
            async with within(2 * WAIT):
                while not (started := _STARTED.search(await self._process.stdout.readline())):
                    pass
            self._driver = f"http://127.0.0.1:{int(started[1])}/session"
            made = await self._call("POST", "", self._wishes(chromium))
            self._session = "/" + made["sessionId"]
            await self._begin()
        except BaseException:
            await self._end()
            raise
        return self

    async def _begin(self) -> None:
        """The first tab shows what Chromium shows; that is none of the page's."""
        await self.resize(*self._size)
        await self.visit("about:blank")
        await self.requests()
        self._asked, self.console = [], []

    def _wishes(self, chromium: str) -> dict[str, Any]:
        arguments = [*ARGUMENTS, f"--user-data-dir={self._directory / 'profile'}"]
        arguments += [f"--lang={self._language}", f"--accept-lang={self._language}"]
        if os.getuid() == 0:
            arguments.append("--no-sandbox")
        options = {
            "binary": chromium,
            "args": arguments,
            "prefs": {"intl.accept_languages": self._language},
            "perfLoggingPrefs": {"enableNetwork": True},
        }
        wishes = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
            "timeouts": {"script": int(2 * WAIT * 1000)},
        }
        return {"capabilities": {"alwaysMatch": wishes}}

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        if self._session:
            await self._call("DELETE", "")
        await self._http.close()
        if self._process is not None:
            if self._process.returncode is None:
                self._process.terminate()
            await self._process.communicate()

    async def _call(self, method: str, path: str, fields: dict[str, Any] | None = None) -> Any:
        url = self._driver + self._session + path
        body = None if method != "POST" else (fields or {})
        async with within(4 * WAIT), self._http.request(method, url, json=body) as answer:
            value = (await answer.json(content_type=None))["value"]
        assert answer.status == 200, f"{method} {path}: {value.get('error')}: {value['message']}"
        return value

    # -- what a person does --

    async def visit(self, url: str) -> None:
        """Returns when the page is loaded."""
        await self._call("POST", "/url", {"url": url})

    async def resize(self, width: int, height: int) -> None:
        """Of the page itself, as on a phone of this size."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1}
        mobile = {"mobile": width < 500}
        await self.devtools("Emulation.setDeviceMetricsOverride", **metrics, **mobile)

    async def prefer(self, scheme: str) -> None:
        """`light` or `dark`, as the system's setting."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        await self.devtools("Emulation.setEmulatedMedia", features=[feature])

    async def click(self, selector: str) -> None:
        await self._call("POST", f"/element/{await self._find(selector)}/click")

    async def type(self, selector: str, text: str) -> None:
        """Key by key."""
        await self._call("POST", f"/element/{await self._find(selector)}/value", {"text": text})

    async def press(self, *keys: str) -> None:
        """Keys at once, to whatever has the focus."""
        down = [{"type": "keyDown", "value": key} for key in keys]
        up = [{"type": "keyUp", "value": key} for key in reversed(keys)]
        action = {"type": "key", "id": "keyboard", "actions": down + up}
        await self._call("POST", "/actions", {"actions": [action]})

    async def _find(self, selector: str) -> str:
        found = await self._call("POST", "/element", {"using": "css selector", "value": selector})
        return str(next(iter(found.values())))

    # -- what a person sees --

    async def text(self, selector: str) -> str:
        """As it is seen: what is hidden is not in it."""
        return str(await self._call("GET", f"/element/{await self._find(selector)}/text"))

    async def run(self, script: str, *arguments: object) -> Any:
        """The value that a script returns."""
        fields = {"script": script, "args": list(arguments)}
        return await self._call("POST", "/execute/sync", fields)

    async def until(self, condition: str) -> Any:
        """Waits until an expression of JavaScript holds, and returns its value."""
        fields = {"script": _WAIT % condition, "args": []}
        try:
            return await self._call("POST", "/execute/async", fields)
        except AssertionError as error:
            seen = await self.run("return document.body.innerText")
            raise AssertionError(f"never: {condition}\n{error}\n{seen}") from None

    async def devtools(self, command: str, **parameters: object) -> Any:
        fields = {"cmd": command, "params": parameters}
        return await self._call("POST", "/goog/cdp/execute", fields)

    async def picture(self, whole: bool = False) -> bytes:
        """A PNG of the window, or of the whole page."""
        shot = {"format": "png", "captureBeyondViewport": whole}
        taken = await self.devtools("Page.captureScreenshot", **shot)
        return base64.b64decode(taken["data"])

    async def requests(self) -> Sequence[Asked]:
        """All that the page has asked for so far."""
        for entry in await self._call("POST", "/se/log", {"type": "performance"}):
            message = json.loads(entry["message"])["message"]
            method, fields = message["method"], message["params"]
            if method == "Network.requestWillBeSent":
                request = fields["request"]
                asked = Asked(request["url"], request["method"], json.dumps(request))
                self._asked.append(asked)
            elif method == "Network.requestWillBeSentExtraInfo":
                # What went over the wire, cookies too; the address stands among the headers.
                headers = fields["headers"]
                host = headers.get("Host") or headers.get(":authority") or ""
                self._asked.append(Asked(f"http://{host}/", "", json.dumps(headers)))
        for entry in await self._call("POST", "/se/log", {"type": "browser"}):
            if entry["level"] in ("WARNING", "SEVERE"):
                self.console.append(entry["message"])
        return self._asked


def programs() -> tuple[str, str]:
    """Chromium and its driver; a test that misses them is skipped, or fails in CI."""
    found = shutil.which("chromium"), shutil.which("chromedriver")
    if found[0] is None or found[1] is None:
        absent("Chromium is missing: `apt-get install chromium chromium-driver`")
    assert found[0] is not None and found[1] is not None
    return found[0], found[1]
