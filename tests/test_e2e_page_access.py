"""The page for who cannot see it, or not well: what axe-core can judge, in every guise of the page."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from tests.page.axe import violations
from tests.page.browser import Browser, Chromium
from tests.page.visits import LIVE, READY
from tests.rig import KEY, RelayProcess, Upstream, chat, config, scenario
from tests.rig import scripts as say
from tests.rig.relay_process import Fields

SIZES = ((1280, 900), (360, 740))
GUISES = list(product(("status", "playground"), ("light", "dark"), SIZES))


async def unfolded(browser: Browser) -> None:
    await browser.run("for (const each of document.querySelectorAll('details')) each.open = true")


async def filled(browser: Browser, url: str) -> None:
    """Both views have something of everything, and nothing is folded."""
    await browser.visit(url + "#playground")
    await browser.until(LIVE)
    await unfolded(browser)
    await browser.type("#key", KEY)
    await browser.until(READY)
    await browser.click("#send")
    await browser.until("document.getElementById('raw').innerText.includes('[DONE]')")
    await browser.until("document.querySelector('#failures .badge')")
    await browser.until("document.querySelectorAll('#latest .id').length > 5")
    await browser.until("document.querySelectorAll('.curve svg').length === 2")


@pytest.mark.parametrize("language", ["en-GB", "zh-CN"])
@scenario
async def test_axe_finds_nothing_in_any_guise(
    tmp_path: Path, chromium: Chromium, language: str
) -> None:
    keys: list[Fields] = [
        {"id": "tester", "key": KEY, "limits": {"rpm": 12, "concurrent": 9}},
        {"id": "poor", "key": "sk-poor-0123456789abcdef", "limits": {"rpm": 2}},
        {"id": "gone", "key": "sk-gone-0123456789abcdef", "expires": "2020-01-01"},
    ]
    models: dict[str, Fields] = {
        "m": {"pool": [{"upstream": "good"}]},
        "worse": {"pool": [{"upstream": "bad"}], "retry": {"attempts": 1}},
    }
    async with (
        Upstream() as good,
        Upstream(say.error(500)) as bad,
        RelayProcess(
            config(
                {"good": {"base_url": good.base_url, "max_concurrent": 4}, "bad": bad}, models, keys
            ),
            tmp_path,
        ) as relay,
        Browser(chromium, language) as browser,
    ):
        for key in (KEY, "sk-poor-0123456789abcdef"):
            for model in ("m", "worse", "worse"):
                await chat(relay.address, key=key, model=model)
        await filled(browser, "http://{}:{}/".format(*relay.admin))

        found = {}
        for view, colours, size in GUISES:
            await browser.prefer(colours)
            await browser.resize(*size)
            await browser.run("location.hash = arguments[0]", view)
            await browser.until(f"!document.getElementById('{view}').hidden")
            found[view, colours, size] = await violations(browser)
        await browser.run(
            "document.getElementById('send').textContent = '';"
            "document.getElementById('to').style.color = '#555'"
        )
        spoken = await browser.run("return document.documentElement.lang")
        spoilt = await violations(browser)

        assert spoken == language
        assert {guise: broken for guise, broken in found.items() if broken} == {}
        assert {each.partition(":")[0] for each in spoilt} == {"button-name", "color-contrast"}
