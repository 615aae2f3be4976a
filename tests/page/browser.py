"""Debian's Chromium, driven by its own ChromeDriver over the WebDriver protocol: plain HTTP, no library.

The packages `chromium` and `chromium-driver` come from the same build, so that they fit each other. Everything the page
asked for, and everything it wrote on its console, can be read afterwards.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
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
    "--host-resolver-rules=MAP relay.test 127.0.0.1",
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


class Chromium:
    """The program, started once for several tests. `driver` is the address of its only session."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.driver = ""

    def __enter__(self) -> Self:
        chromium, driver = programs()
        self._process = subprocess.Popen(
            (driver, "--port=0"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "HOME": str(self._directory)},
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if started := _STARTED.search(line):
                address = f"http://127.0.0.1:{int(started[1])}/session"
                break
        else:
            raise AssertionError("ChromeDriver did not start")
        made = self._ask("POST", address, self._wishes(chromium))
        self.driver = f"{address}/{made['sessionId']}"
        return self

    def _ask(self, method: str, address: str, fields: dict[str, Any] | None = None) -> Any:
        """Outside of any loop: the program outlives the loops of the tests."""
        head, _, path = address.removeprefix("http://").partition("/")
        connection = http.client.HTTPConnection(head, timeout=6 * WAIT)
        with contextlib.closing(connection):
            body = None if fields is None else json.dumps(fields)
            connection.request(method, "/" + path, body, {"Content-Type": "application/json"})
            return json.load(connection.getresponse())["value"]

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        if self.driver:
            self._ask("DELETE", self.driver)
        self._process.terminate()
        self._process.communicate()

    def _wishes(self, chromium: str) -> dict[str, Any]:
        arguments = [*ARGUMENTS, f"--user-data-dir={self._directory / 'profile'}"]
        if os.getuid() == 0:
            arguments.append("--no-sandbox")
        options = {
            "binary": chromium,
            "args": arguments,
            "perfLoggingPrefs": {"enableNetwork": True},
        }
        wishes = {
            "browserName": "chrome",
            "acceptInsecureCerts": True,
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
            "timeouts": {"script": int(2 * WAIT * 1000)},
        }
        return {"capabilities": {"alwaysMatch": wishes}}


class Browser:
    """Chromium's window as one test uses it. A relay has a port of its own, and with it all that a browser keeps."""

    def __init__(
        self, chromium: Chromium, language: str = "en-US", size: tuple[int, int] = (1280, 900)
    ) -> None:
        self._driver = chromium.driver
        self._language = language
        self._size = size
        self._http = aiohttp.ClientSession()
        self._asked: list[Asked] = []
        self.console: list[str] = []
        """What stood there with a level of warning or worse, as of the last `requests`."""

    async def __aenter__(self) -> Self:
        await self.resize(*self._size)
        agent = await self.run("return navigator.userAgent")
        await self.devtools(
            "Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=self._language
        )
        await self.prefer("light")
        await self.visit("about:blank")
        # What the last test left behind, and Chromium's own first page, are none of this one's.
        await self.requests()
        self._asked, self.console = [], []
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.visit("about:blank")
        await self._http.close()

    async def _call(self, method: str, path: str, fields: dict[str, Any] | None = None) -> Any:
        body = None if method != "POST" else (fields or {})
        url = self._driver + path
        async with within(4 * WAIT), self._http.request(method, url, json=body) as answer:
            value = (await answer.json(content_type=None))["value"]
        assert answer.status == 200, f"{method} {path}: {value['error']}: {value['message']}"
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

    async def later(self, script: str) -> Any:
        """The value that a script hands to the function that is its last argument."""
        return await self._call("POST", "/execute/async", {"script": script, "args": []})

    async def until(self, condition: str) -> Any:
        """Waits until an expression of JavaScript holds, and returns its value."""
        try:
            return await self.later(_WAIT % condition)
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
