"""The page and its playground behind Debian's nginx, in Debian's Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay import banner
from tests.authority import Authority
from tests.crew import several
from tests.page.browser import Browser, Chromium
from tests.page.visits import READY, SAID
from tests.rig import KEY, RelayProcess, Upstream, config, get, scenario
from tests.rig import scripts as say
from tests.rig.nginx import Nginx
from tests.rig.relay_process import Fields


def public(fields: Fields, url: str) -> Fields:
    return {**fields, "server": fields["server"] | {"public_url": url}}


async def reloaded(relay: RelayProcess, fields: Fields, number: int = 0) -> None:
    relay.write({"state": {"path": str(relay.path.parent / "state")}} | fields)
    relay.reload()
    await relay.nth_log(number, lambda line: line.get("event") == "reloaded")


@pytest.mark.parametrize("workers", [1, 2])
@scenario
async def test_the_playground_calls_the_public_address_through_nginx(
    tmp_path: Path, chromium: Chromium, workers: int
) -> None:
    async with Upstream() as upstream:
        fields = several(workers, config({"alpha": upstream}))
        async with (
            RelayProcess(fields, tmp_path) as relay,
            Nginx(relay.address, tmp_path / "api") as api,
            Nginx(relay.admin, tmp_path / "page") as page,
            Browser(chromium) as browser,
        ):
            origin = "http://{}:{}".format(*api.address)
            await reloaded(relay, public(fields, origin))
            await browser.visit("http://{}:{}/#playground".format(*page.address))
            await browser.type("#key", KEY)
            await browser.until(READY)
            await browser.click("#send")

            await browser.until(f"{SAID} === 'Done.'")
            served = "document.querySelector('#measures [data-name=served_by] dd').textContent"
            await browser.until(f"{served} === 'alpha'")
            assert await browser.text("#answer") == say.TEXT
            assert await browser.text("#to") == f"Calls go to {origin}"
            assert f"curl -N {origin}/v1/chat/completions" in await browser.text("#program")
            places = {each.url.split("/")[2] for each in await browser.requests()}
            assert places == {"{}:{}".format(*each.address) for each in (api, page)}
            assert browser.console == []


@scenario
async def test_without_a_public_address_the_page_behind_a_proxy_calls_the_port_beside(
    tmp_path: Path, chromium: Chromium
) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"alpha": upstream}), tmp_path) as relay,
        Nginx(relay.admin, tmp_path / "page") as page,
        Browser(chromium) as browser,
    ):
        await browser.visit("http://{}:{}/#playground".format(*page.address))
        await browser.type("#key", KEY)
        await browser.until(READY)
        await browser.click("#send")

        await browser.until(f"{SAID} === 'Done.'")
        assert await browser.text("#to") == "Calls go to http://{}:{}".format(*relay.address)


@scenario
async def test_a_page_is_told_that_its_address_of_the_api_is_an_old_one(
    tmp_path: Path, chromium: Chromium
) -> None:
    async with Upstream() as upstream:
        fields = config({"alpha": upstream})
        async with (
            RelayProcess(fields, tmp_path) as relay,
            Nginx(relay.address, tmp_path / "api") as api,
            Browser(chromium) as browser,
        ):
            await browser.visit("http://{}:{}/#playground".format(*relay.admin))
            await browser.type("#key", KEY)
            await browser.until(READY)
            origin = "http://{}:{}".format(*api.address)
            await reloaded(relay, public(fields, origin))

            await browser.until(f"{SAID}.startsWith('The API is now at {origin}. Load this page')")
            assert await browser.run("return document.getElementById('send').disabled")
            await browser.visit("about:blank")
            await browser.visit("http://{}:{}/#playground".format(*relay.admin))
            await browser.type("#key", KEY)
            await browser.until(READY)
            await browser.requests()
            assert browser.console == []


@scenario
async def test_what_a_browser_forbids_a_page_of_https_is_told_in_words(
    tmp_path: Path, chromium: Chromium
) -> None:
    authority = Authority(tmp_path / "tls")
    authority.serving("DNS:relay.test")
    (tmp_path / "tls" / "certificate").rename(tmp_path / "tls" / "fullchain.pem")
    (tmp_path / "tls" / "key").rename(tmp_path / "tls" / "privkey.pem")
    async with Upstream() as upstream:
        fields = config({"alpha": upstream})
        async with (
            RelayProcess(fields, tmp_path) as relay,
            Nginx(relay.admin, tmp_path / "page", tls=tmp_path / "tls") as page,
            Nginx(relay.address, tmp_path / "api", tls=tmp_path / "tls") as api,
            Browser(chromium) as browser,
        ):
            said = []
            told = ("This page came by https", "may not call http://relay.test", "Done.")
            urls = (
                None,
                f"http://relay.test:{api.address[1]}",
                f"https://relay.test:{api.tls_port}",
            )
            for number, (url, words) in enumerate(zip(urls, told, strict=True)):
                if url is not None:
                    await reloaded(relay, public(fields, url), number - 1)
                await browser.visit("about:blank")
                await browser.visit(f"https://relay.test:{page.tls_port}/#playground")
                await browser.type("#key", KEY)
                if words == "Done.":
                    await browser.until(READY)
                    await browser.click("#send")
                await browser.until(f"{SAID}.includes('{words}')")
                said.append(await browser.text("#said"))

            assert "server.public_url tells it where" in said[0]
            assert "has to begin with https" in said[1]
            assert await browser.text("#answer") == say.TEXT


@scenario
async def test_the_start_names_the_public_address_and_reloads_follow_it(tmp_path: Path) -> None:
    fields = config({}, {})
    url = "https://relay.example.com/team"
    async with RelayProcess(public(fields, url), tmp_path) as relay:
        first = await get(relay.admin, "/", key=None)
        status = await get(relay.admin, "/status.json", key=None)
        await reloaded(relay, fields)
        second = await get(relay.admin, "/", key=None)

        assert relay.ready["public_url"] == status.json()["public_url"] == url
        assert b'<meta name="public-url" content="%b">' % url.encode() in first.body
        assert b'<meta name="public-url" content="">' in second.body
        policies = [each.headers["content-security-policy"] for each in (first, second)]
        assert "connect-src 'self' https://relay.example.com; base-uri" in policies[0]
        port = relay.address[1]
        assert (
            f"connect-src 'self' http://relay.test:{port} https://relay.test:{port};" in policies[1]
        )


def test_the_start_for_people_names_both_addresses_and_the_demo_calls_the_near_one() -> None:
    told = banner.welcome(
        {
            **{"listen": "0.0.0.0:8080", "admin": "127.0.0.1:8081", "version": "1", "config": "c"},
            **{"public_url": "https://relay.example.com", "demo_key": "sk-demo"},
            **{"demo_models": ["m"], "curl": banner.curl("0.0.0.0:8080", "sk-demo", "m")},
        }
    )

    assert "API         https://relay.example.com/v1   (here: http://127.0.0.1:8080/v1)" in told
    assert "curl -N http://127.0.0.1:8080/v1/chat/completions" in told
