"""Where the page is, when it may be used, and how its playground is made ready."""

from __future__ import annotations

from tests.page.browser import Browser
from tests.rig import KEY, RelayProcess

PRICED = {"m": {"pool": [{"upstream": "alpha"}], "price": {"input": 1000, "output": 2000}}}
LIVE = "document.getElementById('feed').dataset.state === 'live'"
SAID = "document.getElementById('said').textContent"
"""What the playground says of its call."""
READY = "!document.getElementById('send').disabled"


def page(relay: RelayProcess, view: str = "") -> str:
    return f"http://127.0.0.1:{relay.admin[1]}/{view}"


def tile(name: str) -> str:
    """The value of one of the playground's tiles."""
    return f"document.querySelector('#measures [data-name={name}] dd').textContent"


async def ready_to_send(browser: Browser, relay: RelayProcess) -> None:
    await browser.visit(page(relay, "#playground"))
    await browser.type("#key", KEY)
    await browser.until(READY)
