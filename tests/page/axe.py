"""What axe-core says of a page: the rules of WCAG that a program can judge, by npm's package of that name."""

from __future__ import annotations

from functools import cache
from typing import Final

from tests.page.browser import Browser
from tests.rig.sdks import PACKAGES, require

SCRIPT: Final = PACKAGES / "axe-core" / "axe.min.js"

_JUDGE = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ["violations"]}).then((found) => done(
  found.violations.flatMap((rule) => rule.nodes.map(
    (node) => rule.id + ": " + node.html + " " + node.failureSummary)),
), (error) => done([String(error)]));
"""


@cache
def script() -> str:
    require(SCRIPT)
    return SCRIPT.read_text("utf-8")


async def violations(browser: Browser) -> list[str]:
    """What breaks a rule, each with the rule's name. What a person would have to look at is not among it."""
    if not await browser.run("return 'axe' in window"):
        await browser.run(script())
    found: list[str] = await browser.later(_JUDGE)
    return found
