"""The page in Debian's Chromium, on a real relay: what a person sees. Its playground: `test_e2e_playground`."""

from __future__ import annotations

from pathlib import Path

from tests.crew import several
from tests.page.browser import Browser, Chromium
from tests.page.visits import LIVE, PRICED, page, ready_to_send, tile
from tests.rig import KEY, RelayProcess, Upstream, chat, config, scenario
from tests.rig import scripts as say
from tests.rig.upstream_process import UpstreamProcess

MARKUP = "<img/src=x/onerror=alert(1)>"


@scenario
async def test_a_killed_upstream_is_seen_without_a_reload(
    tmp_path: Path, chromium: Chromium
) -> None:
    models = {"m": {"pool": [{"upstream": "alpha"}], "retry": {"attempts": 1}}}
    async with (
        UpstreamProcess() as upstream,
        RelayProcess(config({"alpha": {"base_url": upstream.base_url}}, models), tmp_path) as relay,
        Browser(chromium) as browser,
    ):
        await browser.visit(page(relay))
        await chat(relay.address)
        await browser.until(
            "document.querySelector('#headline').innerText.includes('notice nothing')"
        )
        await browser.until("document.querySelector('.badge[data-state=closed]')")

        upstream.kill()
        for _ in range(6):
            await chat(relay.address)

        await browser.until("document.querySelector('.badge[data-state=open]')")
        await browser.until(
            "document.querySelector('#headline').innerText.includes('Users notice:')"
        )
        await browser.until(
            "document.querySelector('#headline').innerText.includes('alpha is out')"
        )
        seen = await browser.text("#failures")
        assert relay.calls[-1]["request_id"] in await browser.run(
            "return document.body.textContent"
        )
        assert "connect_refused" in seen or "upstream_unreachable" in seen
        await browser.requests()
        assert browser.console == []


@scenario
async def test_the_last_calls_are_folded_and_told_once_they_are_opened(
    tmp_path: Path, chromium: Chromium
) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"alpha": upstream}), tmp_path) as relay,
        Browser(chromium) as browser,
    ):
        await chat(relay.address)
        await browser.visit(page(relay))
        await browser.until(LIVE)
        await browser.until(
            "document.querySelector('#totals [data-name=failed] .hint').textContent === '0 of 1'"
        )
        before = [each.url for each in await browser.requests() if "/events" in each.url]
        await browser.click("#latest-shown summary")
        await browser.until("document.querySelector('#latest .id')")
        await chat(relay.address, key="sk-nobody-0123456789abcdef")

        await browser.until("document.querySelectorAll('#latest .id').length === 2")
        rows = (await browser.text("#latest")).splitlines()
        assert [url.partition("?")[2] for url in before] == [""]
        assert any("answered 200" in row and "alpha" in row for row in rows)
        assert any("client's fault 401" in row for row in rows)
        assert relay.calls[0]["request_id"] in await browser.text("#latest")
        await browser.click("#latest-shown summary")
        await browser.until(LIVE)
        last = [each.url for each in await browser.requests() if "/events" in each.url][-1]
        assert "?" not in last


@scenario
async def test_reloads_and_keys_that_expire_are_on_the_page(
    tmp_path: Path, chromium: Chromium
) -> None:
    gone = {"id": "gone", "key": "sk-gone-0123456789abcdef", "expires": "2020-01-01"}
    async with Upstream() as upstream:
        fields = config({"alpha": upstream}) | {"state": {"path": str(tmp_path / "state")}}
        async with RelayProcess(fields, tmp_path) as relay, Browser(chromium) as browser:
            await browser.visit(page(relay))
            await browser.until(LIVE)
            shown = await browser.run("return document.getElementById('ending').hidden")
            relay.write(fields | {"keys": [*fields["keys"], gone]})
            relay.reload()
            facts = "document.getElementById('facts').innerText"
            await browser.until(f"{facts}.includes('keys +gone')")
            await browser.until("document.getElementById('ends').innerText.includes('gone has')")
            relay.path.write_text("models: 5", "utf-8")
            relay.reload()

            await browser.until(f"{facts}.includes('failed:')")
            said = await browser.text("#headline")
            assert shown
            assert "The last reload failed" in said
            assert "models" in said


@scenario
async def test_it_speaks_the_browsers_language_and_another_on_request(
    tmp_path: Path, chromium: Chromium
) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"alpha": upstream}), tmp_path) as relay,
        Browser(chromium, language="zh-CN") as browser,
    ):
        await browser.visit(page(relay))
        await browser.until(LIVE)
        await browser.until("document.querySelector('#headline').innerText.includes('没有调用')")
        first = await browser.run("return [document.documentElement.lang, document.body.innerText]")
        await browser.click("#language")
        await browser.until("document.querySelector('#headline').innerText.includes('No calls')")
        second = await browser.run(
            "return [document.documentElement.lang, document.body.innerText]"
        )
        await browser.visit(page(relay))
        await browser.until(LIVE)

        assert (first[0], second[0]) == ("zh-CN", "en-GB")
        assert "上游" in first[1]
        assert "上游" not in second[1]
        assert await browser.run("return document.documentElement.lang") == "en-GB"


@scenario
async def test_colours_follow_the_system_until_somebody_chooses(
    tmp_path: Path, chromium: Chromium
) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    async with (
        Upstream() as upstream,
        RelayProcess(config({"alpha": upstream}), tmp_path) as relay,
        Browser(chromium) as browser,
    ):
        await browser.prefer("light")
        await browser.visit(page(relay))
        await browser.until(LIVE)
        light = await browser.run(paper)
        await browser.prefer("dark")
        dark = await browser.run(paper)
        await browser.click("#theme")

        assert light != dark
        assert await browser.run(paper) == light


@scenario
async def test_a_phone_scrolls_in_one_direction_only(tmp_path: Path, chromium: Chromium) -> None:
    keys = [{"id": "a-team-with-a-very-long-name-" + 40 * "x", "key": KEY, "limits": {"rpm": 9}}]
    async with (
        Upstream(say.error(500)) as upstream,
        RelayProcess(config({"alpha-" + 40 * "x": upstream}, None, keys), tmp_path) as relay,
        Browser(chromium, size=(360, 740)) as browser,
    ):
        for _ in range(2):
            await chat(relay.address)
        for view in ("", "#playground"):
            await browser.visit(page(relay, view))
            await browser.until(LIVE)
            await browser.until("document.querySelector('#failures .badge')")

            width = "document.documentElement.scrollWidth"
            wide = "[...document.querySelectorAll('body *')].filter((one) => one.getBoundingClientRect().right > 360)"
            seen = await browser.run(
                f"return [{width}, innerWidth, {wide}.map((one) => one.outerHTML)]"
            )
            assert seen == [360, 360, []]


@scenario
async def test_names_and_reasons_with_markup_stay_text(tmp_path: Path, chromium: Chromium) -> None:
    keys = [{"id": MARKUP, "key": KEY, "limits": {"rpm": 1}}]
    models = {MARKUP: {"pool": [{"upstream": MARKUP}], "retry": {"attempts": 1}}}
    async with (
        Upstream(say.error(500, MARKUP, code=MARKUP)) as upstream,
        RelayProcess(config({MARKUP: upstream}, models, keys), tmp_path) as relay,
        Browser(chromium) as browser,
    ):
        await chat(relay.address, model=MARKUP)
        await chat(relay.address, model=MARKUP + "<script>")
        await browser.visit(page(relay))
        await browser.until("document.querySelector('#failures .badge')")

        for where in ("#failures", "#upstreams", "#keys", "#headline"):
            assert MARKUP in await browser.text(where)
        assert await browser.run("return document.querySelectorAll('img, main script').length") == 0


@scenario
async def test_the_token_of_the_admin_port_opens_page_and_events(
    tmp_path: Path, chromium: Chromium
) -> None:
    admin = {"token": "admin-token-0123456789"}
    async with (
        Upstream() as upstream,
        RelayProcess(config({"alpha": upstream}, admin=admin), tmp_path) as relay,
        Browser(chromium) as browser,
    ):
        await browser.visit(page(relay))
        closed = await browser.run("return document.getElementById('feed')")
        await browser.visit(page(relay).replace("//", "//admin:admin-token-0123456789@"))

        assert closed is None
        await browser.until(LIVE)


@scenario
async def test_the_page_of_several_workers_shows_all_of_them(
    tmp_path: Path, chromium: Chromium
) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(several(2, config({"alpha": upstream}, PRICED)), tmp_path) as relay,
        Browser(chromium) as browser,
    ):
        for _ in range(8):
            await chat(relay.address)
        await ready_to_send(browser, relay)
        await browser.click("#send")

        await browser.until(f"{tile('served_by')} === 'alpha'")
        await browser.visit(page(relay))
        await browser.until(
            "document.querySelector('#totals [data-name=failed] .hint').textContent === '0 of 9'"
        )
