"""Takes the pictures of the documentation: `python -m tests.page.shots [--seconds 300]`.

A real relay under steady traffic, upstreams with faults, Debian's Chromium. Writes three files of docs/.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.page.browser import Browser, Chromium
from tests.page.scene import Scene, key_of
from tests.page.visits import READY
from tests.rig.relay_process import ROOT

DOCS = ROOT / "docs"
LARGEST = 200_000
"""Bytes of a picture."""


async def _take(seconds: float, into: Path) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        async with Scene(folder) as scene:
            page = f"http://127.0.0.1:{scene.relay.admin[1]}/"
            await asyncio.sleep(seconds)
            with Chromium(folder) as chromium:
                await _three(chromium, page, into)


async def _three(chromium: Chromium, page: str, into: Path) -> None:
    async with Browser(chromium, size=(1160, 1020)) as browser:
        await _status(browser, page)
        _write(into / "page-status.png", await browser.picture())
        await browser.prefer("dark")
        await browser.resize(1160, 1010)
        await _played(browser, page)
        _write(into / "page-playground.png", await browser.picture())
    async with Browser(chromium, language="zh-CN", size=(360, 800)) as browser:
        await _status(browser, page)
        _write(into / "page-phone.png", await browser.picture())


async def _status(browser: Browser, page: str) -> None:
    await browser.visit(page)
    await browser.until("document.querySelectorAll('.curve svg').length > 3")
    # The day's spending is read once somebody looks.
    await browser.until(
        "document.querySelector('[data-name=spend_today] .hint').textContent === 'UTC'"
    )


async def _played(browser: Browser, page: str) -> None:
    await browser.visit(page + "#playground")
    await browser.type("#key", key_of("research"))
    await browser.until(READY)
    await browser.click("#send")
    served = "document.querySelector('[data-name=served_by] dd')"
    await browser.until(f"{served} && {served}.textContent.length > 1")


def _write(path: Path, picture: bytes) -> None:
    assert len(picture) < LARGEST, f"{path.name} has {len(picture)} bytes"
    path.write_bytes(picture)
    sys.stderr.write(f"{path} ({len(picture):,} bytes)\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.page.shots", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="traffic before the pictures")
    parser.add_argument("--into", type=Path, default=DOCS)
    arguments = parser.parse_args()
    asyncio.run(_take(arguments.seconds, arguments.into))


if __name__ == "__main__":
    main()
